"""Where two sources disagree, both sides are shown; where they only word it differently, nothing is."""

from __future__ import annotations

import copy
from typing import Any

import cases
import gathered
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhir_secondop.opinion import codes, conflicts
from fhir_secondop.opinion.case import Case
from fhir_secondop.opinion.conflicts import Conflict

Json = dict[str, Any]
RXNORM = "http://www.nlm.nih.gov/research/umls/rxnorm"
ICD = "http://hl7.org/fhir/sid/icd-10-cm"
PATIENT: Json = {"resourceType": "Patient", "id": "1", "name": [{"family": "Sample"}]}
SUBJECT = {"reference": "Patient/1"}


def case_with(outcome: str = "answered", **sources: list[Json]) -> Case:
    """An opened case with these records."""
    records = {
        title: [PATIENT, *({**copy.deepcopy(r), "id": str(n)} for n, r in enumerate(resources, 1))]
        for title, resources in sources.items()
    }
    return gathered.gathered(cases.case_of("breast-treatment-plan"), records, outcome)


def found(one: list[Json], two: list[Json]) -> list[str]:
    """The kinds of conflict between two sources."""
    return [c.kind for c in conflicts.find(case_with(one=one, two=two))]


def medicine(text: str, sig: str = "", status: str = "active", code: str = "", **more: Any) -> Json:
    return {
        "resourceType": "MedicationRequest", "status": status, "intent": "order", "subject": SUBJECT,
        "medicationCodeableConcept": {"coding": [{"system": RXNORM, "code": code}] if code else [], "text": text},
        "dosageInstruction": [{"text": sig}] if sig else [], **more,
    }  # fmt: skip


def dosed(text: str, value: float, unit: str, frequency: int = 1, period: int = 1, period_unit: str = "d") -> Json:
    dosage = {
        "timing": {"repeat": {"frequency": frequency, "period": period, "periodUnit": period_unit}},
        "doseAndRate": [{"doseQuantity": {"value": value, "unit": unit}}],
    }
    return medicine(text, dosageInstruction=[dosage])


def allergy(text: str, verification: str = "confirmed", status: str = "active", **more: Any) -> Json:
    return {
        "resourceType": "AllergyIntolerance", "patient": SUBJECT, "code": {"text": text},
        "clinicalStatus": codes.concept("urn:clinical", status),
        "verificationStatus": codes.concept("urn:verification", verification), **more,
    }  # fmt: skip


def no_known(code: str, **more: Any) -> Json:
    return allergy("", **{"code": codes.concept(codes.SNOMED, code), **more})


def diagnosis(text: str, code: str = "", verification: str = "confirmed", **more: Any) -> Json:
    return {
        "resourceType": "Condition", "subject": SUBJECT, "verificationStatus": codes.concept("urn:v", verification),
        "code": {"coding": [{"system": ICD, "code": code}] if code else [], "text": text}, **more,
    }  # fmt: skip


# --- the examples -------------------------------------------------------------------------------------------------


def shown(conflict: Conflict) -> tuple[str, str, list[tuple[str, str, str]]]:
    return conflict.kind, conflict.about, [(s.source, s.text, s.date) for s in conflict.sides]


def test_the_breast_case_has_two_doses_of_lisinopril_and_an_allergy_that_the_surgeons_hospital_lacks() -> None:
    case = gathered.gathered_example("breast-treatment-plan", "riverside", "lakeside")

    assert list(map(shown, conflicts.find(case))) == [
        ("dose", "Lisinopril", [
            ("lakeside", "Lisinopril 10 mg tablet, Take 1 tablet (10 mg) by mouth once a day", "2025-02-13"),
            ("riverside", "Lisinopril 20 mg tablet, Take 1 tablet (20 mg) by mouth once a day", "2026-06-02"),
        ]),
        ("allergy-unlisted", "Natural rubber latex", [
            ("lakeside", "not on its list, which has: Amoxicillin", "2026-11-23"),
            ("riverside", "Natural rubber latex, Contact urticaria of both hands; wheeze once at the dentist",
             "2018-11-06"),
        ]),
    ]  # fmt: skip


def test_the_spine_case_has_tramadol_taken_and_stopped_and_an_intolerance_on_one_list() -> None:
    case = gathered.gathered_example("spine-surgery", "northgate", "stonebridge")
    sig = "Tramadol 50 mg tablet, Take 1 tablet (50 mg) by mouth every 6 hours as needed for pain"

    assert list(map(shown, conflicts.find(case))) == [
        ("medication-status", "Tramadol", [
            ("northgate", f"{sig}, stopped", "2025-11-20"), ("stonebridge", sig, "2025-11-20"),
        ]),
        ("allergy-unlisted", "Lisinopril (ACE inhibitor)", [
            ("northgate", "Lisinopril (ACE inhibitor), Dry cough", "2013-02-18"),
            ("stonebridge", "not on its list, which has: Cephalexin", "2026-11-23"),
        ]),
    ]  # fmt: skip


def test_every_side_names_its_copy_but_for_silence() -> None:
    case = gathered.gathered_example("breast-treatment-plan", "riverside", "lakeside")
    dose, latex = conflicts.find(case)

    assert [gathered.there(case, s.reference) for s in dose.sides] == [
        "lakeside MedicationRequest/1", "riverside MedicationRequest/1",
    ]  # fmt: skip
    assert [s.reference for s in latex.sides if s.source == "lakeside"] == [""]


def test_one_source_does_not_disagree_with_itself() -> None:
    both = [medicine("Lisinopril 10 mg", "once a day"), medicine("Lisinopril 20 mg", "once a day")]

    assert conflicts.find(case_with(one=both)) == ()


# --- medicines ----------------------------------------------------------------------------------------------------

DOSES_DIFFER = [
    (dosed("Lisinopril", 10, "mg"), dosed("Lisinopril", 20, "mg")),
    (dosed("Lisinopril", 10, "mg"), dosed("Lisinopril", 10, "mg", 2)),
    (dosed("Levothyroxine", 88, "mcg"), dosed("Levothyroxine", 0.1, "mg")),
    (dosed("Lisinopril 20 mg tablet", 1, "tablet"), dosed("Lisinopril", 10, "mg")),
    (medicine("Lisinopril", "Take 20 mg once a day"), medicine("Lisinopril", "10 mg daily")),
    (medicine("Apixaban 5 mg", "1 tablet (5 mg) twice a day"), medicine("Apixaban 5 mg", "1 tablet (5 mg) daily")),
    (medicine("Zestril", "20 mg daily", code="1"), medicine("Lisinopril", "10 mg daily", code="1")),
]
DOSES_AGREE = [
    (dosed("Lisinopril", 20, "mg"), medicine("Lisinopril 20 mg tablet", "Take 1 tablet (20 mg) by mouth once a day")),
    (dosed("Levothyroxine", 88, "mcg"), dosed("Levothyroxine", 0.088, "mg")),
    (dosed("Lisinopril 10 mg tablet", 2, "tablet"), dosed("Lisinopril", 20, "mg")),
    (dosed("Tramadol", 50, "mg", 4), dosed("Tramadol", 50, "mg", 1, 6, "h")),
    (dosed("Tramadol", 50, "mg", 4), medicine("Tramadol", "50 mg every 6 hours as needed")),
    # What can't be read is no difference.
    (medicine("Lisinopril"), dosed("Lisinopril", 20, "mg")),
    (medicine("Lisinopril", "as directed"), dosed("Lisinopril", 20, "mg")),
    (medicine("Lisinopril 10 mg", "take 2 tablets of 10 mg daily"), dosed("Lisinopril", 20, "mg")),
    (dosed("Insulin glargine", 10, "mL"), dosed("Insulin glargine", 20, "mg")),
    (dosed("Lisinopril", 10, "mg"), dosed("Losartan", 50, "mg")),
    (dosed("Lisinopril", 10, "mg"), {**dosed("Lisinopril", 20, "mg"), "intent": "plan"}),
]


@pytest.mark.parametrize(("one", "two"), DOSES_DIFFER)
def test_two_doses_of_one_medicine_are_a_conflict(one: Json, two: Json) -> None:
    assert found([one], [two]) == found([two], [one]) == ["dose"]


@pytest.mark.parametrize(("one", "two"), DOSES_AGREE)
def test_one_dose_said_in_two_ways_is_none(one: Json, two: Json) -> None:
    assert found([one], [two]) == found([two], [one]) == []


def test_two_strengths_that_are_taken_together_are_compared_together() -> None:
    morning, evening = dosed("Warfarin", 5, "mg"), dosed("Warfarin", 2.5, "mg")

    assert found([morning, evening], [evening, morning]) == []
    assert found([morning, evening], [morning]) == ["dose"]


def test_a_timing_code_is_read() -> None:
    timing = {"code": codes.concept("http://terminology.hl7.org/CodeSystem/v3-GTSAbbreviation", "BID")}
    twice = medicine("Apixaban", dosageInstruction=[{"timing": timing, "text": "5 mg"}])

    assert found([twice], [dosed("Apixaban", 5, "mg", 2)]) == []
    assert found([twice], [dosed("Apixaban", 5, "mg")]) == ["dose"]


def test_taken_here_and_stopped_there_is_a_conflict_unless_it_was_begun_anew() -> None:
    taken = medicine("Tramadol", authoredOn="2025-11-20")
    ended = {"dispenseRequest": {"validityPeriod": {"end": "2024-01-01"}}}

    assert found([taken], [medicine("Tramadol", status="stopped", authoredOn="2020-01-01")]) == ["medication-status"]
    assert found([taken], [medicine("Tramadol", status="on-hold")]) == ["medication-status"]
    assert found([taken], [medicine("Tramadol", status="stopped", **ended)]) == []
    assert found([taken], [medicine("Tramadol", status="completed")]) == []
    assert found([taken], [medicine("Tramadol", status="entered-in-error")]) == []
    # There it was stopped and begun again.
    assert found([taken], [medicine("Tramadol", status="stopped"), medicine("Tramadol")]) == []


def test_a_medicine_of_a_medication_resource_is_known_by_its_code() -> None:
    drug = {"resourceType": "Medication", "id": "9", "code": {"text": "Lisinopril 10 mg"}}
    cited = {**dosed("", 10, "mg"), "medicationReference": {"reference": "Medication/9"}}
    del cited["medicationCodeableConcept"]
    within = {**cited, "medicationReference": {"reference": "#m"}, "contained": [{**drug, "id": "m"}]}
    case = gathered.gathered(
        cases.case_of("breast-treatment-plan"),
        {"one": [PATIENT, drug, {**cited, "id": "1"}], "two": [PATIENT, {**dosed("Lisinopril", 20, "mg"), "id": "1"}]},
    )

    assert [c.kind for c in conflicts.find(case)] == ["dose"]
    assert found([within], [dosed("Lisinopril", 20, "mg")]) == ["dose"]


# --- allergies ----------------------------------------------------------------------------------------------------


def test_an_allergy_and_the_same_one_refuted_or_resolved() -> None:
    for other in (allergy("amoxicillin", "refuted"), allergy("Amoxicillin", "entered-in-error"),
                  allergy("Allergy to amoxicillin", status="resolved")):  # fmt: skip
        assert found([allergy("Amoxicillin")], [other]) == ["allergy"]


DRUG = {"category": ["medication"]}


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        (allergy("Amoxicillin", **DRUG), no_known("716186003"), ["allergy"]),
        (allergy("Amoxicillin", **DRUG), no_known("409137002"), ["allergy"]),
        (allergy("Amoxicillin", **DRUG), allergy("NKDA"), ["allergy"]),
        (allergy("Amoxicillin", **DRUG), allergy("No known allergies"), ["allergy"]),
        (allergy("Amoxicillin", **DRUG), no_known("429625007"), []),  # no known food allergy
        (allergy("Latex", category=["environment"]), no_known("409137002"), []),
        (allergy("Latex", category=["environment"]), no_known("428607008"), ["allergy"]),
        (allergy("Latex"), no_known("409137002"), ["allergy"]),  # of no said kind: rather shown
        (no_known("716186003"), no_known("409137002"), []),
        (allergy("Amoxicillin", **DRUG), no_known("716186003", verification="refuted"), []),
        (allergy("Amoxicillin", "refuted"), no_known("716186003"), []),
    ],
)
def test_an_allergy_and_no_known_allergy(one: Json, two: Json, expected: list[str]) -> None:
    assert found([one], [two]) == found([two], [one]) == expected


def test_silence_is_shown_only_of_a_list_that_was_answered_in_full_and_is_not_empty() -> None:
    latex, amoxicillin = allergy("Latex"), allergy("Amoxicillin")

    assert found([latex, amoxicillin], [amoxicillin]) == ["allergy-unlisted"]
    assert found([latex, amoxicillin], []) == []
    partial = case_with("truncated", one=[latex, amoxicillin], two=[amoxicillin])
    assert conflicts.find(partial) == ()


def test_who_says_no_is_not_silent_too() -> None:
    one = [allergy("Amoxicillin", **DRUG), allergy("Latex")]

    assert found(one, [allergy("Amoxicillin", "refuted"), allergy("Latex")]) == ["allergy"]


# --- diagnoses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        (diagnosis("Cancer", "C50.412"), diagnosis("Tumour", "C50.412", "refuted"), ["diagnosis"]),
        (diagnosis("Gout"), diagnosis("gout", verification="entered-in-error"), ["diagnosis"]),
        (diagnosis("Gout"), diagnosis("gout"), []),
        (diagnosis("Gout"), diagnosis("gout", verification="provisional"), []),
        (diagnosis("Gout", verification="refuted"), diagnosis("gout", verification="refuted"), []),
        (diagnosis("Pneumonia", onsetDateTime="2010"), diagnosis("Pneumonia", "", "refuted", onsetDateTime="2020"), []),
        (diagnosis("Breast cancer, left"), diagnosis("Breast cancer, right"), ["diagnosis"]),
        (diagnosis("Breast cancer, left"), diagnosis("Breast cancer, both"), []),  # more is not otherwise
        (diagnosis("Cancer of left breast", "C50.412"), diagnosis("Right breast tumour", "C50.411"), ["diagnosis"]),
        (diagnosis("Cancer", "C50.412", bodySite=[{"text": "left"}]),
         diagnosis("Cancer", "C50.412", bodySite=[{"text": "right"}]), ["diagnosis"]),
        (diagnosis("Fracture, left wrist", onsetDateTime="2001-02-03"),
         diagnosis("Fracture, right wrist", onsetDateTime="2015-02-03"), []),
        (diagnosis("Listhesis L4-L5", "M43.16"), diagnosis("Slip of S1", "M43.16"), ["diagnosis"]),
        (diagnosis("Carcinoma, cT2 cN0", "C50.412"), diagnosis("Carcinoma, cT3 cN0", "C50.412"), ["diagnosis"]),
        (diagnosis("Carcinoma, cT2 cN0", "C50.412"), diagnosis("Carcinoma, cT2a cN0 cM0", "C50.412"), []),
        (diagnosis("Carcinoma, cT2 cN0", "C50.412"), diagnosis("Carcinoma, pT3 pN0", "C50.412"), []),
        (diagnosis("Carcinoma, stage IIA", "C50.412"), diagnosis("Carcinoma, stage II", "C50.412"), []),
        (diagnosis("Carcinoma, stage I", "C50.412"), diagnosis("Carcinoma, stage II", "C50.412"), ["diagnosis"]),
        (diagnosis("x", "C50.412", stage=[{"summary": {"text": "anatomic stage IIA"}},
                                          {"summary": {"text": "prognostic stage IB"}}]),
         diagnosis("Carcinoma, stage IB", "C50.412"), []),
    ],
)  # fmt: skip
def test_diagnoses_that_can_not_both_be_so(one: Json, two: Json, expected: list[str]) -> None:
    assert found([one], [two]) == found([two], [one]) == expected


def test_both_sides_of_a_diagnosis_say_status_and_stage() -> None:
    [conflict] = conflicts.find(
        case_with(
            one=[diagnosis("Cancer", "C50.412", stage=[{"summary": {"text": "cT2 cN0"}}], recordedDate="2026-01-02")],
            two=[diagnosis("Tumour", "C50.412", "refuted", recordedDate="2026-03-04T10:00:00Z")],
        )
    )

    assert shown(conflict)[2] == [("one", "Cancer, cT2 cN0", "2026-01-02"), ("two", "Tumour, refuted", "2026-03-04")]


# --- properties ---------------------------------------------------------------------------------------------------

a_statement = st.one_of(
    st.builds(dosed, st.sampled_from(["Lisinopril", "Apixaban"]), st.sampled_from([5, 10]), st.just("mg")),
    st.builds(allergy, st.sampled_from(["Latex", "Amoxicillin", "NKDA"]), st.sampled_from(["confirmed", "refuted"])),
    st.builds(diagnosis, st.sampled_from(["Gout, left", "Gout, right", "Gout"]), st.just(""),
              st.sampled_from(["confirmed", "refuted"])),
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.lists(a_statement, max_size=5), st.lists(a_statement, max_size=5))
def test_a_conflict_has_sides_of_two_sources_and_does_not_depend_on_their_order(
    one: list[Json], two: list[Json]
) -> None:
    forth = conflicts.find(case_with(one=one, two=two))
    back = conflicts.find(case_with(two=two[::-1], one=one[::-1]))

    assert all(len({side.source for side in c.sides}) == 2 for c in forth)
    assert {(c.kind, frozenset(map(str, shown(c)[2]))) for c in forth} == {
        (c.kind, frozenset(map(str, shown(c)[2]))) for c in back
    }
    assert all(c.kind in conflicts.WORDS for c in forth)


@settings(deadline=None, max_examples=60)
@given(st.lists(a_statement, max_size=6))
def test_two_sources_that_say_the_same_do_not_disagree(said: list[Json]) -> None:
    assert conflicts.find(case_with(one=said, two=said)) == ()
