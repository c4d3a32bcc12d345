"""Copies: nobody else's record, and every byte of his own."""

from __future__ import annotations

import json
from typing import Any

import cases
import pytest

from fhir_secondop.fhir import codec, refs, times
from fhir_secondop.fhir.validate import validate
from fhir_secondop.model import Answer, Resource
from fhir_secondop.opinion import records
from fhir_secondop.opinion.case import Case, derived_id, reference
from fhir_secondop.opinion.records import Gathered

BASE = "https://ehr-one.example/fhir"
OTHER_BASE = "https://ehr-two.example/fhir"
PATIENT = '{"resourceType":"Patient","id":"1","name":[{"family":"Ek"}]}'


def merge(*texts: str, source: str = "one", base: str = BASE, answers: tuple[Answer, ...] = ()) -> Gathered:
    pages = [(text, codec.parse(text), f"Binary/{place}") for place, text in enumerate(texts)]
    return records.merge(cases.CASE_ID, source, base, "1", pages, answers)


def local(key: str, source: str = "one") -> str:
    return f"{key.partition('/')[0]}/{derived_id(cases.CASE_ID, source, key)}"


def about(patient: str = "Patient/1", resource_id: str = "7", kind: str = "Observation", **more: Any) -> str:
    element = "patient" if kind in ("AllergyIntolerance", "Device") else "subject"
    return json.dumps({"resourceType": kind, "id": resource_id, element: {"reference": patient}, **more})


def copy_of(gathered: Gathered, kind: str) -> records.Copy:
    [found] = [c for c in gathered.copies if c.resource["resourceType"] == kind]
    return found


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("Encounter/9", local("Encounter/9")),
        (f"{BASE}/Encounter/9", local("Encounter/9")),
        ("Encounter/9/_history/3", local("Encounter/9")),
        (f"{BASE}/Encounter/9/_history/3", local("Encounter/9")),
        ("Practitioner/5", f"{BASE}/Practitioner/5"),
        (f"{BASE}/Practitioner/5", f"{BASE}/Practitioner/5"),
        (f"{OTHER_BASE}/Encounter/9", f"{OTHER_BASE}/Encounter/9"),
        ("#contained", "#contained"),
        ("urn:uuid:8d9b1c2e-0000-0000-0000-000000000000", "urn:uuid:8d9b1c2e-0000-0000-0000-000000000000"),
        ("Practitioner/5/_history/2", f"{BASE}/Practitioner/5/_history/2"),
    ],
)  # fmt: skip
def test_a_reference_points_at_our_copy_or_at_the_source(written: str, expected: str) -> None:
    found = copy_of(merge(PATIENT, about(kind="Encounter", resource_id="9"),
                          about(encounter={"reference": written})), "Observation")  # fmt: skip

    assert found.resource["encounter"] == {"reference": expected}
    assert codec.parse(found.body.text)["encounter"] == {"reference": expected}
    assert found.resource["subject"] == {"reference": local("Patient/1")}


def test_the_attachment_behind_a_binary_points_at_our_copy() -> None:
    for url in ("Binary/3", f"{BASE}/Binary/3"):
        gathered = merge(PATIENT, '{"resourceType":"Binary","id":"3","contentType":"text/plain"}',
                         about(kind="DocumentReference", content=[{"attachment": {"url": url}}]))  # fmt: skip
        found = copy_of(gathered, "DocumentReference").resource
        assert found["content"][0]["attachment"]["url"] == local("Binary/3")


def test_a_urn_uuid_of_something_gathered_points_at_our_copy() -> None:
    key = "8d9b1c2e-0000-4000-8000-000000000001"
    encounter = about(kind="Encounter", resource_id=key)
    observation = about(kind="Observation", encounter={"reference": f"urn:uuid:{key}"})

    found = copy_of(merge(PATIENT, encounter, observation), "Observation")

    assert found.resource["encounter"]["reference"] == local(f"Encounter/{key}")
    assert codec.parse(found.body.text)["encounter"]["reference"] == local(f"Encounter/{key}")


def test_the_same_ids_of_two_ehrs_never_collide() -> None:
    one, two = (merge(PATIENT, about(), source=s, base=b) for s, b in (("one", BASE), ("two", OTHER_BASE)))

    ids = [c.id for gathered in (one, two) for c in gathered.copies]
    assert len(set(ids)) == len(ids) == 4
    assert {c.source_url for c in two.copies} == {f"{OTHER_BASE}/Patient/1", f"{OTHER_BASE}/Observation/7"}
    subjects = {copy_of(g, "Observation").resource["subject"]["reference"] for g in (one, two)}
    assert subjects == {local("Patient/1", "one"), local("Patient/1", "two")}


def test_gathering_again_names_the_same_copies() -> None:
    one, two = merge(PATIENT, about()), merge(PATIENT, about())
    assert (list(one.copies), one.entries, one.answers) == (list(two.copies), two.entries, two.answers)


STRANGERS = {
    "another patient": '{"resourceType":"Patient","id":"2"}',
    "an observation of another": about("Patient/2"),
    "one by an absolute reference": about(f"{BASE}/Patient/2"),
    "a patient of the same id elsewhere": about(f"{OTHER_BASE}/Patient/1"),
    "an allergy of another": about("Patient/2", kind="AllergyIntolerance"),
    "an id that only begins alike": about("Patient/10"),
    "a group": about("Group/1"),
    "nobody": '{"resourceType":"Observation","id":"8"}',
    "nobody but a name": '{"resourceType":"Observation","id":"8","subject":{"display":"Maren"}}',
    "a coverage of another": '{"resourceType":"Coverage","id":"8","beneficiary":{"reference":"Patient/2"}}',
    "a task for another": '{"resourceType":"Task","id":"8","for":{"reference":"Patient/2"}}',
}


@pytest.mark.parametrize("text", STRANGERS.values(), ids=STRANGERS.keys())
def test_what_is_about_a_stranger_is_dropped_and_counted(text: str) -> None:
    kind = json.loads(text)["resourceType"]
    answers = (Answer("Condition", "answered"), Answer(kind, "answered", received=2))

    gathered = merge(PATIENT, about(resource_id="mine"), text, answers=answers)

    assert sorted(c.source_url.removeprefix(BASE) for c in gathered.copies) == ["/Observation/mine", "/Patient/1"]
    assert [(a.type, a.strangers) for a in gathered.answers] == [("Condition", 0), (kind, 1)]


def test_an_implant_of_a_stranger_is_dropped() -> None:
    assert [c.resource["resourceType"] for c in merge(PATIENT, about("Patient/2", kind="Device")).copies] == ["Patient"]


@pytest.mark.parametrize(
    "target",
    [
        "Patient/2",
        "Observation/hers",
        f"{BASE}/Observation/hers/_history/2",
    ],
)
def test_the_provenance_of_a_strangers_resource_is_dropped(target: str) -> None:
    hers = about("Patient/2", "hers")
    text = json.dumps({"resourceType": "Provenance", "id": "8", "target": [{"reference": target}]})

    for pages in ((hers, text), (text, hers)):
        assert [c.resource["resourceType"] for c in merge(PATIENT, *pages).copies] == ["Patient"]


def test_the_provenance_of_his_own_resource_is_kept() -> None:
    text = '{"resourceType":"Provenance","id":"8","target":[{"reference":"Observation/7"}]}'

    found = copy_of(merge(text, PATIENT, about()), "Provenance")

    assert found.resource["target"] == [{"reference": local("Observation/7")}]


def test_a_stranger_of_a_type_that_was_not_asked_for_is_counted_too() -> None:
    gathered = merge(PATIENT, about("Patient/2"), answers=(Answer("Condition", "answered"),))

    assert sum(a.strangers for a in gathered.answers) == 1


def test_strangers_are_counted_each_and_shared_resources_are_none() -> None:
    practitioner = '{"resourceType":"Practitioner","id":"5"}'
    gathered = merge(PATIENT, about("Patient/2"), about("Patient/3", "8"), practitioner,
                     answers=(Answer("Observation", "answered"),))  # fmt: skip

    assert [c.resource["resourceType"] for c in gathered.copies] == ["Patient", "Practitioner"]
    assert gathered.answers[0].strangers == 2


def test_the_near_twin_of_the_example_does_not_leak() -> None:
    text = (cases.ROOT / "examples/breast-treatment-plan/records/riverside.json").read_text("utf-8")
    codec.parse(text)
    texts = [t for t in codec.entry_resources(text) if t is not None]
    patient = next(r for r in map(json.loads, texts) if r["resourceType"] == "Patient" and "RS-100482" in json.dumps(r))
    pages = [(t, codec.parse(t), "Binary/x") for t in texts]

    gathered = records.merge(cases.CASE_ID, "riverside", BASE, patient["id"], pages, [])

    copies = list(gathered.copies)
    written = " ".join(c.body.text for c in copies)
    assert len(copies) == len(texts) - 4 == 40  # the twin and three resources of hers
    for leaked in ("Marena", "RS-100842", "psoriasis", "sulfamethoxazole"):
        assert leaked not in written


def versioned(version: str, updated: str, text: str) -> str:
    return about(meta={"versionId": version, "lastUpdated": updated}, note=[{"text": text}])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("1", "2026-01-01T00:00:00Z"), ("2", "2026-01-02T00:00:00Z")),
        (("9", "2026-01-01T00:00:00Z"), ("10", "2026-01-01T00:00:00Z")),
        (("1", "2026-01-01T23:00:00+05:00"), ("2", "2026-01-01T20:00:00Z")),
    ],
)  # fmt: skip
def test_where_pages_overlap_the_newest_version_is_kept(first: tuple[str, str], second: tuple[str, str]) -> None:
    older, newer = versioned(*first, "older"), versioned(*second, "newer")

    for pages in ((older, newer), (newer, older)):
        found = copy_of(merge(PATIENT, *pages), "Observation")
        assert found.resource["note"] == [{"text": "newer"}]
        assert found.source_url == f"{BASE}/Observation/7/_history/{second[0]}"


def test_a_copy_keeps_every_byte_but_its_references_id_and_meta() -> None:
    text = (
        '{ "resourceType" : "Observation",\n\t"id":"7", "meta":{"versionId":"4"},"valueQuantity":{"value":1.10 },'
        '"note":[{"text":"caf\\u00e9, \\"reference\\": \\"Patient/1\\" "}], "subject": {"reference" : "Patient\\/1"}  }'
    )

    found = copy_of(merge(PATIENT, text), "Observation")

    assert codec.splice(found.body, "n", {}) == (
        '{ "resourceType" : "Observation","id":"n","meta":{},\n\t"valueQuantity":{"value":1.10 },'
        '"note":[{"text":"caf\\u00e9, \\"reference\\": \\"Patient/1\\" "}], '
        f'"subject": {{"reference" : "{local("Patient/1")}"}}  }}'
    )
    assert found.resource["meta"] == {"versionId": "4", "source": f"{BASE}/Observation/7/_history/4"}


def test_text_and_members_of_a_copy_say_the_same() -> None:
    for example in cases.EXAMPLES:
        for path in sorted((cases.ROOT / "examples" / example / "records").glob("*.json")):
            text = path.read_text("utf-8")
            codec.parse(text)
            texts = [t for t in codec.entry_resources(text) if t is not None]
            patient = next(r["id"] for r in map(json.loads, texts) if r["resourceType"] == "Patient")
            pages = [(t, codec.parse(t), "Binary/x") for t in texts]
            gathered = records.merge(cases.CASE_ID, path.stem, BASE, patient, pages, [])
            assert gathered.entries
            for found in gathered.copies:
                parsed = codec.parse(codec.splice(found.body, found.id, {}))
                assert {k: v for k, v in parsed.items() if k not in ("id", "meta")} == {
                    k: v for k, v in found.resource.items() if k not in ("id", "meta")
                }
                relative = [r for r in refs.find(found.resource) if refs.parse(r) and not refs.parse(r).base]  # type: ignore[union-attr]
                ours = {reference({**c.resource, "id": c.id}) for c in gathered.copies}
                assert set(relative) <= ours


def test_an_outcome_and_a_resource_without_id_are_no_copies() -> None:
    gathered = merge('{"resourceType":"OperationOutcome","id":"1","issue":[]}', '{"resourceType":"Condition"}')

    assert list(gathered.copies) == []


# --- the manifest -----------------------------------------------------------------------------------------------

ANSWERS = (
    Answer("Condition", "answered", "Condition?patient=&_count=50", 12),
    Answer("Observation", "truncated", "Observation?category=laboratory", 500, 3, "page 11 was not there"),
    Answer("ImagingStudy", "not-offered"),
    Answer("DocumentReference", "refused", detail="403"),
    Answer("Goal", "answered", "Goal?patient=", 1, as_of="2026-11-22T08:00:00Z", since="2026-11-21T08:00:00Z",
           unresolved=2, withheld=True),
)  # fmt: skip


def package() -> Resource:
    gathered = merge(PATIENT, about(), answers=())
    return records.package(
        cases.case_of("breast-treatment-plan"), "one", "One", Gathered(gathered.entries, ANSWERS), cases.NOW
    )


def test_the_manifest_comes_back_from_the_package_as_it_went_in() -> None:
    assert records.coverage(cases.stored(package())) == list(ANSWERS)
    assert records.coverage({"resourceType": "List"}) == []


def test_the_package_is_a_valid_snapshot_that_names_each_copy() -> None:
    made = package()

    assert validate(cases.stored(made)) == []
    assert (made["mode"], made["status"]) == ("snapshot", "current")
    assert times.interval(made["date"]).low == times.interval(cases.NOW).low
    assert [e["item"]["reference"] for e in made["entry"]] == [local("Patient/1"), local("Observation/7")]


def test_the_gathered_resources_of_a_case_are_those_its_packages_name() -> None:
    copies = [{**c.resource, "id": c.id} for c in merge(PATIENT, about()).copies]
    case = cases.case_of("breast-treatment-plan", package(), *copies)

    assert records.gathered_resources(case) == copies
    assert records.packages(case) == [package()]
    assert records.gathered_resources(Case(case.id, [r for r in case.resources if r["resourceType"] != "List"])) == []
