"""Checklists: exactly the gaps that are there, each with its reason; files that are wrong say where."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import cases
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_secondop.errors import Invalid, NotFound
from fhir_secondop.model import Answer, Resource
from fhir_secondop.opinion import checklist, standing
from fhir_secondop.opinion.case import reference
from fhir_secondop.opinion.conditions import Condition, Seen, meets

TODAY = "2026-11-23"
FRESH = "2026-06-01"
OLD = "2025-06-01"
LISTS = {name: checklist.load(name) for name in ("generic", "breast", "spine")}
TUMOUR: Resource = {"resourceType": "Condition", "id": "t", "code": {"text": "Adenocarcinoma of the colon"}}
BREAST: Resource = {"resourceType": "Condition", "id": "b", "code": {"text": "Invasive ductal carcinoma"}}
FUSION: Resource = {"resourceType": "CarePlan", "id": "f", "description": "Lumbar fusion L4-L5"}
KNEE: Resource = {"resourceType": "Condition", "id": "k", "code": {"text": "Arthrosis of the knee"}}


def coded(kind: str, resource_id: str, text: str = "", code: str = "", **more: Any) -> Resource:
    element = "type" if kind == "DocumentReference" else "code"
    system, _, value = code.partition("|")
    concept = {"coding": [{"system": system, "code": value}]} if code else {}
    return {"resourceType": kind, "id": resource_id, element: {**concept, **({"text": text} if text else {})}, **more}


def report(resource_id: str, text: str = "", code: str = "", date: str = FRESH, **more: Any) -> Resource:
    return coded("DiagnosticReport", resource_id, text, code, effectiveDateTime=date, **more)


def categorised(kind: str, resource_id: str, system: str, code: str) -> Resource:
    return {"resourceType": kind, "id": resource_id, "category": [{"coding": [{"system": system, "code": code}]}]}


OBSERVATION_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
IPS = "http://hl7.org/fhir/uv/ips/CodeSystem/absent-unknown-uv-ips"
V2 = "http://terminology.hl7.org/CodeSystem/v2-0074"
COMMON: dict[str, Resource] = {
    "problems": {"resourceType": "Condition", "id": "1"},
    "medications": {"resourceType": "MedicationStatement", "id": "1", "status": "active"},
    "allergies": {"resourceType": "AllergyIntolerance", "id": "1"},
    "plan": {"resourceType": "CarePlan", "id": "1", "status": "active", "title": "Treatment plan"},
}
# One resource for each item of a checklist, and of no other item of it.
GOLDEN: dict[str, dict[str, Resource]] = {
    "generic": {
        **COMMON,
        "laboratory": categorised("Observation", "1", OBSERVATION_CATEGORY, "laboratory"),
        "pathology-report": categorised("DiagnosticReport", "p", V2, "SP"),
        "imaging-report": categorised("DiagnosticReport", "i", V2, "RAD"),
        "images": {"resourceType": "ImagingStudy", "id": "1"},
        "notes": {"resourceType": "DocumentReference", "id": "1"},
    },
    "breast": {
        **COMMON,
        "pathology-report": report("p", code="http://loinc.org|11529-5"),
        "estrogen-receptor": coded("Observation", "e", code="http://loinc.org|85337-4"),
        "progesterone-receptor": coded("Observation", "r", code="http://loinc.org|85339-0"),
        "her2": coded("Observation", "h", "HER-2 by FISH"),
        "staging": coded("Observation", "s", code="http://loinc.org|21908-9"),
        "mammography-report": report("m", code="http://loinc.org|24606-6"),
        "breast-ultrasound-or-mri-report": report("u", "US left breast"),
        "images": {"resourceType": "ImagingStudy", "id": "1", "started": FRESH, "description": "Mammo both breasts"},
        "operative-report": coded("DocumentReference", "o", "Operative report", date=FRESH),
        "genetics": report("g", "BRCA1 and BRCA2"),
    },
    "spine": {
        **COMMON,
        "spine-mri-report": report("m", code="http://loinc.org|30679-5"),
        "images": {"resourceType": "ImagingStudy", "id": "1", "started": FRESH, "description": "Lumbar MRI"},
        "flexion-extension-report": report("x", "XR L-spine flexion and extension"),
        "conservative-treatment": coded("DocumentReference", "c", "Physical therapy note", date=FRESH),
        "neurological-examination": coded("DocumentReference", "n", code="http://loinc.org|34797-1", date=FRESH),
        "operative-report": coded("DocumentReference", "o", code="http://loinc.org|34868-0", date=FRESH),
        "bone-density": report("d", "DXA"),
    },
}
# What makes every item needed: of what is under review, and in the record.
REVIEWED = {"generic": TUMOUR, "breast": BREAST, "spine": FUSION}
SIGNS: dict[str, list[Resource]] = {
    "generic": [],
    "breast": [
        coded("Procedure", "sign", "Lumpectomy, left"),
        {"resourceType": "FamilyMemberHistory", "id": "sign", "condition": [{"code": {"text": "Ovarian cancer"}}]},
    ],
    "spine": [coded("Procedure", "sign", "Laminectomy L3-L4")],
}
EACH = [(name, code) for name, golden in GOLDEN.items() for code in golden]


def evaluated(name: str, gathered: list[Resource], **more: Any) -> dict[str, checklist.Item]:
    record = [*gathered, *SIGNS[name]]
    return {item.code: item for item in checklist.evaluate(LISTS[name], record, [REVIEWED[name]], today=TODAY, **more)}


def one(name: str, code: str, *gathered: Resource, **more: Any) -> checklist.Item:
    """One item of a checklist over a record."""
    return evaluated(name, list(gathered), **more)[code]


# --- exactly the gaps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN)
def test_the_golden_set_has_one_resource_for_each_item_and_lacks_nothing(name: str) -> None:
    assert set(GOLDEN[name]) == {item["code"] for item in LISTS[name]["items"]}
    assert {item.state for item in evaluated(name, list(GOLDEN[name].values())).values()} == {"present"}


@pytest.mark.parametrize(("name", "taken_away"), EACH)
def test_what_is_taken_away_is_exactly_the_gap(name: str, taken_away: str) -> None:
    rest = [resource for code, resource in GOLDEN[name].items() if code != taken_away]

    found = evaluated(name, rest)

    assert {code for code, item in found.items() if item.state != "present"} == {taken_away}
    assert found[taken_away].state == "missing"


@pytest.mark.parametrize(("name", "alone"), EACH)
def test_each_resource_is_the_evidence_of_its_own_item_only(name: str, alone: str) -> None:
    found = evaluated(name, [GOLDEN[name][alone]])

    present = {code: item.evidence for code, item in found.items() if item.state == "present"}
    assert present == {alone: (reference(GOLDEN[name][alone]),)}


@pytest.mark.parametrize("name", GOLDEN)
def test_nothing_gathered_is_all_missing_and_never_present(name: str) -> None:
    assert {item.state for item in evaluated(name, []).values()} == {"missing"}


@pytest.mark.parametrize(
    ("reviewed", "needed"),
    [
        (TUMOUR, True),
        (KNEE, False),
        (coded("Condition", "c", code="http://hl7.org/fhir/sid/icd-10-cm|C50.412"), True),
        (coded("Condition", "c", code="http://hl7.org/fhir/sid/icd-10-cm|M43.16"), False),
        (coded("Condition", "c", code="http://example.org/local|C50.412"), False),
        ({"resourceType": "Condition", "id": "c", "code": {"coding": [{"code": "x", "display": "Brain tumor"}]}}, True),
        ({"resourceType": "CarePlan", "id": "p", "status": "active", "description": "Operation"}, False),
    ],
)
def test_pathology_is_needed_for_a_tumour_only(reviewed: Resource, needed: bool) -> None:
    found = {i.code: i for i in checklist.evaluate(LISTS["generic"], [], [reviewed], today=TODAY)}

    assert found["pathology-report"].state == ("missing" if needed else "not-applicable")


def test_what_is_not_needed_says_when_it_would_be() -> None:
    [item] = [i for i in checklist.evaluate(LISTS["spine"], [], [BREAST], today=TODAY) if i.code == "bone-density"]

    assert (item.state, item.because) == ("not-applicable", "needed when a fusion or implant is under review")


def test_an_operation_that_was_not_done_needs_no_operative_report() -> None:
    for status, state in (("not-done", "not-applicable"), ("completed", "missing")):
        record = [{**coded("Procedure", "1", "Mastectomy"), "status": status}]
        found = {i.code: i.state for i in checklist.evaluate(LISTS["breast"], record, [BREAST], today=TODAY)}
        assert found["operative-report"] == state


@pytest.mark.parametrize(
    ("name", "code", "resource"),
    [
        ("generic", "laboratory", categorised("Observation", "1", OBSERVATION_CATEGORY, "vital-signs")),
        ("generic", "imaging-report", categorised("DiagnosticReport", "1", V2, "LAB")),
        ("generic", "notes", coded("DocumentReference", "1", "Chest X-ray report")),
        ("generic", "plan", categorised("ServiceRequest", "1", "http://snomed.info/sct", "108252007")),
        ("generic", "medications", {"resourceType": "MedicationRequest", "id": "1", "status": "stopped"}),
        ("breast", "pathology-report", report("1", "Colonoscopy, polyp: surgical pathology")),
        ("breast", "pathology-report", coded("DocumentReference", "1", "Speech-language pathology note")),
        ("breast", "mammography-report", report("1", "Mammogram guided biopsy of breast")),
        ("breast", "breast-ultrasound-or-mri-report", report("1", "MRI brain")),
        ("breast", "images", {"resourceType": "ImagingStudy", "id": "1", "started": FRESH, "description": "XR chest"}),
        ("breast", "staging", coded("Condition", "1", "Chronic kidney disease, stage 3", stage=[{}])),
        ("breast", "operative-report", coded("DocumentReference", "1", "Operative note: hysterectomy", date=FRESH)),
        ("breast", "plan", {"resourceType": "CarePlan", "id": "1", "title": "Diabetes self-management plan"}),
        ("spine", "images", {"resourceType": "ImagingStudy", "id": "1", "started": FRESH, "description": "MR brain"}),
        ("spine", "spine-mri-report", report("1", "MRA of the spine vessels, MRI angiogram")),
        ("spine", "flexion-extension-report", report("1", "X-ray knee, flexion and extension")),
        ("spine", "neurological-examination", coded("DocumentReference", "1", "Neurosurgery: hand clinic")),
    ],
)
def test_what_only_sounds_alike_is_no_evidence(name: str, code: str, resource: Resource) -> None:
    assert one(name, code, resource).state == "missing"


# --- which checklist --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reviewed", "name"),
    [
        ([BREAST], "breast"),
        ([coded("Condition", "c", code="http://hl7.org/fhir/sid/icd-10-cm|C50.412")], "breast"),
        ([coded("Condition", "c", code="http://snomed.info/sct|254837009")], "breast"),
        ([{"resourceType": "ServiceRequest", "id": "s", "code": {"text": "Total mastectomy, left"}}], "breast"),
        ([coded("Condition", "c", code="http://hl7.org/fhir/sid/icd-10|M48.0")], "spine"),
        ([FUSION], "spine"),
        ([coded("Condition", "c", "Herniated disc L5-S1")], "spine"),
        ([KNEE], "generic"),
        ([coded("Condition", "c", "Benign breast tumour")], "generic"),
        ([coded("Condition", "c", "Colon cancer")], "generic"),
        ([], "generic"),
        ([KNEE, FUSION, BREAST], "spine"),
        ([BREAST, FUSION], "breast"),
    ],
)
def test_what_stands_first_under_review_chooses_the_checklist(reviewed: list[Resource], name: str) -> None:
    assert checklist.choose(reviewed)["id"] == name


@pytest.mark.parametrize(("example", "name"), [("breast-treatment-plan", "breast"), ("spine-surgery", "spine")])
def test_the_examples_get_their_own_checklist(example: str, name: str) -> None:
    assert checklist.choose(cases.case_of(example).items)["id"] == name


@pytest.mark.parametrize(
    ("example", "sources", "lacks"),
    [
        ("breast-treatment-plan", ("riverside", "lakeside"), {"images", "genetics"}),
        ("spine-surgery", ("northgate", "stonebridge"), {"flexion-extension-report", "bone-density"}),
    ],
)
def test_the_examples_lack_what_their_authors_left_out(example: str, sources: tuple[str, ...], lacks: set[str]) -> None:
    case = cases.case_of(example)
    record = [e["resource"] for s in sources for e in cases.read(example, f"records/{s}.json")["entry"]]

    found = checklist.evaluate(checklist.choose(case.items), record, case.items, today=TODAY)

    assert {i.code for i in found if i.state in checklist.GAPS} == lacks


# --- states -----------------------------------------------------------------------------------------------------

MRI = "http://loinc.org|30679-5"


@pytest.mark.parametrize(
    ("date", "state"),
    [
        ("2025-11-23", "present"),
        ("2025-11-22", "stale"),
        ("2025-11-22T23:59:59Z", "stale"),
        ("2025-11-23T00:00:00Z", "present"),
        ("2025-10", "stale"),
        ("2026", "present"),
        ("2024", "stale"),
        ("2027-01-01", "present"),
    ],
)
def test_what_is_older_than_its_days_before_the_request_is_stale(date: str, state: str) -> None:
    item = one("spine", "spine-mri-report", report("1", code=MRI, date=date))

    assert (item.state, item.evidence) == (state, ("DiagnosticReport/1",))


def test_stale_lists_all_that_is_there_and_says_how_old_the_newest_is() -> None:
    item = one("spine", "spine-mri-report", report("1", code=MRI, date="2019-03"), report("2", code=MRI, date=OLD))

    assert item.evidence == ("DiagnosticReport/1", "DiagnosticReport/2")
    assert item.because == "the newest is of 2025-06-01, more than 365 days before 2026-11-23"


def test_one_new_report_beside_old_ones_is_present_and_the_only_evidence() -> None:
    item = one("spine", "spine-mri-report", report("1", code=MRI, date=OLD), report("2", code=MRI, date=FRESH))

    assert (item.state, item.evidence) == ("present", ("DiagnosticReport/2",))


@pytest.mark.parametrize("date", ["2025", "2025-11", "", "last spring", "2026-13-45", 7, None])
def test_a_date_that_does_not_tell_is_present_and_said_to_be_undated(date: Any) -> None:
    for others in ([], [report("2", code=MRI, date=OLD)]):
        item = one("spine", "spine-mri-report", report("1", code=MRI, date=date), *others)
        assert (item.state, item.evidence) == ("present", ("DiagnosticReport/1",))
        assert item.because.startswith("undated: DiagnosticReport/1")
        assert "may be older than 365 days before 2026-11-23" in item.because


def test_an_item_without_an_age_never_goes_stale() -> None:
    old = report("p", code="http://loinc.org|11529-5", date="1999-01-01")
    assert one("breast", "pathology-report", old).state == "present"


@pytest.mark.parametrize(
    ("kind", "dates", "text"),
    [
        ("Observation", {"issued": "2026-01-02T00:00:00Z", "effectiveDateTime": "2020-02-03"}, "2020-02-03"),
        ("Observation", {"effectivePeriod": {"start": "2020-01-01", "end": "2021-01-01"}}, "2021-01-01"),
        ("Observation", {"effectivePeriod": {"start": "2020-01-01"}}, "2020-01-01"),
        ("Observation", {"effectiveInstant": "2020-01-01T00:00:00Z"}, "2020-01-01T00:00:00Z"),
        ("Procedure", {"performedString": "in spring"}, None),
        ("Procedure", {"performedDateTime": "2020-05"}, "2020-05"),
        ("ImagingStudy", {"started": "2020-05-01"}, "2020-05-01"),
        ("DocumentReference", {"date": "2026-11-01T00:00:00Z", "context": {"period": {"end": "2019"}}}, "2019"),
        ("DocumentReference", {"date": "2026-11-01T00:00:00Z",
                               "content": [{"attachment": {"creation": "2018-01-01"}}]}, "2018-01-01"),
        ("DocumentReference", {"date": "2026-11-01T00:00:00Z"}, "2026-11-01T00:00:00Z"),
        ("MedicationStatement", {"effectivePeriod": {"start": "2010"}}, "since 2010"),
        ("MedicationRequest", {"authoredOn": "2020-01-01"}, "2020-01-01"),
        ("Condition", {"onsetDateTime": "2001", "recordedDate": "2020-01-01"}, "2020-01-01"),
        ("Condition", {"onsetAge": {"value": 40}, "meta": {"lastUpdated": "2026-01-01T00:00:00Z"}}, None),
        ("Binary", {"date": "2020-01-01"}, None),
    ],
)  # fmt: skip
def test_each_type_is_dated_by_what_it_tells_of(kind: str, dates: Resource, text: str | None) -> None:
    found = standing.dated({"resourceType": kind, "id": "1", **dates})
    assert (found.text if found else None) == text


def test_what_goes_on_since_long_is_not_old() -> None:
    lasting = {"resourceType": "MedicationStatement", "id": "1", "effectivePeriod": {"start": "2010"}}
    assert standing.age(lasting, 30, TODAY) == "fresh"


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize(
    ("code", "assertion"),
    [
        ("allergies", coded("AllergyIntolerance", "n", code="http://snomed.info/sct|716186003")),
        ("allergies", coded("AllergyIntolerance", "n", "NKDA")),
        ("allergies", coded("AllergyIntolerance", "n", "No known allergies")),
        ("medications", {"resourceType": "MedicationStatement", "id": "n", "status": "active",
                         "medicationCodeableConcept": {"coding": [{"system": IPS, "code": "no-known-medications"}]}}),
        ("medications", {"resourceType": "MedicationStatement", "id": "n", "status": "active",
                         "medicationCodeableConcept": {"text": "No current medications"}}),
        ("problems", coded("Condition", "n", code=f"{IPS}|no-known-problems")),
    ],
)  # fmt: skip
def test_what_the_record_says_is_not_there_is_known_absent(name: str, code: str, assertion: Resource) -> None:
    item = one(name, code, assertion)

    assert (item.state, item.evidence) == ("known-absent", (reference(assertion),))
    assert reference(assertion) in item.because


def test_an_allergy_beside_no_known_allergies_is_present_and_the_contradiction_is_said() -> None:
    none = coded("AllergyIntolerance", "n", "NKA")
    item = one("generic", "allergies", none, coded("AllergyIntolerance", "1", "Latex"))

    assert (item.state, item.evidence) == ("present", ("AllergyIntolerance/1",))
    assert item.because == 'but AllergyIntolerance/n "NKA" says that there is none'


def test_no_known_allergies_that_was_entered_in_error_says_nothing() -> None:
    withdrawn = {"verificationStatus": {"coding": [{"code": "entered-in-error"}]}}
    assert one("generic", "allergies", coded("AllergyIntolerance", "n", "NKA") | withdrawn).state == "missing"


@pytest.mark.parametrize("status", ["refuted", "not-done"])
def test_a_checklist_may_take_what_was_refuted_or_not_done_for_an_answer(status: str) -> None:
    own = {"code": "x", "title": "X", "types": ["Procedure", "Condition"]}
    said: Resource = {"resourceType": "Procedure", "id": "1", "status": "not-done"}
    if status == "refuted":
        said = {"resourceType": "Condition", "id": "1", "verificationStatus": {"coding": [{"code": "refuted"}]}}
    expression = "status = 'not-done' or verificationStatus.coding.where(code = 'refuted').exists()"

    for more, state in (({}, "missing"), ({"absentWhen": expression}, "known-absent")):
        [item] = checklist.evaluate({"items": [{**own, **more}]}, [said], [], today=TODAY)
        assert item.state == state


@pytest.mark.parametrize(
    "text", ["No known latex allergy", "No known food allergies", "No known environmental allergies"]
)
def test_no_allergy_of_one_kind_says_nothing_of_the_others(text: str) -> None:
    assert one("generic", "allergies", coded("AllergyIntolerance", "1", text)).state == "missing"


def absent_because(code: str) -> Resource:
    system = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
    return {"dataAbsentReason": {"coding": [{"system": system, "code": code}]}}


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("not-performed", "known-absent"),
        ("not-applicable", "known-absent"),
        ("masked", "withheld"),
        ("not-permitted", "withheld"),
        ("unknown", "missing"),
        ("asked-unknown", "missing"),
        ("temp-unknown", "missing"),
        ("error", "missing"),
    ],
)
def test_a_result_without_a_value_says_why(reason: str, state: str) -> None:
    item = one("breast", "her2", coded("Observation", "1", "HER2") | absent_because(reason))

    assert item.state == state
    assert "Observation/1" in item.because or "Observation/1" in item.evidence


@pytest.mark.parametrize(
    ("kind", "spoilt"),
    [
        ("DiagnosticReport", {"status": "entered-in-error"}),
        ("DiagnosticReport", {"status": "cancelled"}),
        ("DiagnosticReport", {"status": "registered"}),
        ("DocumentReference", {"status": "superseded"}),
        ("DocumentReference", {"status": "current", "docStatus": "entered-in-error"}),
    ],
)
def test_what_was_withdrawn_or_is_not_out_yet_is_missing_and_named(kind: str, spoilt: Resource) -> None:
    item = one("breast", "mammography-report", coded(kind, "1", "Mammogram", effectiveDateTime=FRESH, **spoilt))

    assert (item.state, item.evidence) == ("missing", ())
    assert f'{kind}/1 "Mammogram"' in item.because


@pytest.mark.parametrize("code", ["entered-in-error", "refuted"])
def test_a_refuted_allergy_is_no_allergy_and_does_not_mean_that_there_is_none(code: str) -> None:
    refuted = coded("AllergyIntolerance", "1", "Penicillin") | {"verificationStatus": {"coding": [{"code": code}]}}
    assert one("generic", "allergies", refuted).state == "missing"


def test_one_injection_not_given_does_not_mean_that_nothing_was_tried() -> None:
    not_given = coded("Procedure", "1", "Epidural injection", status="not-done", performedDateTime=FRESH)
    assert one("spine", "conservative-treatment", not_given).state == "missing"


@pytest.mark.parametrize(
    "nothing",
    [
        coded("AllergyIntolerance", "1", code=f"{IPS}|no-allergy-info"),
        coded("AllergyIntolerance", "1", code="http://terminology.hl7.org/CodeSystem/data-absent-reason|unknown"),
    ],
)  # fmt: skip
def test_no_information_is_neither_an_allergy_nor_none(nothing: Resource) -> None:
    assert one("generic", "allergies", nothing).state == "missing"


# --- who was asked ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "state", "words"),
    [
        (Answer("ImagingStudy", "answered", received=3), "missing", "Lakeside sent 3 ImagingStudy, none of them this"),
        (Answer("ImagingStudy", "answered"), "missing", "Lakeside sent no ImagingStudy"),
        (Answer("ImagingStudy", "not-offered"), "missing", "Lakeside does not offer ImagingStudy"),
        (Answer("ImagingStudy", "failed", detail="HTTP 500"), "missing", "Lakeside could not be read for ImagingStudy"),
        (Answer("ImagingStudy", "truncated", received=2), "missing",
         "Lakeside sent 2 ImagingStudy, none of them this and broke off ImagingStudy"),
        (Answer("ImagingStudy", "not-asked"), "missing", "Lakeside was not asked for ImagingStudy"),
        (Answer("*", "not-asked", detail="Not asked: the consent ended."), "missing",
         "Lakeside was not asked (Not asked: the consent ended)"),
        (Answer("ImagingStudy", "refused", detail="auth: GET ImagingStudy: HTTP 401."), "missing",
         "Lakeside refused ImagingStudy"),
        (Answer("ImagingStudy", "refused", detail="policy: GET ImagingStudy: HTTP 403."), "withheld",
         "Lakeside refused ImagingStudy"),
        (Answer("ImagingStudy", "refused", detail="scope: HTTP 405."), "withheld", "Lakeside refused ImagingStudy"),
        (Answer("ImagingStudy", "refused", detail="the scope was not granted"), "withheld",
         "Lakeside refused ImagingStudy"),
        (Answer("ImagingStudy", "answered", received=1, withheld=True), "withheld",
         "Lakeside sent 1 ImagingStudy, none of them this and says that it withholds ImagingStudy"),
        (Answer("Observation", "refused", detail="policy: HTTP 403"), "missing", "no source was asked"),
    ],
)  # fmt: skip
def test_what_is_not_there_says_who_was_asked_and_what_it_said(answer: Answer, state: str, words: str) -> None:
    item = one("breast", "images", answers=[("Lakeside", answer)])

    assert (item.state, item.because) == (state, words)


def test_every_source_has_its_own_part_of_the_reason() -> None:
    answers = [
        ("Lakeside", Answer("DiagnosticReport", "answered", received=8)),
        ("Lakeside", Answer("DocumentReference", "answered")),
        ("Riverside", Answer("DiagnosticReport", "refused", detail="policy: HTTP 403.")),
    ]

    item = one("breast", "mammography-report", answers=answers)

    assert item.state == "withheld"
    assert item.because == (
        "Lakeside sent 8 DiagnosticReport, none of them this and sent no DocumentReference; "
        "Riverside refused DiagnosticReport"
    )


def test_what_is_there_is_present_whatever_a_source_withholds() -> None:
    answers = [("Lakeside", Answer("ImagingStudy", "answered", received=1, withheld=True))]
    assert one("breast", "images", GOLDEN["breast"]["images"], answers=answers).state == "present"


def test_an_open_request_makes_every_gap_requested_and_nothing_else() -> None:
    everything = frozenset(LISTS["spine"]["items"][n]["code"] for n in range(len(LISTS["spine"]["items"])))
    record = [report("1", code=MRI, date=OLD), coded("AllergyIntolerance", "n", "NKA"), GOLDEN["spine"]["images"]]
    answers = [("Lakeside", Answer("DocumentReference", "refused", detail="policy"))]
    before = evaluated("spine", record, answers=answers)

    after = evaluated("spine", record, answers=answers, requested=everything)

    assert {i.state for i in before.values()} >= {"stale", "missing", "withheld", "present", "known-absent"}
    for code, item in before.items():
        expected = "requested" if item.state in checklist.GAPS else item.state
        assert (after[code].state, after[code].evidence) == (expected, item.evidence)
        assert ("; a request for it is open" in after[code].because) == (expected == "requested")
        assert item.because in after[code].because


def test_every_state_is_a_known_one_and_gaps_are_among_them() -> None:
    assert set(checklist.STATES) > checklist.GAPS == {"stale", "missing", "withheld", "requested"}


# --- conditions -------------------------------------------------------------------------------------------------

SPINE_MRI = coded("DiagnosticReport", "1", "MRI L-Spine w/o contrast", "urn:x|17")


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ({"words": ["spine mri"]}, True),
        ({"words": ["SPINE Mri"]}, True),
        ({"words": ["spine ct", "l-spine"]}, True),
        ({"words": ["spine ct"]}, False),
        ({"words": ["spin"]}, False),
        ({"words": ["spin*"]}, True),
        ({"words": ["spin* ct*"]}, False),
        ({"codes": ["urn:x|17"]}, True),
        ({"codes": ["urn:x|1*"]}, True),
        ({"codes": ["urn:x|1"]}, False),
        ({"codes": ["urn:y|17"]}, False),
        ({"codes": ["urn:x|18"], "words": ["mri"]}, True),
        ({"types": ["DocumentReference"], "words": ["mri"]}, False),
        ({"words": ["mri"], "except": {"words": ["contrast"]}}, False),
        ({"words": ["mri"], "except": {"types": ["DocumentReference"]}}, True),
        ({"where": "code.text.exists()"}, True),
        ({"where": "code.text.exists()", "words": ["ct"]}, False),
        ({"where": "status = 'final'"}, False),
        ({"anyOf": [{"words": ["ct"]}, {"codes": ["urn:x|17"]}]}, True),
        ({"anyOf": [{"words": ["ct"]}]}, False),
        ("code.coding.where(code = '17').exists()", True),
        ("code", False),
        ({"types": ["DiagnosticReport"]}, True),
    ],
)
def test_a_condition_holds_by_type_code_words_and_fhirpath(condition: Condition, holds: bool) -> None:
    assert meets(condition, Seen(SPINE_MRI)) is holds


def test_a_value_set_names_its_codes() -> None:
    condition = {"codes": ["https://secondop.example/fhir/ValueSet/spine-mri"]}
    assert meets(condition, Seen(report("1", code="http://loinc.org|30679-5")))
    assert not meets(condition, Seen(report("1", code="http://loinc.org|24606-6")))


def test_free_text_is_no_evidence() -> None:
    said = report("1", "Consultation") | {
        "conclusion": "No mammogram was done", "text": {"status": "generated", "div": "<div>mammogram</div>"},
        "note": [{"text": "mammogram advised"}],
    }  # fmt: skip
    assert one("breast", "mammography-report", said).state == "missing"


def test_words_of_two_things_are_not_taken_together() -> None:
    filed = coded("DocumentReference", "1", "Surgical operation consent") | {"category": [{"text": "Clinical note"}]}
    assert not meets({"words": ["surgical operation note"]}, Seen(filed))


@pytest.mark.parametrize(
    "resource",
    [
        {"resourceType": "ImagingStudy", "id": "1", "series": [{"bodySite": {"display": "Breast"}}]},
        {"resourceType": "ImagingStudy", "id": "1", "series": [{"description": "Left breast"}]},
        {"resourceType": "Procedure", "id": "1", "bodySite": [{"text": "Breast"}]},
        {"resourceType": "FamilyMemberHistory", "id": "1", "condition": [{"code": {"text": "Breast cancer"}}]},
        {"resourceType": "DocumentReference", "id": "1", "content": [{"attachment": {"title": "Breast MRI.pdf"}}]},
        {"resourceType": "Observation", "id": "1", "component": [{"code": {"text": "Breast size"}}]},
    ],
)
def test_words_are_found_where_a_resource_says_what_it_is(resource: Resource) -> None:
    assert meets({"words": ["breast"]}, Seen(resource))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["coding", "text", "code", "system", "display", "end", "attachment"]), inner, max_size=3
    ),
    max_leaves=8,
)  # fmt: skip
ELEMENTS = ("code", "category", "type", "status", "description", "series", "content", "effectivePeriod", "started",
            "verificationStatus", "dataAbsentReason", "medicationCodeableConcept", "context", "component")  # fmt: skip


@given(st.sampled_from(["DiagnosticReport", "ImagingStudy", "Observation", "AllergyIntolerance", "DocumentReference",
                        "MedicationRequest", "Condition", "CarePlan"]),
       st.dictionaries(st.sampled_from(ELEMENTS), JUNK, max_size=5))  # fmt: skip
def test_a_resource_of_any_shape_costs_no_checklist(kind: str, elements: dict[str, Any]) -> None:
    odd = {**elements, "resourceType": kind, "id": "1"}

    for name in LISTS:
        assert len(checklist.evaluate(LISTS[name], [odd], [odd], today=TODAY)) == len(LISTS[name]["items"])


# --- files ------------------------------------------------------------------------------------------------------

OWN: dict[str, Any] = {
    "id": "own",
    "title": "Our own",
    "version": "1",
    "note": "approved",
    "for": {"words": ["knee"]},
    "items": [
        {"code": "images", "title": "Images", "types": ["ImagingStudy"]},
        {"code": "our-score", "title": "Our score", "types": ["Observation"], "words": ["our score"]},
    ],
}


def written(folder: Path, name: str = "own", **changes: Any) -> Path:
    (folder / f"{name}.json").write_text(json.dumps({**OWN, "id": name, **changes}), "utf-8")
    return folder


def with_item(**changes: Any) -> list[dict[str, Any]]:
    items = copy.deepcopy(OWN["items"])
    items[1] |= changes
    return [{k: v for k, v in item.items() if v is not ...} for item in items]


def test_a_sites_own_checklist_is_chosen_before_ours(tmp_path: Path) -> None:
    folder = written(tmp_path)

    assert checklist.choose([KNEE], folder)["id"] == "own"
    assert checklist.choose([KNEE])["id"] == "generic"
    assert checklist.choose([BREAST], folder)["id"] == "breast"
    assert checklist.load("own", folder)["items"][1]["code"] == "our-score"


def test_a_site_replaces_a_checklist_of_ours_by_its_name(tmp_path: Path) -> None:
    written(tmp_path, "breast", **{"for": {"words": ["carcinoma"]}, "title": "Ours is better"})
    written(tmp_path, "generic", title="Our fall-back")

    assert checklist.choose([BREAST], tmp_path)["title"] == "Ours is better"
    assert checklist.choose([{"resourceType": "Condition", "id": "1"}], tmp_path)["title"] == "Our fall-back"


def test_a_file_that_is_edited_is_read_anew(tmp_path: Path) -> None:
    written(tmp_path)
    assert checklist.load("own", tmp_path)["title"] == "Our own"
    written(tmp_path, title="Edited")
    assert checklist.load("own", tmp_path)["title"] == "Edited"


def test_an_unknown_checklist_is_not_found_and_the_known_ones_are_named() -> None:
    with pytest.raises(NotFound, match=r"no checklist lung; there are breast, generic, spine"):
        checklist.load("lung")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"items": with_item(title=...)}, r"own\.json, item our-score: 'title' is a required property"),
        ({"items": with_item(typo=1)}, r"own\.json, item our-score: .*'typo' was unexpected"),
        ({"items": with_item(types=[])}, r"own\.json, item our-score \(types\)"),
        ({"items": with_item(maxAgeDays="a year")}, r"own\.json, item our-score \(maxAgeDays\): 'a year' is not of"),
        ({"items": with_item(words=["-"])}, r"own\.json, item our-score \(words\.0\)"),
        ({"items": with_item(code="Our Score")}, r"own\.json, item Our Score \(code\)"),
        ({"items": with_item(code=...)}, r"own\.json, item without a code: 'code' is a required property"),
        ({"items": with_item(code="images")}, r"own\.json, item images: the code stands there twice"),
        ({"items": with_item(types=["Obervation"])}, r"own\.json, item our-score: Obervation is no resource type"),
        ({"items": with_item(where="code.exist()")}, r"own\.json, item our-score: 'code\.exist\(\)' is no FHIRPath"),
        ({"items": with_item(applies="a =", appliesText="x")}, r"item our-score \(applies\): 'a =' is no FHIRPath"),
        ({"items": with_item(applies={"words": ["x"]})}, r"item our-score: 'appliesText' is a dependency of 'applies'"),
        ({"items": with_item(codes=["https://secondop.example/fhir/ValueSet/nope"])},
         r"own\.json, item our-score: https://secondop\.example/fhir/ValueSet/nope is no value set"),
        ({"items": with_item(codes=["85337-4"])}, r"own\.json, item our-score \(codes\.0\)"),
        ({"items": with_item(absentWhen={"types": ["Nope"]})}, r"item our-score \(absentWhen\): Nope is no resource"),
        ({"items": with_item(anyOf=[{"where": "(("}])}, r"item our-score: '\(\(' is no FHIRPath"),
        ({"items": with_item(**{"except": {"codes": ["http://x.example/nope"]}})}, r"item our-score: .* no value set"),
        ({"for": "(("}, r"own\.json, for: '\(\(' is no FHIRPath"),
        ({"for": {}}, r"own\.json, for"),
        ({"note": ""}, r"own\.json, note"),
        ({"items": []}, r"own\.json, items"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong_is_refused_and_says_where(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    written(tmp_path, **changes)

    with pytest.raises(Invalid, match=said):
        checklist.load("own", tmp_path)
    with pytest.raises(Invalid, match=said):
        checklist.choose([BREAST], tmp_path)


def test_every_fault_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    written(tmp_path, title="", items=with_item(title=...))

    with pytest.raises(Invalid) as refused:
        checklist.load("own", tmp_path)

    assert [issue.expression for issue in refused.value.issues] == ["items.1", "title"]


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text("{", "utf-8")
    with pytest.raises(Invalid, match=r"own\.json is not JSON"):
        checklist.choose([], tmp_path)


FOLDER = cases.ROOT / "profiles" / "checklists"


@pytest.mark.parametrize("name", LISTS)
def test_a_shipped_checklist_says_that_it_needs_local_approval(name: str) -> None:
    assert "needs local approval" in LISTS[name]["note"]
    assert LISTS[name]["id"] == name
    assert ("for" in LISTS[name]) == (name != "generic")


def test_the_checklists_of_the_readme_are_those_of_the_folder_and_its_example_can_be_loaded(tmp_path: Path) -> None:
    readme = (FOLDER / "README.md").read_text("utf-8")
    [example] = re.findall(r"```json\n(.*?)```", readme, re.S)
    (tmp_path / "shoulder.json").write_text(example, "utf-8")

    assert set(re.findall(r"^\| `(\w+\.json)` \|", readme, re.M)) == {f.name for f in FOLDER.glob("*.json")}
    chosen = checklist.choose([coded("Condition", "c", code="http://hl7.org/fhir/sid/icd-10-cm|M75.101")], tmp_path)
    assert chosen["id"] == "shoulder"


def test_the_readme_tells_every_member_and_every_state() -> None:
    readme = (FOLDER / "README.md").read_text("utf-8")
    schema = json.loads((cases.ROOT / "profiles" / "schemas" / "checklist.json").read_text("utf-8"))["$defs"]
    members = {*schema["item"]["properties"], *schema["parts"]["properties"]}
    assert {m for m in members if f"`{m}`" not in readme} == set()
    assert {s for s in checklist.STATES if f"| `{s}` |" not in readme} == set()
