"""Labels, a source under 42 CFR Part 2, and a consent that is taken back: what is kept out, said, and listed."""

from __future__ import annotations

import base64
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.wrappers import Response

from fhir_secondop.access import labels
from fhir_secondop.fhir import codec
from fhir_secondop.model import EVERYTHING, Answer, Resource
from fhir_secondop.opinion import intake_json, records
from fhir_secondop.opinion.records import PART2_NOTICE
from fhir_secondop.service import gather, tokens
from fhir_secondop.service.context import quarantine
from fhir_secondop.store import resources
from tests.service.conftest import TOKENS
from tests.service.test_review import example
from tests.service.world import SURGEON as SURGEON_TOKEN
from tests.service.world import World, opened, readable, record_of, refusal

Plain = dict[str, Any]
THO = "http://terminology.hl7.org/CodeSystem"
CONFIDENTIALITY, ACT = f"{THO}/v3-Confidentiality", f"{THO}/v3-ActCode"
SECRET = "zq-counselling"
SURGEON = "Mockridge"
NOW_MS = 1_795_000_000_000  # in 2026


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        yield made


def consent(patient: str, *, rule: str = "OPTIN", **provision: Any) -> Plain:
    return {
        "resourceType": "Consent", "status": "active", "patient": {"reference": patient},
        "scope": {"coding": [{"system": f"{THO}/consentscope", "code": "patient-privacy"}]},
        "category": [{"coding": [{"system": "http://loinc.org", "code": "64292-6"}]}],
        "policyRule": {"coding": [{"system": ACT, "code": rule}]},
        **({"provision": provision} if provision else {}),
    }  # fmt: skip


def record(world: World, body: Plain) -> None:
    answer = world.call("POST", "/fhir/Consent", body)
    assert answer.status_code == 201, answer.get_data(as_text=True)


def patient_of(world: World, case_id: str) -> str:
    request = next(r for r in world.package(case_id, "ServiceRequest") if r["id"] == case_id)
    return str(request["subject"]["reference"])


def labelled_record(code: str = "R", system: str = CONFIDENTIALITY) -> list[Resource]:
    """Lakeside's record with one more condition, which is labelled."""
    found = copy.deepcopy(record_of("lakeside"))
    patient = next(r["id"] for r in found if r["resourceType"] == "Patient")
    return [*found, {
        "resourceType": "Condition", "id": "sensitive", "subject": {"reference": f"Patient/{patient}"},
        "meta": {"security": [{"system": system, "code": code}]}, "code": {"text": SECRET},
    }]  # fmt: skip


# ---- labels


@pytest.mark.parametrize(("code", "system"), [("R", CONFIDENTIALITY), ("V", CONFIDENTIALITY), ("PSY", ACT)])
def test_what_its_source_has_labelled_is_kept_out_and_named(world: World, code: str, system: str) -> None:
    world.ehr("lakeside", record=labelled_record(code, system))
    case_id = world.gathered(sources=["lakeside"])
    world.accept(case_id)

    line = world.manifest(case_id, "Lakeside")["Condition"]
    assert (line["withheld"], line["detail"]) == (True, "kept out by a security label: 1")
    assert any(gap.endswith("/Condition") for gap in world.get(case_id, "completeness")["gaps"])
    for who in ("desk", "reviewer", "pcp"):
        shown = readable(world, case_id, who) if who != "desk" else world.call(
            "GET", f"/fhir/ServiceRequest/{case_id}/$package").get_data(as_text=True)  # fmt: skip
        assert SECRET not in shown, who
    # The page that it came in is apart from the case, where the coordinator alone may look.
    with world.context.database.reading() as connection:
        apart = [s for s in resources.in_case(connection, quarantine(case_id)) if s.type == "Binary"]
    assert any(SECRET in base64.b64decode(s.resource["data"]).decode() for s in apart)


def test_other_labels_keep_nothing_out(world: World) -> None:
    world.ehr("lakeside", record=labelled_record("N"))
    case_id = world.gathered(sources=["lakeside"])
    assert world.manifest(case_id, "Lakeside")["Condition"]["withheld"] is False
    assert SECRET in str(world.package(case_id, "Condition"))


def test_a_consent_that_names_the_label_lets_it_in(world: World) -> None:
    world.ehr("lakeside", record=labelled_record("R"))
    case_id = world.gathered(sources=["lakeside"])
    named = [{"system": CONFIDENTIALITY, "code": "R"}]
    record(world, consent(patient_of(world, case_id), type="permit", securityLabel=named))
    world.post(case_id, "gather", {"sources": world_sources(world, case_id), "full": True})
    world.work()
    assert world.manifest(case_id, "Lakeside")["Condition"]["withheld"] is False
    (found,) = [c for c in world.package(case_id, "Condition") if c["code"].get("text") == SECRET]
    assert found["meta"]["security"][0]["code"] == "R"

    # One more that denies it wins, and what had been let in is put aside with the pages that it came in.
    narrowed = [{"type": "deny", "securityLabel": named}]
    record(world, consent(patient_of(world, case_id), type="permit", provision=narrowed))
    world.post(case_id, "gather", {"sources": world_sources(world, case_id), "full": True})
    world.work()
    assert world.manifest(case_id, "Lakeside")["Condition"]["withheld"] is True
    assert SECRET not in readable(world, case_id, "pcp")


def world_sources(world: World, case_id: str) -> list[str]:
    request = next(r for r in world.package(case_id, "ServiceRequest") if r["id"] == case_id)
    return [e["valueReference"]["reference"] for e in request["extension"] if e["url"].endswith("record-source")]


def letters(*labelled: str) -> list[Resource]:
    """Lakeside's record with two letters that have one file, and each its own; those named are labelled."""
    found = copy.deepcopy(record_of("lakeside"))
    patient = next(r["id"] for r in found if r["resourceType"] == "Patient")
    for file in ("own-1", "own-2", "both"):
        data = base64.b64encode(f"file {file} {SECRET}".encode()).decode()
        found.append({"resourceType": "Binary", "id": file, "contentType": "text/plain", "data": data})
    for name in ("1", "2"):
        found.append({
            "resourceType": "DocumentReference", "id": f"letter-{name}", "status": "current",
            "meta": {"security": [{"system": CONFIDENTIALITY, "code": "R" if name in labelled else "N"}]},
            "subject": {"reference": f"Patient/{patient}"}, "type": {"text": "Letter"}, "description": f"letter {name}",
            "content": [{"attachment": {"contentType": "text/plain", "url": f"Binary/{file}"}}
                        for file in (f"own-{name}", "both")],
        })  # fmt: skip
    return found


def again(world: World, case_id: str) -> None:
    world.post(case_id, "gather", {"sources": world_sources(world, case_id), "full": True})
    world.work()


def files_shown(world: World, case_id: str) -> set[str]:
    shown = readable(world, case_id, "reviewer")
    return {file for file in ("own-1", "own-2", "both") if f"file {file} {SECRET}" in shown}


def test_a_file_goes_and_comes_back_with_what_names_it(world: World) -> None:
    ehr = world.ehr("lakeside", record=letters())
    case_id = world.gathered(sources=["lakeside"])
    world.accept(case_id)
    assert files_shown(world, case_id) == {"own-1", "own-2", "both"}

    for _ in range(2):
        ehr.put(next(r for r in letters("1") if r["id"] == "letter-1"))
        again(world, case_id)
        assert files_shown(world, case_id) == {"own-2", "both"}  # the other letter has its own, and the one of both
        assert "letter 1" not in str(world.package(case_id, "DocumentReference"))

        ehr.put(next(r for r in letters() if r["id"] == "letter-1"))
        again(world, case_id)
        assert files_shown(world, case_id) == {"own-1", "own-2", "both"}
        assert "letter 1" in str(world.package(case_id, "DocumentReference"))


NARROWED = {
    "another purpose": {"purpose": [{"system": f"{THO}/v3-ActReason", "code": "HRESCH"}]},
    "a class": {"class": [{"system": "http://hl7.org/fhir/resource-types", "code": "Observation"}]},
    "a code": {"code": [{"text": "haemoglobin"}]},
    "an action": {"action": [{"coding": [{"code": "collect"}]}]},
    "data": {"data": [{"meaning": "instance", "reference": {"reference": "Condition/1"}}]},
    "the data of a time": {"dataPeriod": {"start": "2020"}},
    "a time that is over": {"period": {"end": "2020"}},
    "somebody else": {"actor": [{"role": {"text": "recipient"}, "reference": {"reference": "Organization/x"}}]},
}
R = [{"system": CONFIDENTIALITY, "code": "R"}]


@pytest.mark.parametrize("nested", [False, True], ids=["itself", "what it is an exception to"])
@pytest.mark.parametrize("narrowed", NARROWED.values(), ids=NARROWED)
def test_a_permit_that_is_narrowed_lets_no_label_in(narrowed: Plain, nested: bool) -> None:
    permit = {"type": "permit", "securityLabel": R}
    said = consent("Patient/1", **narrowed, type="permit", provision=[permit]) if nested else consent(
        "Patient/1", **permit, **narrowed)  # fmt: skip
    assert labels.named([said], frozenset({"Organization/us"}), NOW_MS).let_in == frozenset()


@pytest.mark.parametrize("plain", [{}, {"purpose": [{"code": "TREAT"}]}, {"period": {"start": "2020"}}])
def test_a_permit_for_care_lets_its_label_in(plain: Plain) -> None:
    said = consent("Patient/1", type="permit", securityLabel=R, **plain)
    assert labels.named([said], frozenset(), NOW_MS).let_in == {"R"}


@pytest.mark.parametrize("narrowed", [NARROWED["another purpose"], NARROWED["a class"]])
def test_a_deny_keeps_its_label_out_however_it_is_narrowed(narrowed: Plain) -> None:
    said = [consent("Patient/1", type="permit", securityLabel=R), consent(
        "Patient/1", type="permit", provision=[{"type": "deny", "securityLabel": R, **narrowed}])]  # fmt: skip
    assert labels.named(said, frozenset(), NOW_MS) == labels.Named(frozenset(), frozenset({"R"}))


# ---- 42 CFR Part 2


def test_a_part_2_source_is_not_even_asked_without_an_explicit_consent(world: World) -> None:
    ehr = world.ehr("lakeside", part2=True)
    case_id = world.gathered(sources=["lakeside"])
    assert ehr.seen == []
    (line,) = world.manifest(case_id, "Lakeside").values()
    assert "needs an explicit consent" in line["detail"]


def test_with_consent_its_notice_stands_in_every_form(world: World) -> None:
    # Read from one place, delivered to another: each needs the consent.
    world.ehr("lakeside", part2=True)
    case_id = world.gathered(sources=["lakeside"], consent={"decision": "permit", "date": "2026-11-20"})
    world.sign(case_id)
    world.work()

    package = world.call("GET", f"/fhir/ServiceRequest/{case_id}/$package").get_json()
    assert [s["code"] for s in package["meta"]["security"]] == ["42CFRPart2"]
    report = next(r for r in world.package(case_id, "DiagnosticReport") if r["status"] == "final" and
                  "presentedForm" in r and "47040-1" in str(r["code"]))  # fmt: skip
    forms = {f["contentType"].partition(";")[0]: base64.b64decode(f["data"]) for f in report["presentedForm"]}
    assert PART2_NOTICE in world.pdf(case_id)
    assert PART2_NOTICE in " ".join(forms["text/plain"].decode().split())
    compositions = [c for c in world.package(case_id, "Composition") if c["status"] == "final"]
    assert PART2_NOTICE in str(compositions[0]["section"])
    made = [report, *compositions, *world.package(case_id, "Bundle")]
    made += [d for d in world.package(case_id, "DocumentReference") if "masterIdentifier" in d]
    for resource in made:
        assert "42CFRPart2" in [s["code"] for s in resource["meta"]["security"]], resource["resourceType"]
    copies = [r for r in world.package(case_id, "Condition") if "source" in r["meta"]]
    assert copies
    assert all("42CFRPart2" in [s["code"] for s in r["meta"]["security"]] for r in copies)
    link = next(d for d in world.deliveries(case_id) if d["evidence"]["rung"] == "10")
    page = world.client.get(f"/ack/{tokens.make(world.context, tokens.ACKNOWLEDGE, link['task'])}")
    assert PART2_NOTICE in " ".join(page.get_data(as_text=True).split())
    (ehr,) = world.ehrs.values()
    assert "42CFRPart2" in [s["code"] for s in ehr.reports[-1]["meta"]["security"]]
    assert "42CFRPart2" in str(ehr.documents[-1]["securityLabel"])


# ---- a consent that is taken back


def test_who_holds_an_older_version_gets_a_notice_without_content(world: World) -> None:
    ehr = world.ehr("lakeside")
    case_id = world.signed(sources=[])
    world.work()
    conclusion = next(r for r in world.package(case_id, "DiagnosticReport"))["conclusion"]
    (before,) = ehr.documents
    assert world.delivery(case_id, SURGEON)["businessStatus"] == "verified"
    (left,) = [d for d in world.get(case_id, "disclosures")["disclosures"] if SURGEON in d["to"]]
    assert (left["version"], left["sent"], left["permittedNow"]) == (1, "accepted", True)
    assert left["address"] == ehr.base

    record(world, consent(patient_of(world, case_id), rule="OPTOUT", type="deny"))
    sent = len(ehr.written)
    world.amend(case_id)
    world.work()

    held = world.delivery(case_id, SURGEON, 2)
    assert (held["status"], held["why"]) == ("on-hold", "Not sent: a consent on file denies it.")
    notice = world.delivery(case_id, SURGEON, 2, "notice")
    assert notice["businessStatus"] == "verified"
    old, new = ehr.documents
    assert (old["id"], old["status"]) == (before["id"], "superseded")
    assert new["status"] == "current"
    bodies = b"".join(a.body for a in ehr.written[sent:]).decode()
    plain = [base64.b64decode(c["attachment"]["data"]) for c in new["content"]]
    assert "A dose was wrong" not in bodies
    assert conclusion not in bodies
    assert not any(conclusion.encode() in data or b"A dose was wrong" in data for data in plain)
    assert "Notice" in new["content"][0]["attachment"]["title"]
    row = next(r for r in world.get(case_id, "alignment")["providers"] if SURGEON in r["name"])
    assert row["state"] == "blocked, holds version 1"
    listed = world.get(case_id, "disclosures")["disclosures"]
    assert {(d["what"], d["version"], d["permittedNow"]) for d in listed if SURGEON in d["to"]} == {
        ("report", 1, False), ("notice", 2, False),
    }  # fmt: skip


def test_who_holds_nothing_is_not_told_that_there_is_something(world: World) -> None:
    ehr = world.ehr("lakeside")
    case_id = world.signed(sources=[])
    record(world, consent(patient_of(world, case_id), rule="OPTOUT", type="deny"))
    world.work()
    world.amend(case_id)
    world.work()
    assert ehr.written == []
    assert world.deliveries(case_id, what="notice") == []


def test_a_notice_is_planned_with_the_hold_or_not_at_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.ehr("lakeside")
    case_id = world.signed(sources=[])
    world.work()
    record(world, consent(patient_of(world, case_id), rule="OPTOUT", type="deny"))
    world.amend(case_id)
    from fhir_secondop.service import delivery
    from fhir_secondop.service.delivering import moves

    def broken(*of: Any) -> None:
        raise KeyboardInterrupt

    task = world.delivery(case_id, SURGEON, 2)["task"]
    with monkeypatch.context() as patch:
        patch.setattr(moves, "_plan_notice", broken)
        with pytest.raises(KeyboardInterrupt):
            delivery.attempt(world.context, task, 1)
    assert world.delivery(case_id, SURGEON, 2)["status"] == "accepted"
    assert delivery.attempt(world.context, task, 1) == "on-hold"
    assert len(world.deliveries(case_id, SURGEON, what="notice")) == 1
    with world.context.database.reading() as connection:
        assert resources.read(connection, EVERYTHING, "Task", task).resource["status"] == "on-hold"


# ---- labels elsewhere than in meta, and of one version only


def test_a_document_is_labelled_by_its_own_element_too(world: World) -> None:
    found = labelled_record("N")
    patient = next(r["id"] for r in found if r["resourceType"] == "Patient")
    data = base64.b64encode(SECRET.encode()).decode()
    found[-1] = {
        "resourceType": "DocumentReference", "id": "sensitive", "status": "current",
        "subject": {"reference": f"Patient/{patient}"}, "type": {"text": "Letter"},
        "securityLabel": [{"coding": [{"system": CONFIDENTIALITY, "code": "R"}]}],
        "content": [{"attachment": {"contentType": "text/plain", "data": data}}],
    }  # fmt: skip
    world.ehr("lakeside", record=found)
    case_id = world.gathered(sources=["lakeside"])
    assert world.manifest(case_id, "Lakeside")["DocumentReference"]["withheld"] is True
    assert not [d for d in world.package(case_id, "DocumentReference") if data in str(d)]


@pytest.mark.parametrize("first", [0, 1])
def test_no_version_of_what_is_labelled_now_is_let_in(first: int) -> None:
    def version(number: int, **more: Any) -> tuple[str, Resource, str]:
        resource = {"resourceType": "Condition", "id": "1", "subject": {"reference": "Patient/1"},
                    "meta": {"versionId": str(number), **more}}  # fmt: skip
        return codec.dumps(resource), resource, "Binary/p"

    pages = [version(1), version(2, security=[{"system": CONFIDENTIALITY, "code": "R"}])]
    pages = pages if first == 0 else pages[::-1]
    merged = records.merge(
        "c", "ehr", "https://ehr.example/fhir", "1", pages, [Answer("Condition", "answered", received=2)],
        label=lambda resource: min(labels.of(resource) & {"R"}, default=""),
    )  # fmt: skip
    assert (dict(merged.entries), merged.kept_out, list(merged.copies)) == ({}, ("Condition/1",), [])


# ---- who only gets the report says nothing for the patient


def test_a_recipient_who_requests_elsewhere_asks_and_permits_nothing_here(world: World) -> None:
    world.ehr("lakeside")
    (world.folder / "tokens.toml").write_text(
        TOKENS + SURGEON_TOKEN.replace('roles = ["provider"]', 'roles = ["provider", "requester"]').replace(
            '"user/*.rs"', '"user/*.crus"'))  # fmt: skip
    world.start()
    case_id = world.gathered(sources=["lakeside"])
    patient = patient_of(world, case_id)
    body = consent(patient, rule="OPTOUT", type="deny")
    made = world.call("POST", "/fhir/Consent", body).get_json()
    assert world.get(case_id, who="surgeon")["id"] == case_id
    permit = {**consent(patient), "id": made["id"]}
    assert world.call("PUT", f"/fhir/Consent/{made['id']}", permit, "surgeon").status_code == 403
    assert world.call("POST", "/fhir/Consent", consent(patient), "surgeon").status_code == 403
    world.post(case_id, "gather", {}, "surgeon", status=403)
    world.post(case_id, "invite-patient", {"relationship": "self", "name": "x"}, "surgeon", status=403)


def test_every_door_of_intake_asks_for_the_role(world: World) -> None:
    (world.folder / "tokens.toml").write_text(TOKENS + SURGEON_TOKEN.replace('"user/*.rs"', '"user/*.crus"'))
    world.start()
    bundle = intake_json.to_bundle(example("request.json"))
    for path, sent in (("/api/second-opinions", example("request.json")),
                       ("/fhir/$request-second-opinion", bundle), ("/fhir", bundle)):  # fmt: skip
        assert world.call("POST", path, sent, "surgeon").status_code == 403, path


def test_a_gathering_under_way_ends_when_consent_does(world: World) -> None:
    ehr = world.ehr("lakeside")
    case_id = world.open(sources=["lakeside"])
    task = world.get(case_id)["gathering"][0]["task"].removeprefix("Task/")
    patient, page = gather.begin(world.context, task)
    record(world, consent(patient_of(world, case_id), rule="OPTOUT", type="deny"))
    asked = len(ehr.seen)
    gather.fetch(world.context, task, patient, 1)
    assert len(ehr.seen) == asked
    gather.merge(world.context, task, patient, page, 1)
    assert [r for r in world.package(case_id, "Condition", "Observation") if "source" in r.get("meta", {})] == []
    (line,) = world.manifest(case_id, "Lakeside").values()
    assert line["detail"] == "Not asked: a consent on file denies it."


def test_what_was_read_before_consent_ended_is_not_merged(world: World) -> None:
    world.ehr("lakeside")
    case_id = world.open(sources=["lakeside"])
    task = world.get(case_id)["gathering"][0]["task"].removeprefix("Task/")
    patient, page = gather.begin(world.context, task)
    gather.fetch(world.context, task, patient, 1)
    record(world, consent(patient_of(world, case_id), rule="OPTOUT", type="deny"))
    gather.merge(world.context, task, patient, page, 1)
    assert [r for r in world.package(case_id, "Condition", "Observation") if "source" in r.get("meta", {})] == []


def test_consent_that_ends_within_a_reading_stops_its_next_request(world: World) -> None:
    """Over the types, what is cited, and the files, whichever request it was that came before the revocation."""
    many = letters()
    patient = next(r["id"] for r in many if r["resourceType"] == "Patient")
    many += [{"resourceType": "Observation", "id": f"o{n}", "status": "final", "code": {"text": "x"},
              "subject": {"reference": f"Patient/{patient}"},
              "performer": [{"reference": f"Practitioner/p{n}"}]} for n in range(3)]  # fmt: skip
    many += [{"resourceType": "Practitioner", "id": f"p{n}"} for n in range(3)]
    ehr = world.ehr("lakeside", record=many, concurrency=1)
    seen = set()
    for ends_after in range(4, 80, 3):
        case_id = world.open(sources=["lakeside"], placer={"system": "https://x.example", "value": str(ends_after)})
        patient_here = patient_of(world, case_id)
        start = len(ehr.seen)
        ended: list[int] = []

        def instead(asked: Any, start: int = start, at: int = ends_after, patient: str = patient_here,
                    ended: list[int] = ended) -> Response | None:  # fmt: skip
            asked.environ["QUERY_STRING"] = asked.environ["QUERY_STRING"].replace("_count=100", "_count=2")  # pages
            if len(ehr.seen) - start == at and not ended:
                ended.append(len(ehr.seen))
                seen.add("file" if asked.type == "Binary" else asked.kind)
                record(world, consent(patient, rule="OPTOUT", type="deny"))
                return refusal(403) if at % 2 else None
            return None

        ehr.instead = instead
        world.work()
        if not ended:
            break
        assert len(ehr.seen) == ended[0], ends_after
        assert [r for r in world.package(case_id, "Condition", "Observation") if "source" in r.get("meta", {})] == []
        assert world.get(case_id)["gathering"][0]["status"] == "failed"
    assert seen == {"search", "read", "file"}
