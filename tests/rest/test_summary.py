"""$summary over HTTP, on both databases: what is in it, and that nothing known is never said to be nothing there."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from fhir_secondop.access import rights
from fhir_secondop.fhir import codec
from fhir_secondop.model import Caller
from fhir_secondop.opinion import ips
from fhir_secondop.rest import summary
from fhir_secondop.store import tables
from fhir_secondop.store.database import Database
from tests.rest.served import client_of
from tests.rest.test_documents import asked, limited, reasons
from tests.store.rows import BASE, DESK, named, put

TERMS = "http://terminology.hl7.org/CodeSystem"
P1 = {"reference": "Patient/p1"}
NEEDED = ("Patient", "Condition", "AllergyIntolerance", "MedicationStatement", "MedicationRequest", "Immunization",
          "Medication", "Procedure", "Observation", "DiagnosticReport")  # fmt: skip
CALLERS = {
    "desk": Caller("desk", "Desk", frozenset({"coordinator"}), ("system/*.rs",)),
    "just": Caller("just", "Just", frozenset({"coordinator"}), tuple(f"system/{kind}.rs" for kind in NEEDED)),
    "guest": Caller("guest", "Guest", frozenset({"reviewer"}), ("system/*.rs",)),
    **{f"no-{kind}": Caller(kind, kind, frozenset({"coordinator"}),
                            tuple(f"system/{other}.rs" for other in NEEDED if other != kind)) for kind in NEEDED},
    "laboratory": Caller("l", "L", frozenset({"coordinator"}), (
        "system/Condition.rs?category=x", *(f"system/{kind}.rs" for kind in NEEDED if kind != "Condition"))),
}  # fmt: skip


def status(kind: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": f"{TERMS}/{kind}", "code": code}]}


def condition(name: str, **more: Any) -> tuple[str, dict[str, Any]]:
    return name, {"code": {"text": f"Problem {name}"}, "subject": P1, **more}


def result(name: str, code: str, category: str, date: str | None, **more: Any) -> tuple[str, dict[str, Any]]:
    coded = {"coding": [{"system": "http://loinc.org", "code": code}]}
    return name, {
        "status": "final", "subject": P1, "code": coded, "category": [status("observation-category", category)],
        **({"effectiveDateTime": date} if date else {}), **more,
    }  # fmt: skip


RECORD: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "Patient": [("p1", {"name": [{"family": "Sampleton"}], "birthDate": "1970",
                        "identifier": [{"system": "urn:x", "value": "1"}]}),
                ("bare", {"identifier": [{"system": "urn:x", "value": "2"}]}),
                ("p3", {"identifier": [{"system": "urn:x", "value": "3"}]}),
                ("p4", {"identifier": [{"system": "urn:x", "value": "3"}]})],
    "Condition": [
        condition("now", clinicalStatus=status("condition-clinical", "active"), onsetDateTime="2020-01-02"),
        condition("unsaid", category=[{"coding": [{"system": f"{TERMS}/condition-category",
                                                   "code": "encounter-diagnosis"}]}]),
        condition("past", clinicalStatus=status("condition-clinical", "resolved")),
        ("nameless", {"subject": P1, "clinicalStatus": status("condition-clinical", "active")}),
        condition("never", verificationStatus=status("condition-ver-status", "refuted"),
                  clinicalStatus=status("condition-clinical", "active")),
        condition("theirs", subject={"reference": "Patient/p3"}),
    ],
    "AllergyIntolerance": [
        ("a1", {"code": {"text": "Latex <b>"}, "patient": P1,
                "clinicalStatus": status("allergyintolerance-clinical", "active")}),
    ],
    "Medication": [("m1", {"code": {"text": "Letrozole"}}), ("m2", {"code": {"text": "Never shown"}})],
    "MedicationStatement": [
        ("s1", {"status": "active", "subject": P1, "medicationReference": {"reference": "Medication/m1"}}),
        ("s2", {"status": "stopped", "subject": P1, "medicationReference": {"reference": "Medication/m2"}}),
        ("s3", {"status": "active", "subject": P1, "medicationReference": {"reference": "Medication/none"}}),
    ],
    "Procedure": [
        ("done", {"status": "completed", "subject": P1, "code": {"text": "Lumpectomy"},
                  "performedPeriod": {"start": "2024-03-01"}}),
        ("stopped", {"status": "stopped", "subject": P1}),
        ("not", {"status": "not-done", "subject": P1, "code": {"text": "Never shown"}}),
    ],
    "Observation": [
        result("hb-old", "718-7", "laboratory", "2023-01-01", valueQuantity={"value": 9.1, "unit": "g/dL"}),
        result("hb", "718-7", "laboratory", "2024-01-01", valueQuantity={"value": 12.1, "unit": "g/dL"}),
        result("er", "16112-5", "laboratory", "2024-01-02", valueCodeableConcept={"text": "positive"}),
        result("ct", "x-1", "imaging", None, valueString="No <metastases>"),
        result("wrong", "x-2", "laboratory", "2024-01-02", status="entered-in-error"),
        result("draft", "x-3", "laboratory", "2024-01-02", status="preliminary"),
        result("smoking", "72166-2", "social-history", "2024-01-02"),
        result("bp", "85354-9", "vital-signs", "2024-01-03", component=[
            {"code": {"text": "systolic"}, "valueQuantity": {"value": 140, "unit": "mmHg"}},
            {"code": {"text": "diastolic"}, "valueQuantity": {"value": 90, "code": "mm[Hg]", "system": "http://unitsofmeasure.org"}}]),
        result("theirs", "x-4", "laboratory", "2024-01-02", subject={"reference": "Patient/p3"}, performer=[P1]),
    ],
    "DiagnosticReport": [
        ("path", {"status": "final", "subject": P1, "code": {"text": "Pathology"}, "effectiveDateTime": "2024-02-01",
                  "conclusion": "Grade 2"}),
        ("path-old", {"status": "amended", "subject": P1, "code": {"text": "Pathology"}}),
        ("partial", {"status": "partial", "subject": P1, "code": {"text": "Never shown"}}),
    ],
    "MedicationRequest": [
        ("r1", {"status": "active", "intent": "order", "subject": P1,
                "medicationCodeableConcept": {"text": "Calcium"}}),
        ("r2", {"status": "active", "intent": "order", "subject": P1, "doNotPerform": True,
                "medicationCodeableConcept": {"text": "Estrogen"}}),
        ("r3", {"status": "completed", "intent": "order", "subject": P1,
                "medicationCodeableConcept": {"text": "Amoxicillin"}}),
    ],
}  # fmt: skip


@pytest.fixture
def client(database: Database) -> Any:
    for kind, rows in RECORD.items():
        named(database, kind, rows)

    def authenticate(request: Any) -> Caller:
        return CALLERS[request.headers.get("As", "desk")]

    offered = frozenset({"summary"})
    return client_of(database, authenticate, published=offered, xml=True, restrictions=rights.restrictions)


def sections(document: dict[str, Any]) -> dict[str, list[str]]:
    """LOINC code of each section → what its entries are: "Type/id" of ours, a code of what was made for it."""
    by_url = {entry["fullUrl"]: entry["resource"] for entry in document["entry"]}
    found = {}
    for section in document["entry"][0]["resource"]["section"]:
        resources = [(each["reference"], by_url[each["reference"]]) for each in section.get("entry", [])]
        found[section["code"]["coding"][0]["code"]] = [
            url.removeprefix(f"{BASE}/") if url.startswith(BASE) else next(ips._codes(_concept(each)))
            for url, each in resources
        ]
    return found


def _concept(resource: dict[str, Any]) -> dict[str, Any]:
    return resource.get("code") or resource["medicationCodeableConcept"]


def narrative(document: dict[str, Any], code: str) -> str:
    for section in document["entry"][0]["resource"]["section"]:
        if section["code"]["coding"][0]["code"] == code:
            return str(section["text"]["div"])
    raise AssertionError(code)


NOTHING = {"11450-4": ["no-problem-info"], "48765-2": ["no-allergy-info"], "10160-0": ["no-medication-info"],
           "47519-4": ["no-procedure-info"], "8716-3": []}  # fmt: skip


def test_each_section_holds_what_is_stored_of_it(client: Any) -> None:
    document, _ = asked(client, "Patient/p1/$summary")
    assert sections(document) == {
        "11450-4": ["Condition/now", "Condition/unsaid", "Condition/nameless"],
        "48765-2": ["AllergyIntolerance/a1"],
        "10160-0": ["MedicationStatement/s1", "MedicationStatement/s3", "MedicationRequest/r1"],
        "47519-4": ["Procedure/done", "Procedure/stopped"],
        "30954-2": ["Observation/er", "Observation/hb", "Observation/ct", "DiagnosticReport/path",
                    "DiagnosticReport/path-old"],
        "8716-3": ["Observation/bp"],
        "11348-0": ["Condition/past"],
    }  # fmt: skip
    held = [entry["fullUrl"] for entry in document["entry"]]
    assert f"{BASE}/Medication/m1" in held
    assert f"{BASE}/Medication/m2" not in held
    assert "Problem now, 2020-01-02, active" in narrative(document, "11450-4")
    assert "Latex &lt;b&gt;, active" in narrative(document, "48765-2")
    assert "<li>Letrozole, active</li><li>something whose name is not here, active</li>" in narrative(
        document, "10160-0"
    )
    assert "Lumpectomy, 2024-03-01, completed" in narrative(document, "47519-4")
    results = narrative(document, "30954-2")
    assert "http://loinc.org 718-7, 12.1 g/dL, 2024-01-01, final" in results
    assert "positive, 2024-01-02" in results
    assert "No &lt;metastases&gt;, final" in results
    assert "Pathology, Grade 2, 2024-02-01, final" in results
    assert "More is stored, and older" in results, "an older value of the same code"
    assert "systolic 140 mmHg; diastolic 90 mm[Hg], 2024-01-03" in narrative(document, "8716-3")
    assert "More is stored" not in narrative(document, "8716-3")
    text = codec.dumps(document)
    assert "no-known" not in text
    assert "Never shown" not in text
    assert asked(client, "Patient/p1/$summary", body={"resourceType": "Parameters"})[0]["type"] == "document"
    assert sections(asked(client, "Patient/p1/$summary", As="just")[0]) == sections(document)


def test_what_nobody_has_said_is_no_information(client: Any) -> None:
    document, _ = asked(client, "Patient/bare/$summary")
    assert sections(document) == NOTHING
    assert "There is no information here about allergies." in narrative(document, "48765-2")
    assert "There is no information here about vital signs." in narrative(document, "8716-3")
    assert "no-known" not in codec.dumps(document)
    [patient] = [e["resource"] for e in document["entry"] if e["resource"]["resourceType"] == "Patient"]
    unknown = {"extension": [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason",
                              "valueCode": "unknown"}]}  # fmt: skip
    assert (patient["name"], patient["_birthDate"]) == ([{"_text": unknown}], unknown)


def test_what_ips_demands_and_is_not_there_is_unknown(client: Any) -> None:
    document, _ = asked(client, "Patient/p1/$summary")
    by_id = {entry["resource"].get("id"): entry["resource"] for entry in document["entry"]}
    assert by_id["nameless"]["code"]["extension"][0]["valueCode"] == "unknown"
    assert "clinicalStatus" not in by_id["unsaid"], "R4 has no code for unknown, and it is not for us to choose another"
    assert "Problem unsaid, of which nobody says whether it goes on" in narrative(document, "11450-4")
    assert by_id["stopped"]["code"]["extension"][0]["valueCode"] == "unknown"
    assert by_id["stopped"]["_performedDateTime"]["extension"][0]["valueCode"] == "unknown"
    assert by_id["ct"]["_effectiveDateTime"]["extension"][0]["valueCode"] == "unknown"
    assert by_id["s1"]["effectivePeriod"]["extension"][0]["valueCode"] == "unknown"


@pytest.mark.parametrize("kind", NEEDED)
def test_without_one_of_the_scopes_there_is_none(client: Any, kind: str) -> None:
    told, _ = asked(client, "Patient/p1/$summary", 403, As=f"no-{kind}")
    assert kind in reasons(told)[0][1]


def test_a_scope_on_some_of_a_type_is_not_enough(client: Any) -> None:
    told, _ = asked(client, "Patient/p1/$summary", 403, As="laboratory")
    assert "Condition.s" in reasons(told)[0][1]


def test_it_is_made_of_what_the_caller_sees(client: Any, database: Database) -> None:
    guest = CALLERS["guest"]
    put(database, {"resourceType": "Patient"}, resource_id="own", caller=guest)
    about = {"resourceType": "Condition", "code": {"text": "x"}, "subject": {"reference": "Patient/own"}}
    put(database, about, resource_id="mine", caller=guest)
    put(database, about, resource_id="not-mine")
    assert sections(asked(client, "Patient/own/$summary", As="guest")[0])["11450-4"] == ["Condition/mine"]
    with database.transaction(DESK) as tx:
        moved = sa.update(tables.resource).where(tables.resource.c.id == "mine").values(case_id="of-others")
        tx.connection.execute(moved)
    assert sections(asked(client, "Patient/own/$summary", As="guest")[0]) == NOTHING
    asked(client, "Patient/p1/$summary", 404, As="guest")


def test_a_patient_is_named_by_its_identifier_too(client: Any) -> None:
    assert sections(asked(client, "Patient/$summary?identifier=urn:x|2")[0]) == NOTHING
    named_so = {"resourceType": "Parameters", "parameter": [
        {"name": "identifier", "valueIdentifier": {"system": "urn:x", "value": "2"}}]}  # fmt: skip
    assert sections(asked(client, "Patient/$summary", body=named_so)[0]) == NOTHING
    asked(client, "Patient/$summary?identifier=urn:x|9", 404)
    assert reasons(asked(client, "Patient/$summary?identifier=urn:x|3", 422)[0])[0][0] == "multiple-matches"
    asked(client, "Patient/$summary?identifier=urn:x|2", 404, As="guest")
    for query, code in (("", 422), ("?identifier=", 422), ("?_type=Condition", 422)):
        asked(client, f"Patient/$summary{query}", code)


def test_it_is_made_by_the_profile_of_ips_alone(client: Any) -> None:
    for profile, code in ((ips.PROFILE, 200), (f"{ips.PROFILE}|1.1.0", 200), ("http://x.example/p", 400)):
        asked(client, f"Patient/p1/$summary?profile={profile}", code)
    asked(client, "Patient/p1/$summary?graph=x", 422)
    asked(client, "Patient/none/$summary", 404)


def test_more_than_can_be_looked_at_is_refused(client: Any) -> None:
    [(code, said)] = reasons(asked(limited(client, max_document=14), "Patient/p1/$summary", 422)[0])
    assert code == "too-costly"
    assert "max_document" in said
    asked(limited(client, max_document=15), "Patient/p1/$summary")


def test_of_many_results_the_newest_are_in_it_and_that_there_are_more_is_said(client: Any, database: Database) -> None:
    about = {"subject": {"reference": "Patient/bare"}}
    named(database, "Observation", [
        result(f"v{n}", f"v-{n}", "vital-signs", f"20{n % 90 + 10}-01-{n // 90 + 1:02}", **about) for n in range(105)
    ])  # fmt: skip
    document, _ = asked(client, "Patient/bare/$summary")
    shown = sections(document)["8716-3"]
    assert len(shown) == len(set(shown)) == summary.NEWEST_OF
    left = {f"Observation/v{n}" for n in range(105)} - set(shown)
    assert left == {"Observation/v0", "Observation/v1", "Observation/v90", "Observation/v91", "Observation/v2"}
    assert "More is stored, and older: it is not in this summary." in narrative(document, "8716-3")
    assert sections(document).keys() == NOTHING.keys()
