"""The same fact in two records is found, another is never taken for it, and what a person undid stays undone."""

from __future__ import annotations

import base64
import copy
import gzip
import time
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import cases
import gathered
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_secondop.fhir import codec, times
from fhir_secondop.fhir.validate import validate
from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes, duplicates, links, sameness, sourced
from fhir_secondop.opinion.case import Case
from fhir_secondop.opinion.duplicates import Group, Said

Json = dict[str, Any]
ICD = "http://hl7.org/fhir/sid/icd-10-cm"
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
PATIENT: Json = {"resourceType": "Patient", "id": "1", "name": [{"family": "Sample"}]}
SUBJECT = {"reference": "Patient/1"}


def condition(text: str = "Breast cancer", code: str = "C50.412", **more: Any) -> Json:
    return {
        "resourceType": "Condition", "id": "1", "subject": SUBJECT,
        "code": {"coding": [{"system": ICD, "code": code}] if code else [], "text": text}, **more,
    }  # fmt: skip


def verified(code: str) -> Json:
    return codes.concept("http://terminology.hl7.org/CodeSystem/condition-ver-status", code)


def clinical(code: str) -> Json:
    return codes.concept("http://terminology.hl7.org/CodeSystem/condition-clinical", code)


def lab(value: float = 13.1, when: str = "2026-10-30T10:45:00-04:00", **more: Any) -> Json:
    return {
        "resourceType": "Observation", "id": "1", "status": "final", "subject": SUBJECT,
        "code": codes.concept(codes.LOINC, "718-7", text="Haemoglobin"), "effectiveDateTime": when,
        "valueQuantity": {"value": value, "unit": "g/dL"}, **more,
    }  # fmt: skip


def medicine(text: str, code: str = "", status: str = "active", **more: Any) -> Json:
    coding = [{"system": RXNORM, "code": code}] if code else []
    return {
        "resourceType": "MedicationRequest", "id": "1", "status": status, "intent": "order", "subject": SUBJECT,
        "medicationCodeableConcept": {"coding": coding, "text": text}, **more,
    }  # fmt: skip


def numbered(value: str, system: str = "https://lab.example/accession") -> Json:
    return {"identifier": [{"system": system, "value": value}]}


def case_with(**sources: list[Json]) -> Case:
    """An opened case with these records; the first resource of a type is number 1 there, and so on."""
    return gathered.gathered(
        cases.case_of("breast-treatment-plan"),
        {title: [PATIENT, *map(dict, _counted(resources))] for title, resources in sources.items()},
    )


def _counted(resources: list[Json]) -> list[Json]:
    seen: Counter[str] = Counter()
    for resource in resources:
        seen[resource["resourceType"]] += 1
        resource["id"] = str(seen[resource["resourceType"]])
    return resources


def grouped(case: Case, said: Said = duplicates.NOTHING_SAID) -> list[set[str]]:
    found = duplicates.groups(case.id, sourced.of_case(case), said)
    return [{gathered.there(case, member) for member in group.members} for group in found]


def together(one: Json, other: Json) -> bool:
    """Whether a resource of one source and one of another are taken for the same fact."""
    return len(grouped(case_with(one=[copy.deepcopy(one)], two=[copy.deepcopy(other)]))) == 1


def only(case: Case) -> Group:
    [group] = duplicates.groups(case.id, sourced.of_case(case))
    return group


# --- the examples -------------------------------------------------------------------------------------------------

BREAST = [
    {"riverside Condition/1", "lakeside Condition/1"}, {"riverside Condition/2", "lakeside Condition/2"},
    {"riverside AllergyIntolerance/1", "lakeside AllergyIntolerance/1"},
    {"riverside MedicationRequest/1", "lakeside MedicationRequest/1"},  # lisinopril, of two doses
    {"riverside MedicationRequest/2", "lakeside MedicationRequest/2"},
    {"riverside Observation/5", "lakeside Observation/5"}, {"riverside Observation/6", "lakeside Observation/9"},
    {"riverside Observation/7", "lakeside Observation/10"},
    {"riverside DiagnosticReport/1", "lakeside DiagnosticReport/4"},
]  # fmt: skip
SPINE = [
    {"northgate Condition/1", "stonebridge Condition/1"}, {"northgate Condition/3", "stonebridge Condition/4"},
    {"northgate AllergyIntolerance/1", "stonebridge AllergyIntolerance/1"},
    {"northgate MedicationRequest/1", "stonebridge MedicationRequest/1"},
    {"northgate MedicationRequest/6", "stonebridge MedicationRequest/3"},
    {"northgate Observation/19", "stonebridge Observation/8"},
    {"northgate Observation/20", "stonebridge Observation/1"},
    {"northgate Observation/21", "stonebridge Observation/6"},
]  # fmt: skip


@pytest.mark.parametrize(
    ("example", "names", "expected"),
    [
        ("breast-treatment-plan", ("riverside", "lakeside"), BREAST),
        ("spine-surgery", ("northgate", "stonebridge"), SPINE),
    ],
)
def test_the_examples_have_exactly_the_duplicates_that_their_readme_names(
    example: str, names: tuple[str, str], expected: list[set[str]]
) -> None:
    found = grouped(gathered.gathered_example(example, *names))

    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))


def test_two_doses_of_a_medicine_are_one_group_that_says_so() -> None:
    case = gathered.gathered_example("breast-treatment-plan", "riverside", "lakeside")
    found = duplicates.groups(case.id, sourced.of_case(case))

    assert {
        gathered.there(case, g.members[0]).split()[1]: g.differs for g in found if g.differs
    } == {"MedicationRequest/1": ("dosage",)}  # fmt: skip


def test_a_third_source_joins_the_group_of_the_other_two() -> None:
    case = gathered.gathered_example("breast-treatment-plan", "riverside", "lakeside", "hillcrest")

    assert {"riverside Condition/1", "lakeside Condition/1", "hillcrest Condition/1"} in grouped(case)


def test_grouping_changes_no_copy() -> None:
    case = gathered.gathered_example("breast-treatment-plan", "riverside", "lakeside")
    before = codec.dumps(case.resources)
    duplicates.groups(case.id, sourced.of_case(case))

    assert codec.dumps(case.resources) == before


def test_a_package_with_two_patients_is_compared_with_nobody() -> None:
    case = case_with(one=[condition()], two=[condition(), {**PATIENT, "id": "2"}])
    twin = {**PATIENT, "id": "twin"}
    package = next(p for p in case.of_type("List") if p["title"] == "two")
    package["entry"].append({"item": {"reference": "Patient/twin"}})

    assert grouped(Case(case.id, [*case.resources, twin])) == []


def test_what_no_package_lists_is_not_of_the_record() -> None:
    case = case_with(one=[condition()])
    stranger = {**condition(), "id": "stranger", "subject": {"reference": "Patient/twin"}}

    assert grouped(Case(case.id, [*case.resources, stranger])) == []


# --- type by type -------------------------------------------------------------------------------------------------

SURE = [
    ("one system's number", lab(**numbered("7")), lab(**numbered("7"))),
    ("a diagnosis in other words", condition("Breast cancer"), condition("Carcinoma of the breast")),
    ("a diagnosis without a code", condition("Gout", ""), condition("GOUT.", "")),
    ("an onset said more exactly", condition(onsetDateTime="2016"), condition(onsetDateTime="2016-03-08")),
    ("an onset that only one has", condition(onsetDateTime="2016"), condition()),
    ("a side that only one names", condition("Breast cancer, left"), condition("Breast cancer")),
    ("a place said more exactly", condition(bodySite=[{"text": "Left breast"}]),
     condition(bodySite=[{"text": "Left breast, upper outer quadrant"}])),
    ("a stage said more exactly", condition("Carcinoma, cT2 cN0"), condition("Carcinoma, cT2a cN0 cM0")),
    ("a value with another unit's spelling", lab(), {**lab(), "valueQuantity": {"value": 13.10, "code": "g/dL"}}),
    ("a moment in two zones", lab(), lab(when="2026-10-30T14:45:00Z")),
    ("a day of the one, a time of the other", lab(), lab(when="2026-10-30")),
    ("midnight for a date", lab(), lab(when="2026-10-30T00:00:00-04:00")),
    ("a medicine of two strengths", medicine("Lisinopril 10 mg tablet", "314076"),
     medicine("lisinopril 20 MG Oral Tablet", "314077")),
    ("a brand with the generic's code", medicine("Eliquis", "1364445"), medicine("Apixaban 5 mg", "1364445")),
    ("a salt left out", medicine("Metformin hydrochloride 500 mg"), medicine("Metformin 500 mg")),
    ("a request and a statement", medicine("Apixaban 5 mg"),
     {"resourceType": "MedicationStatement", "status": "active", "subject": SUBJECT,
      "medicationCodeableConcept": {"text": "Apixaban"}}),
    ("a vaccination", {"resourceType": "Immunization", "status": "completed", "patient": SUBJECT,
                       "vaccineCode": {"text": "Influenza"}, "occurrenceDateTime": "2026-09-29"},
     {"resourceType": "Immunization", "status": "completed", "patient": SUBJECT,
      "vaccineCode": {"text": "influenza"}, "occurrenceDateTime": "2026-09-29T10:00:00Z"}),
    ("an operation with another hour", {"resourceType": "Procedure", "status": "completed", "subject": SUBJECT,
                                        "code": {"text": "Appendectomy"}, "performedDateTime": "2020-01-02T08:00:00Z"},
     {"resourceType": "Procedure", "status": "completed", "subject": SUBJECT, "code": {"text": "Appendectomy"},
      "performedPeriod": {"start": "2020-01-02T09:30:00Z"}}),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), [s[1:] for s in SURE], ids=[s[0] for s in SURE])
def test_the_same_fact_is_grouped(one: Json, other: Json) -> None:
    assert together(one, other)


def operation(**more: Any) -> Json:
    return {"resourceType": "Procedure", "status": "completed", "subject": SUBJECT, "code": {"text": "Arthroscopy"},
            "performedDateTime": "2020-01-02", **more}  # fmt: skip


def allergy(text: str = "Amoxicillin", verification: str = "confirmed", status: str = "active") -> Json:
    return {
        "resourceType": "AllergyIntolerance", "patient": SUBJECT, "code": {"text": text},
        "clinicalStatus": clinical(status), "verificationStatus": verified(verification),
    }  # fmt: skip


def note(text: str, **more: Any) -> Json:
    data = base64.b64encode(text.encode()).decode()
    return {
        "resourceType": "DocumentReference", "status": "current", "subject": SUBJECT, "date": "2026-11-16",
        "type": {"text": "Progress note"}, "description": "Progress note", "author": [{"display": "Dr. A"}],
        "content": [{"attachment": {"contentType": "text/plain", "data": data}}], **more,
    }  # fmt: skip


NEVER = [
    ("left and right in words", condition("Breast cancer, left"), condition("Breast cancer, right")),
    ("left and right by code", condition("Breast cancer", "C50.412"), condition("Breast cancer", "C50.411")),
    ("left and both", condition("Cataract, left eye", "H26"), condition("Cataract, both eyes", "H26")),
    ("left and right by body site", operation(bodySite=[{"text": "Left knee"}]),
     operation(bodySite=[{"text": "right knee"}])),
    ("two levels of the spine", condition("Listhesis L4-L5", "M43.16"), condition("Listhesis L5-S1 ", "M43.16")
     | {"code": {"coding": [{"system": ICD, "code": "M43.16"}], "text": "Listhesis of S1"}}),
    ("refuted and confirmed", condition(verificationStatus=verified("refuted")),
     condition(verificationStatus=verified("confirmed"))),
    ("entered in error", condition(verificationStatus=verified("entered-in-error")), condition()),
    ("two stages", condition("Carcinoma, cT2 cN0"), condition("Carcinoma, cT3 cN0")),
    ("two onsets", condition("Bronchitis", "J20.9", onsetDateTime="2010-02-01"),
     condition("Bronchitis", "J20.9", onsetDateTime="2015-02-01")),
    ("an old episode and one without a date", condition(onsetDateTime="2010", clinicalStatus=clinical("resolved")),
     condition(clinicalStatus=clinical("active"))),
    ("two values", lab(13.1), lab(13.2)),
    ("two times of a day", lab(), lab(when="2026-10-30T18:45:00-04:00")),
    ("one number and two values", lab(13.1, **numbered("7")), lab(13.2, **numbered("7"))),
    ("two numbers of one system", lab(**numbered("7")), lab(**numbered("8"))),
    ("one order, two tests", lab(**numbered("7")), {**lab(**numbered("7")), "code": codes.concept(codes.LOINC, "1-1")}),
    ("a value without a date", {k: v for k, v in lab().items() if k != "effectiveDateTime"}, lab()),
    ("two units", lab(), {**lab(), "valueQuantity": {"value": 13.1, "unit": "mmol/L"}}),
    ("above and at", lab(), {**lab(), "valueQuantity": {"value": 13.1, "unit": "g/dL", "comparator": ">"}}),
    ("unknown and unknown", condition("Unknown", ""), condition("unknown", "")),
    ("a number that belongs to nobody", lab(1, identifier=[{"value": "7"}]), lab(2, identifier=[{"value": "7"}])),
    ("taken and stopped", medicine("Tramadol 50 mg"), medicine("Tramadol 50 mg", status="stopped")),
    ("taken and planned", medicine("Paclitaxel"), medicine("Paclitaxel", status="draft")),
    ("a combination", medicine("Lisinopril 10 mg"), medicine("Lisinopril 10 mg / hydrochlorothiazide 12.5 mg")),
    ("slow release", medicine("Metformin 500 mg"), medicine("Metformin 500 mg extended release tablet")),
    ("cream and tablet", medicine("Hydrocortisone 1 % cream"), medicine("Hydrocortisone 10 mg tablet")),
    ("cream and tablet of one code",
     medicine("x", "5492", dosageInstruction=[{"route": {"text": "topical"}}]),
     medicine("y", "5492", dosageInstruction=[{"route": {"text": "oral"}}])),
    ("an allergy and a refuted one", allergy(), allergy(verification="refuted")),
    ("an allergy and a resolved one", allergy(), allergy(status="resolved")),
    ("done and not done", operation(), operation(status="not-done")),
    ("two days", operation(), operation(performedDateTime="2020-01-03")),
    ("two notes of a day by two authors", note("A"), note("B", author=[{"display": "Dr. B"}])),
    ("two notes of a day by one author", note("A"), note("B")),
    ("one text on two days", note("None."), note("None.", date="2026-11-17")),
    ("two encounters", {"resourceType": "Encounter", "status": "finished", "subject": SUBJECT, **numbered("1")},
     {"resourceType": "Encounter", "status": "finished", "subject": SUBJECT, **numbered("1")}),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), [n[1:] for n in NEVER], ids=[n[0] for n in NEVER])
def test_what_is_not_surely_the_same_stays_two(one: Json, other: Json) -> None:
    assert not together(one, other)


def test_the_same_file_is_one_document_whatever_it_is_called() -> None:
    report = {
        "resourceType": "DiagnosticReport", "status": "final", "subject": SUBJECT, "code": {"text": "Letter"},
        "effectiveDateTime": "2026-11-16", "presentedForm": note("A")["content"][0:1],
    }  # fmt: skip
    report["presentedForm"] = [note("A")["content"][0]["attachment"]]

    assert only(case_with(one=[note("A")], two=[report])).why == "same file"
    assert together(note("A"), note("A", description="Letter", type={"text": "Other"}))


def test_two_laboratories_of_a_day_are_two_reports() -> None:
    report = {
        "resourceType": "DiagnosticReport", "status": "final", "subject": SUBJECT, "effectiveDateTime": "2026-10-30",
        "code": codes.concept(codes.LOINC, "11502-2", text="Laboratory report"),
    }  # fmt: skip

    assert not together(report, report)
    assert together({**report, "conclusion": "Normal."}, {**report, "conclusion": "normal"})
    assert not together({**report, "conclusion": "Normal."}, {**report, "conclusion": "Anaemia."})


# --- within one source ------------------------------------------------------------------------------------------


def test_one_source_is_not_grouped_with_itself_but_for_what_it_issued_again() -> None:
    same_number = case_with(one=[lab(**numbered("7")), lab(**numbered("7"))])
    same_moment = case_with(one=[lab(), lab()])
    same_day = case_with(one=[lab(when="2026-10-30"), lab(when="2026-10-30")])
    two_diagnoses = case_with(one=[condition(), condition()])

    assert [len(grouped(case)) for case in (same_number, same_moment, same_day, two_diagnoses)] == [1, 1, 0, 0]


def test_what_fits_two_equally_well_fits_neither() -> None:
    morning, evening = lab(when="2026-10-30T08:00:00Z"), lab(when="2026-10-30T20:00:00Z")

    assert grouped(case_with(one=[morning, evening], two=[lab(when="2026-10-30")])) == []
    assert grouped(case_with(one=[morning, evening], two=[lab(when="2026-10-30T20:00:00Z")])) == [
        {"one Observation/2", "two Observation/1"}
    ]
    left, right = (operation(bodySite=[{"text": side}]) for side in ("left", "right"))
    assert grouped(case_with(one=[left, right], two=[operation()])) == []


def test_no_group_joins_two_that_are_apart_through_a_third() -> None:
    left, unsaid, right = (condition(f"Arthrosis{side}", "M17") for side in (", left knee", "", ", right knee"))

    assert grouped(case_with(one=[left], two=[unsaid], three=[right])) == []
    # What is proved comes first, and what only looks alike joins it if it fits every member.
    morning, day = lab(when="2026-10-30T08:00:00Z", **numbered("7")), lab(when="2026-10-30", **numbered("7"))
    evening = lab(when="2026-10-30T20:00:00Z")
    assert grouped(case_with(one=[morning], two=[day], three=[evening])) == [{"one Observation/1", "two Observation/1"}]


# --- properties ---------------------------------------------------------------------------------------------------

a_fact = st.one_of(
    st.builds(
        condition, st.sampled_from(["Gout", "Gout, left", "Gout, right"]), st.sampled_from(["", "M10"]),
        verificationStatus=st.sampled_from([verified("confirmed"), verified("refuted")]),
        onsetDateTime=st.sampled_from(["2016", "2016-03-08", "2019"]),
    ),
    st.builds(
        lab, st.sampled_from([1, 2]), st.sampled_from(["2026-10-30", "2026-10-30T08:00:00Z", "2026-10-30T20:00:00Z"]),
    ),
    st.builds(
        medicine, st.sampled_from(["Apixaban 5 mg", "apixaban", "Eliquis"]), st.sampled_from(["", "1364445"]),
        st.sampled_from(["active", "stopped"]),
    ),
)  # fmt: skip
a_record = st.lists(a_fact.map(copy.deepcopy), max_size=5)


@settings(deadline=None, max_examples=60)
@given(a_record, a_record, a_record, st.randoms(use_true_random=False))
def test_groups_are_disjoint_pairwise_possible_and_the_same_in_any_order(
    one: list[Json], two: list[Json], three: list[Json], random: Any
) -> None:
    case = case_with(one=one, two=two, three=three)
    items = sourced.of_case(case)
    found = duplicates.groups(case.id, items)
    by_reference = {item.reference: item for item in items}

    members = [member for group in found for member in group.members]
    assert len(members) == len(set(members))
    for group in found:
        assert len(group.members) > 1
        assert group.members == tuple(sorted(group.members))
        for a, b in combinations(group.members, 2):
            assert not sameness.apart(by_reference[a], by_reference[b])
    shuffled = list(items)
    random.shuffle(shuffled)
    assert duplicates.groups(case.id, shuffled) == found


@settings(deadline=None, max_examples=60)
@given(a_record, a_record)
def test_likeness_and_being_apart_are_the_same_both_ways(one: list[Json], two: list[Json]) -> None:
    for a, b in combinations(sourced.of_case(case_with(one=one, two=two)), 2):
        assert sameness.apart(a, b) == sameness.apart(b, a)
        assert sameness.likeness(a, b) == sameness.likeness(b, a)


@settings(deadline=None, max_examples=60)
@given(a_record, a_record, a_record, st.data())
def test_what_a_person_said_of_a_pair_holds(
    one: list[Json], two: list[Json], three: list[Json], data: st.DataObject
) -> None:
    case = case_with(one=one, two=two, three=three)
    items = sourced.of_case(case)
    pairs = [frozenset((a.reference, b.reference)) for a, b in combinations(items, 2)]
    apart = data.draw(st.sets(st.sampled_from(pairs), max_size=4)) if pairs else set()
    found = duplicates.groups(case.id, items, Said(frozenset(apart)))

    assert not any(pair <= set(group.members) for group in found for pair in apart)
    if len(apart) == 1 and one and two:
        linked = duplicates.groups(case.id, items, Said(together=frozenset(apart)))
        assert any(pair <= set(group.members) for group in linked for pair in apart)


# --- as Linkages --------------------------------------------------------------------------------------------------


def decided(case_id: str, members: tuple[str, ...], what: str, at: str, before: Resource | None = None) -> Resource:
    return links.decided(case_id, members, what, at, {"display": "A reviewer"}, before)


def test_a_group_is_a_valid_linkage_that_takes_no_source_for_the_truth() -> None:
    link = links.linkage(only(case_with(one=[condition()], two=[condition()])))

    assert validate(link) == []
    assert {item["type"] for item in link["item"]} == {"alternate"}
    assert links.why(link).startswith("same code (icd-10-cm C50.412)")
    assert validate(decided(cases.CASE_ID, links.members(link), links.UNLINKED, cases.NOW, link)) == []


def test_a_linkage_without_a_reason_or_with_a_winner_is_refused() -> None:
    link = links.linkage(only(case_with(one=[condition()], two=[condition()])))
    winner = {**link, "item": [{**link["item"][0], "type": "source"}, link["item"][1]]}

    assert [i.expression for i in validate({**link, "extension": []})] != []
    assert [i.expression for i in validate(winner)] == ["Linkage.item[0].type"]
    assert [i.expression for i in validate({**link, "item": link["item"][:1]})] == ["Linkage"]


def test_an_undone_group_stays_undone_when_a_third_source_would_bring_it_back() -> None:
    pair = only(case_with(one=[condition()], two=[condition()]))
    undone = decided(cases.CASE_ID, pair.members, links.UNLINKED, "2026-11-23T10:00:00.000Z", links.linkage(pair))
    case = case_with(one=[condition()], two=[condition()], three=[condition()])

    assert grouped(case) == [{"one Condition/1", "two Condition/1", "three Condition/1"}]
    # The third fits both, and which of the two it is can't be told.
    assert duplicates.groups(case.id, sourced.of_case(case), links.said([undone])) == ()


def test_one_copy_taken_out_leaves_the_others_together() -> None:
    case = case_with(one=[condition()], two=[condition()], three=[condition()])
    out, a, b = only(case).members
    words = [decided(case.id, (out, other), links.UNLINKED, cases.NOW) for other in (a, b)]
    [left] = duplicates.groups(case.id, sourced.of_case(case), links.said(words))

    assert left.members == (a, b)


def test_the_latest_word_about_a_pair_holds() -> None:
    case = case_with(one=[condition()], two=[condition()], three=[condition()])
    three = only(case)
    a, b, c = three.members
    words = [
        decided(case.id, three.members, links.UNLINKED, "2026-11-23T10:00:00.000Z"),
        decided(case.id, (a, c), links.LINKED, "2026-11-23T11:00:00.000Z"),
    ]
    for order in (words, words[::-1]):
        found = links.said(order)
        assert found.together == {frozenset((a, c))}
        assert found.apart == {frozenset((a, b)), frozenset((b, c))}


def test_only_what_changed_is_written_and_nothing_is_deleted() -> None:
    case = case_with(one=[condition()], two=[condition()])
    [group] = duplicates.groups(case.id, sourced.of_case(case))
    first = links.changed([group], [])

    assert [link["id"] for link in first] == [group.id]
    assert links.changed([group], first) == []
    [gone] = links.changed([], first)
    assert (gone["id"], gone["active"]) == (group.id, False)
    assert links.changed([], [gone]) == []
    [back] = links.changed([group], [gone])
    assert back == first[0]


# --- records of size ----------------------------------------------------------------------------------------------


def test_a_diagnosis_written_at_each_of_many_visits_costs_little() -> None:
    visits = [condition() for _ in range(50)]
    case = case_with(one=visits, two=copy.deepcopy(visits))
    begun = time.perf_counter()
    [group] = duplicates.groups(case.id, sourced.of_case(case))

    assert len(group.members) == 100
    assert time.perf_counter() - begun < 5


_TYPES = ("Condition", "Observation", "MedicationRequest", "Procedure", "Immunization", "AllergyIntolerance",
          "DiagnosticReport")  # fmt: skip


def synthea(folder: Path) -> Iterator[list[Json]]:
    """What is compared of each Synthea record, with a number in the place of the id."""
    for path in sorted((folder / "synthea-r4-bundles").glob("*_*.json.gz")):
        entries = codec.parse(gzip.decompress(path.read_bytes()).decode())["entry"]
        record = [e["resource"] for e in entries if e["resource"]["resourceType"] in _TYPES]
        yield [_bare(resource, f"n-{place}") for place, resource in enumerate(record)]


def _bare(resource: Json, resource_id: str) -> Json:
    """The resource without identifiers and encounter, about Patient/1."""
    kept = {name: v for name, v in resource.items() if name not in ("identifier", "encounter")}
    return {**kept, "id": resource_id, "patient" if "patient" in resource else "subject": SUBJECT}


def elsewhere(resource: Json) -> Json:
    """The copy of another EHR: times in UTC, no words beside the codes."""
    changed: Json = {
        name: times.instant(times.interval(value).low) if isinstance(value, str) and "T" in value[:11] else value
        for name, value in resource.items()
    }
    for name in ("code", "vaccineCode"):
        if changed.get(name, {}).get("coding"):
            changed[name] = {"coding": changed[name]["coding"]}
    return changed


def content(resource: Json) -> str:
    """What two rows that Synthea wrote twice have in common."""
    left_out = ("id", "meta", "result", "reasonReference", "report", "subject", "patient", "code", "vaccineCode")
    kept = {name: v for name, v in elsewhere(resource).items() if name not in left_out}
    concept: Json = resource.get("code") or resource.get("vaccineCode") or {}
    return codec.dumps([kept, concept.get("coding")])


@pytest.mark.shared
def test_a_synthea_record_at_two_hospitals_is_grouped_with_its_copies_and_with_nothing_else(shared_data: Path) -> None:
    for record in synthea(shared_data):
        sources = {"one": [PATIENT, *record], "two": [PATIENT, *map(elsewhere, record)]}
        case = gathered.gathered(cases.case_of("breast-treatment-plan"), sources)
        items = {item.reference: item for item in sourced.of_case(case)}
        begun = time.perf_counter()
        found = duplicates.groups(case.id, items.values())

        assert time.perf_counter() - begun < 5
        for group in found:
            assert len({content(items[member].resource) for member in group.members}) == 1
            assert group.differs == ()
        written_twice = {text for text, times_ in Counter(map(content, record)).items() if times_ > 1}
        alone = items.keys() - {member for group in found for member in group.members}
        assert {content(items[ref].resource) for ref in alone} <= written_twice


@pytest.mark.shared
def test_two_halves_of_a_synthea_record_have_nothing_in_common_but_what_was_written_twice(shared_data: Path) -> None:
    groups_found = 0
    for record in synthea(shared_data):
        sources = {"one": [PATIENT, *record[::2]], "two": [PATIENT, *map(elsewhere, record[1::2])]}
        case = gathered.gathered(cases.case_of("breast-treatment-plan"), sources)
        items = {item.reference: item for item in sourced.of_case(case)}
        for group in duplicates.groups(case.id, items.values()):
            groups_found += 1
            assert len({content(items[member].resource) for member in group.members}) == 1
    assert groups_found == 17  # of 3,827 rows
