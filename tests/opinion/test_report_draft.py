"""The reviewer's draft ↔ FHIR: nothing is lost either way, and nothing goes out that may not be signed."""

from __future__ import annotations

import copy
import json
from typing import Any

import cases
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator

from fhir_secondop.errors import Invalid, Issue
from fhir_secondop.fhir.validate import validate
from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes, document, narrative, report
from fhir_secondop.opinion.case import Case, derived_id, reference
from fhir_secondop.opinion.report import Draft

BREAST, SPINE = cases.EXAMPLES
CASE = cases.case_of(SPINE)
SIGNED = cases.signed(CASE, cases.draft_of(SPINE))
FIRST = f"DiagnosticReport/{derived_id(CASE.id, 'report')}/_history/4"
AMENDED = {"version": 2, "replaces": FIRST, "composition_version": "4"}
SCHEMA = Draft202012Validator(
    json.loads((cases.ROOT / "profiles" / "schemas" / "report-draft.json").read_text("utf-8"))
)
GAPS = ("problems", "medications", "images", "pathology-report")

# What JSON and XML both can carry. What XML can't is tested on its own below.
CHARACTERS = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff")
WORDS = st.text(CHARACTERS, min_size=1, max_size=20).filter(lambda t: t.strip() == t and t.strip())
LINES = st.lists(WORDS, min_size=1, max_size=3).map("\n".join)
TEXTS = st.lists(LINES, min_size=1, max_size=3).map("\n\n".join) | st.sampled_from(
    ["<script>alert(1)</script> & co", '"quoted" \\ back', "#set text(red) *bold* [x]", "שלום, مرحبا", "🫀 ❤️‍🩹 👩🏽‍⚕️",
     "a\tb", "a\rb", "line\r\nline\r\n\r\nline", "a\n\n\n\nb", "x" * 3000, "]]>", "&amp;", "a\u00a0b", "1 < 2 > 0"]
)  # fmt: skip


def optional(**strategies: Any) -> Any:
    return st.fixed_dictionaries({}, optional=strategies)


CODING = st.fixed_dictionaries({"system": st.just("http://hl7.org/fhir/sid/icd-10-cm"), "code": st.just("M43.16")})
PROPOSED = st.fixed_dictionaries(
    {"text": TEXTS.map(lambda text: text[:2000])}, optional={"code": CODING, "site": CODING}
)


@st.composite
def items(draw: Any) -> list[dict[str, Any]]:
    places = [(n, axis) for n in range(len(CASE.items)) for axis in ("diagnosis", "treatment")]
    chosen = draw(st.lists(st.sampled_from(places), unique=True, max_size=len(places)))
    made = []
    for place, axis in sorted(chosen):
        known = codes.DIAGNOSIS_CODES if axis == "diagnosis" else codes.TREATMENT_CODES
        more = draw(optional(significance=st.sampled_from(codes.SIGNIFICANCES), basis=TEXTS, wouldChange=TEXTS,
                             missing=TEXTS, confidence=st.sampled_from(["low", "moderate", "high"]),
                             proposed=PROPOSED))  # fmt: skip
        made.append({"item": place, "axis": axis, "concordance": draw(st.sampled_from(known)), **more})
    return made


@st.composite
def answers(draw: Any) -> list[dict[str, Any]]:
    numbers = draw(st.sets(st.integers(0, len(CASE.questions) - 1)))
    return [{"question": n, draw(st.sampled_from(["text", "cannotAnswer"])): draw(TEXTS)} for n in sorted(numbers)]


RECOMMENDATIONS = st.lists(
    st.fixed_dictionaries(
        {"text": TEXTS},
        optional={"strength": st.sampled_from(["strong", "conditional"]),
                  "kind": st.sampled_from(["test", "plan", "information"])},
    ),
    min_size=1, max_size=3,
)  # fmt: skip
OPTIONS = st.lists(
    st.fixed_dictionaries(
        {"text": TEXTS.map(lambda text: text[:2000]), "preference": st.sampled_from(codes.OPTION_PREFERENCES)},
        optional={"forWhom": TEXTS, "advantages": TEXTS, "disadvantages": TEXTS},
    ),
    min_size=1, max_size=3,
)  # fmt: skip
DRAFTS = st.fixed_dictionaries(
    {"conclusion": TEXTS, "items": items(), "answers": answers()},
    optional={
        "history": TEXTS, "findings": TEXTS, "assessment": TEXTS, "recommendations": RECOMMENDATIONS,
        "options": OPTIONS,
        "gapsConfirmed": st.lists(st.sampled_from(GAPS), min_size=1, unique=True),
    },
)  # fmt: skip


def composed(draft: Draft, **how: Any) -> list[Resource]:
    """What a draft becomes; with AMENDED it replaces what was signed before."""
    return cases.composed(SIGNED if "replaces" in how else CASE, draft, **how)


def read_back(draft: Draft, stage: str = "") -> Draft:
    """The draft after it was composed, written as JSON, stored and loaded."""
    stored = [cases.stored(r) for r in composed(draft, stage=stage)]
    return report.from_fhir(Case(CASE.id, [*CASE.resources, *stored]), stage)


# --- round trip -------------------------------------------------------------------------------------------------


@given(draft=DRAFTS, stage=st.sampled_from(["", "amendment"]))
@settings(max_examples=60, deadline=None)
def test_a_draft_comes_back_from_fhir_as_it_was_written(draft: Draft, stage: str) -> None:
    assert list(SCHEMA.iter_errors(draft)) == []

    assert read_back(draft, stage) == draft


@given(draft=DRAFTS, status=st.sampled_from(["registered", "preliminary", "final", "amended", "corrected", "appended"]))
@settings(max_examples=25, deadline=None)
def test_all_that_a_draft_becomes_is_valid_r4(draft: Draft, status: str) -> None:
    for item in draft["items"]:
        if item["concordance"] == "indeterminate":
            item.setdefault("missing", "the films")

    for resource in composed(
        draft, status=status, **(AMENDED if status in ("amended", "corrected", "appended") else {})
    ):
        assert validate(cases.stored(resource)) == []


@given(draft=DRAFTS)
@settings(max_examples=10, deadline=None)
def test_composing_a_draft_twice_gives_the_same_and_leaves_the_draft_alone(draft: Draft) -> None:
    before = copy.deepcopy(draft)

    assert composed(draft) == composed(draft)
    assert draft == before


@pytest.mark.parametrize("example", cases.EXAMPLES)
def test_the_drafts_of_the_examples_come_back_as_they_were_written(example: str) -> None:
    for draft in (cases.draft_of(example), cases.amended_draft_of(example)):
        assert report.from_fhir(cases.with_report(cases.case_of(example), draft)) == draft


def test_several_confirmed_gaps_come_back_one_by_one() -> None:
    draft = {**cases.draft_of(SPINE), "gapsConfirmed": ["problems", "images", "notes"]}

    assert read_back(draft)["gapsConfirmed"] == ["problems", "images", "notes"]


def test_answers_and_items_come_back_whatever_the_order_they_were_written_in() -> None:
    draft = cases.draft_of(SPINE)
    turned = {**draft, "answers": draft["answers"][::-1], "items": draft["items"][::-1]}

    assert read_back(turned) == draft


def test_the_draft_of_an_amendment_stands_beside_the_signed_report() -> None:
    signed, drafted = cases.draft_of(SPINE), cases.amended_draft_of(SPINE)
    both = [*composed(signed, status="final"), *composed(drafted, stage="amendment", version=2)]
    assert len({reference(r) for r in both}) == len(both)

    case = Case(CASE.id, [*CASE.resources, *both])

    assert report.from_fhir(case) == signed
    assert report.from_fhir(case, "amendment") == drafted


@pytest.mark.parametrize("character", ["\x01", "\x08", "\x0b", "\x1f", "\ufffe"])
@pytest.mark.parametrize("member", ["conclusion", "history"])
def test_a_character_that_no_document_can_hold_is_refused_and_no_crash(member: str, character: str) -> None:
    """R4: a string has no characters below U+0020 but for tab, line feed and carriage return."""
    draft = {**cases.draft_of(SPINE), member: f"before{character}after"}

    with pytest.raises(Invalid):
        composed(draft)


@pytest.mark.parametrize("character", ["\x01", "\x1f"])
@pytest.mark.parametrize("member", ["basis", "wouldChange", "missing"])
def test_a_control_character_in_a_judgement_is_refused_or_found_by_the_validator(member: str, character: str) -> None:
    """It stands in no narrative, but in the PDF it would."""
    judgement = {**cases.draft_of(SPINE)["items"][0], member: f"before{character}after"}
    try:
        resources = composed({**cases.draft_of(SPINE), "items": [judgement]})
    except Invalid:
        return

    assert [fault for r in resources for fault in validate(cases.stored(r))] != []


@pytest.mark.parametrize("member", ["conclusion", "history", "findings", "assessment"])
@pytest.mark.parametrize("blank", [" ", "\n", "\n\n \n"])
def test_a_text_of_nothing_but_space_is_refused_or_comes_back(member: str, blank: str) -> None:
    draft = {**cases.draft_of(SPINE), member: blank}
    try:
        resources = composed(draft)
    except Invalid:
        return

    assert [fault for r in resources for fault in validate(cases.stored(r))] == []
    assert read_back(draft)[member].strip() == ""


# --- what the resources say -------------------------------------------------------------------------------------


def of_kind(resources: list[Resource], kind: str) -> list[Resource]:
    return [r for r in resources if r["resourceType"] == kind]


def test_each_judgement_points_at_what_the_reviewer_meant() -> None:
    """Item N of the draft is item N of underReview."""
    for example in cases.EXAMPLES:
        case, plain = cases.case_of(example), cases.request_of(example)
        titles = {reference(r): r.get("description") or r["code"].get("text") for r in case.resources
                  if r["resourceType"] in ("Condition", "CarePlan")}  # fmt: skip
        made = report.to_fhir(case, cases.draft_of(example), status="final", version=1, now=cases.NOW,
                              reviewer=cases.person_ref("the-reviewer"))  # fmt: skip
        judged = [
            (titles[o["focus"][0]["reference"]], o["valueCodeableConcept"]["coding"][0]["code"])
            for o in of_kind(made, "Observation")
            if "focus" in o
        ]
        meant = [(plain["underReview"][i["item"]]["text"], i["concordance"]) for i in cases.draft_of(example)["items"]]
        assert judged == meant


def test_the_report_says_what_the_design_asks_of_it() -> None:
    resources = composed(cases.draft_of(SPINE), status="final")
    made, composition = resources[-1], resources[-2]

    assert (made["resourceType"], composition["resourceType"]) == ("DiagnosticReport", "Composition")
    assert made["basedOn"] == [{"reference": f"ServiceRequest/{cases.CASE_ID}"}]
    assert {c["code"] for c in made["code"]["coding"]} >= {"47040-1", "11488-4"}
    assert codes.has(made["category"][0], codes.V2_DIAGNOSTIC_SERVICE, "PHY")
    assert {r["reference"].partition("/")[0] for r in made["result"]} == {"Observation"}
    assert len(made["result"]) == len(cases.draft_of(SPINE)["items"]) + 1
    assert {r["subject"]["reference"] for r in resources if "subject" in r} == {reference(CASE.patient)}
    assert composition["identifier"] == made["identifier"][0]
    assert not {"composition", "relatesTo", "note"} & set(made)


def test_options_say_for_whom_and_what_speaks_for_and_against_and_which_is_preferred() -> None:
    option, _ = of_kind(composed(cases.draft_of(SPINE), status="final"), "CarePlan")

    first, *others = option["activity"]
    assert (option["intent"], len(others)) == ("option", 2)
    assert codes.code_of(first["detail"]["code"], codes.OPTION_PREFERENCE) == "preferred"
    assert [part["url"] for part in first["extension"][0]["extension"]] == ["for-whom", "advantages", "disadvantages"]
    assert {codes.code_of(a["detail"]["code"], codes.OPTION_PREFERENCE) for a in others} == {
        "acceptable", "not-advised",
    }  # fmt: skip
    sections = {s["title"]: s for s in composed(cases.draft_of(SPINE))[-2]["section"]}
    assert sections["Options"]["entry"] == [{"reference": reference(option)}]


def test_recommendations_leave_as_a_proposal_and_never_as_an_order() -> None:
    resources = composed(cases.draft_of(SPINE), status="final")

    plans = of_kind(resources, "CarePlan")
    assert [(p["intent"], p["status"]) for p in plans] == [("option", "draft"), ("proposal", "draft")]
    assert not of_kind(resources, "ServiceRequest") + of_kind(resources, "MedicationRequest")


@pytest.mark.parametrize(
    ("status", "of_composition"),
    [("registered", "preliminary"), ("preliminary", "preliminary"), ("final", "final"), ("amended", "amended"),
     ("corrected", "amended"), ("appended", "amended"), ("entered-in-error", "entered-in-error")],
)  # fmt: skip
def test_a_composition_has_a_status_that_r4_knows(status: str, of_composition: str) -> None:
    resources = composed(cases.draft_of(SPINE), status=status, **(AMENDED if of_composition == "amended" else {}))

    assert resources[-1]["status"] == status
    assert resources[-2]["status"] == of_composition
    assert validate(cases.stored(resources[-2])) == []


def test_an_amendment_cites_the_version_before_by_versioned_references() -> None:
    resources = composed(cases.amended_draft_of(SPINE), status="corrected", **AMENDED)

    assert codes.extension_value(resources[-1], codes.SUPERSEDES) == {"reference": FIRST}
    before = f"Composition/{derived_id(CASE.id, 'composition')}/_history/4"
    assert resources[-2]["relatesTo"] == [{"code": "replaces", "targetReference": {"reference": before}}]


def test_an_amendment_keeps_the_ids_and_set_ids_of_the_report() -> None:
    first = composed(cases.draft_of(SPINE), status="final")
    second = composed(cases.amended_draft_of(SPINE), status="corrected", **AMENDED)

    for one, other in zip(first[-2:], second[-2:], strict=True):
        assert (one["id"], one["identifier"]) == (other["id"], other["identifier"])
    assert (report.version_of(first[-1]), report.version_of(second[-1])) == (1, 2)


def test_a_draft_without_any_assessed_axis_has_no_overall_concordance() -> None:
    draft = {**cases.draft_of(SPINE), "items": [{"item": 0, "axis": "diagnosis", "concordance": "not-assessed"}]}

    assert [o["code"]["coding"][0]["code"] for o in of_kind(composed(draft), "Observation")] == [
        "diagnosis-concordance"
    ]


# --- checks -----------------------------------------------------------------------------------------------------


def check_draft(**changes: Any) -> dict[str, str]:
    try:
        report.check_draft(CASE, {**cases.draft_of(SPINE), **changes})
    except Invalid as error:
        return {issue.expression: issue.code for issue in error.issues}
    return {}


def judged(item: int, axis: str = "diagnosis", concordance: str = "confirmed") -> dict[str, Any]:
    return {"item": item, "axis": axis, "concordance": concordance}


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({}, {}),
        ({"items": [judged(0), judged(0, "treatment", "agreed")]}, {}),
        ({"items": [judged(3)]}, {"items[0].item": "not-found"}),
        ({"items": [judged(0), judged(99)]}, {"items[1].item": "not-found"}),
        ({"items": [judged(1), judged(1)]}, {"items[1]": "duplicate"}),
        ({"answers": [{"question": 4, "text": "x"}]}, {"answers[0].question": "not-found"}),
        ({"answers": [{"question": 1, "text": "x"}, {"question": 1, "cannotAnswer": "y"}]},
         {"answers[1]": "duplicate"}),
        ({"items": [judged(7)], "answers": [{"question": 9, "text": "x"}]},
         {"items[0].item": "not-found", "answers[0].question": "not-found"}),
    ],
)  # fmt: skip
def test_a_draft_names_only_what_the_case_has_and_each_once(changes: dict[str, Any], faults: dict[str, str]) -> None:
    assert check_draft(**changes) == faults


def to_do(missing: list[str] | None = None, **changes: Any) -> list[str]:
    try:
        report.check_signable(CASE, {**cases.draft_of(SPINE), **changes}, missing or [])
    except Invalid as error:
        return [issue.expression for issue in error.issues]
    return []


def weighed(preference: str) -> dict[str, str]:
    return {"text": "Surgery", "preference": preference}


ANSWERED = cases.draft_of(SPINE)["answers"]


@pytest.mark.parametrize(
    ("missing", "changes", "expected"),
    [
        ([], {}, []),
        ([], {"items": []}, ["items"]),
        ([], {"items": [judged(0, concordance="not-assessed")]}, ["items"]),
        ([], {"items": [judged(0, concordance="not-assessed"), judged(1)]}, []),
        ([], {"answers": ANSWERED[1:]}, ["answers[question=0]"]),
        ([], {"answers": []}, [f"answers[question={n}]" for n in range(4)]),
        ([], {"answers": [*ANSWERED[:3], {"question": 3, "cannotAnswer": "no images"}]}, []),
        ([], {"items": [judged(0, concordance="indeterminate")]}, ["items[0].missing"]),
        ([], {"items": [{**judged(0, concordance="indeterminate"), "missing": "the films"}]}, []),
        (["images"], {}, ["gapsConfirmed"]),
        (["images"], {"gapsConfirmed": ["notes"]}, ["gapsConfirmed"]),
        (["images", "notes"], {"gapsConfirmed": ["notes"]}, ["gapsConfirmed"]),
        (["images", "notes"], {"gapsConfirmed": ["notes", "images"]}, []),
        ([], {"options": [weighed("acceptable")]}, []),
        ([], {"options": [weighed("preferred"), weighed("not-advised"), weighed("acceptable")]}, []),
        (
            [],
            {"options": [weighed("preferred"), weighed("acceptable"), weighed("preferred")]},
            ["options[2].preference"],
        ),
        (["images"], {"items": [], "answers": ANSWERED[1:]}, ["items", "answers[question=0]", "gapsConfirmed"]),
    ],
)
def test_everything_that_stands_between_a_draft_and_its_signature_is_named(
    missing: list[str], changes: dict[str, Any], expected: list[str]
) -> None:
    assert to_do(missing, **changes) == expected


def critical(item: int, axis: str = "diagnosis", contact: str = "") -> dict[str, Any]:
    told = {"urgentContact": contact} if contact else {}
    return {**judged(item, axis), "significance": "critical", **told}


@pytest.mark.parametrize(
    ("items", "spoken", "kind", "expected"),
    [
        ([critical(0)], "", "final", ["items[0].urgentContact"]),
        ([critical(0)], "a", "final", ["items[0].urgentContact"]),  # an earlier call about something else
        ([critical(0, contact="a")], "", "final", ["items[0].urgentContact"]),  # nobody has spoken yet
        ([critical(0, contact="a")], "b", "final", ["items[0].urgentContact"]),
        ([critical(0, contact="a")], "a", "final", []),
        ([critical(0, contact="a"), critical(1, contact="a")], "ab", "final", ["items[1].urgentContact"]),
        ([critical(0, contact="a"), critical(1, contact="b")], "ab", "final", []),
        ([critical(0, contact="a"), critical(0, "treatment", "a")], "a", "final", []),  # one finding, both axes
        ([critical(0)], "", "amended", ["items[0].urgentContact"]),
        ([critical(0)], "", "entered-in-error", []),
    ],
)
def test_each_critical_item_is_signed_with_a_recorded_conversation_of_its_own(
    items: list[dict[str, Any]], spoken: str, kind: str, expected: list[str]
) -> None:
    found: list[Issue] = []
    try:
        report.check_signable(CASE, {**cases.draft_of(SPINE), "items": items}, [], kind, spoken=frozenset(spoken))
    except Invalid as error:
        found = list(error.issues)
    assert [issue.expression for issue in found] == expected


def test_the_contact_in_which_an_item_was_told_is_kept() -> None:
    draft = read_back({**cases.draft_of(SPINE), "items": [critical(0, contact="some-task")]})
    assert draft["items"][0]["urgentContact"] == "some-task"


def test_a_draft_with_several_confirmed_gaps_can_be_signed_after_it_was_stored() -> None:
    draft = read_back({**cases.draft_of(SPINE), "gapsConfirmed": ["images", "notes"]})

    report.check_signable(CASE, draft, ["images", "notes"])


# --- narrative --------------------------------------------------------------------------------------------------


@given(text=TEXTS)
@settings(max_examples=60, deadline=None)
def test_plain_text_survives_the_narrative_as_data(text: str) -> None:
    body = narrative.div(text)

    assert narrative.text(body) == text
    assert "<script" not in body
    composition = {"resourceType": "Patient", "text": {"status": "generated", "div": body}}
    assert validate(composition) == []


@given(lines=st.lists(WORDS, min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_the_lines_of_a_list_are_kept_apart(lines: list[str]) -> None:
    assert narrative.text(narrative.bullets(lines)).split("\n") == lines


def test_the_document_of_an_amendment_cites_the_version_before_outside_of_itself() -> None:
    resources = composed(cases.amended_draft_of(SPINE), status="corrected", **AMENDED)

    abroad = [document.citing_abroad(each, "https://secondop.example/fhir") for each in resources]

    assert codes.extension_value(abroad[-1], codes.SUPERSEDES) == {
        "reference": f"https://secondop.example/fhir/{FIRST}"
    }
    cited = abroad[-2]["relatesTo"][0]["targetReference"]["reference"]
    assert cited.startswith("https://secondop.example/fhir/Composition/")
    # What is in the document is cited as before.
    assert [each["subject"] for each in abroad] == [each["subject"] for each in resources]
