"""DOMAIN section 6 as a table: who holds the version, who is informed, who is aligned, and what the board says."""

from __future__ import annotations

import itertools
from typing import Any

import cases
import pytest

from fhir_secondop.model import Resource
from fhir_secondop.opinion import alignment, codes
from fhir_secondop.opinion.alignment import Board, Row
from fhir_secondop.opinion.case import Case, derived_id, reference

SPINE, BREAST = "spine-surgery", "breast-treatment-plan"
# The audience of the breast example, by what DOMAIN section 6 demands of each.
PCP, SURGEON, AUTHOR, CARE_TEAM = "pcp", "surgeon", "oncologist", "radiation-oncologist"
EVERYBODY = (PCP, SURGEON, AUTHOR, CARE_TEAM)


def report_of(version: int = 1, status: str = "final") -> Resource:
    """The report; it cites the judgements "judgement" and "another axis", not that of a draft."""
    cited = [{"reference": f"Observation/{cases.new_uuid(name)}"} for name in ("judgement", "another axis")]
    return {"resourceType": "DiagnosticReport", "id": derived_id(cases.CASE_ID, "report"), "status": status,
            "result": cited,
            "extension": [{"url": codes.REPORT_VERSION, "valuePositiveInt": version}]}  # fmt: skip


def judgement(significance: str, concordance: str = "agreed-modified", name: str = "judgement") -> Resource:
    return {
        "resourceType": "Observation", "id": cases.new_uuid(name), "status": "final",
        "code": codes.concept(codes.SECTION, "treatment-concordance"),
        "valueCodeableConcept": codes.concept(codes.TREATMENT_CONCORDANCE, concordance),
        "component": [{"code": codes.concept(codes.SECTION, "significance"),
                       "valueCodeableConcept": codes.concept(codes.SIGNIFICANCE, significance)}],
    }  # fmt: skip


def plan_of(decision: str = "adopt-in-part", cites: int = 1, version: int = 1, by: str = SURGEON) -> Resource:
    return {
        "resourceType": "CarePlan", "id": derived_id(cases.CASE_ID, "plan"), "status": "active", "intent": "plan",
        "author": {"reference": cases.person_ref(by)}, "created": cases.NOW, "description": "x",
        "extension": [{"url": codes.DECISION_EXTENSION, "valueCode": decision},
                      {"url": codes.CITES_REPORT, "valuePositiveInt": cites},
                      {"url": codes.REPORT_VERSION, "valuePositiveInt": version}],
    }  # fmt: skip


def task(who: str, version: int = 1, kind: str = "deliver-report", **facts: str) -> Resource:
    return cases.delivery(cases.person_ref(who), version, kind=kind, **facts)


VERIFIED = {"sent": "accepted", "copy": "verified", "business": "verified"}
UNVERIFIABLE = {"sent": "unknown", "copy": "unverifiable", "business": "unverifiable"}
SIGNED = {"ack": "signed-in", "ack_by": "a person"}
DECIDED = {"decision": "adopt-in-part"}
DONE: dict[str, dict[str, str]] = {
    PCP: {**VERIFIED, **SIGNED, **DECIDED},
    SURGEON: {**VERIFIED, **SIGNED, **DECIDED},
    AUTHOR: dict(VERIFIED),
    CARE_TEAM: {**UNVERIFIABLE, **SIGNED},
}
PLAN_DONE: dict[str, dict[str, str]] = {
    PCP: {**VERIFIED, **SIGNED}, SURGEON: {**VERIFIED, **SIGNED}, AUTHOR: dict(VERIFIED),
    CARE_TEAM: {**UNVERIFIABLE, **SIGNED},
}  # fmt: skip


def case_of(
    facts: dict[str, dict[str, str]] | None = None, *more: Resource, version: int = 1, significance: str = "major",
    plan: Resource | None = None, plan_facts: dict[str, dict[str, str]] | None = None, status: str = "final",
) -> Case:  # fmt: skip
    """The breast case with a signed report of that version; `facts` replace those of the golden case by person."""
    of_report = {**DONE, **(facts or {})}
    of_plan = {**PLAN_DONE, **(plan_facts or {})}
    plan = plan_of(cites=version) if plan is None else plan
    tasks = [task(who, version, **said) for who, said in of_report.items()]
    tasks += [task(who, 1, "deliver-plan", **said) for who, said in of_plan.items()]
    parts = [report_of(version, status), judgement(significance), *([plan] if plan else []), *tasks, *more]
    return cases.case_of(BREAST, *parts)


def board(case: Case) -> Board:
    found = alignment.board(case)
    assert found is not None
    return found


def row(case: Case, who: str) -> Row:
    return next(r for r in board(case).rows if r.member.person.reference == cases.person_ref(who))


def test_golden_case_is_aligned_and_waits_for_nobody() -> None:
    found = board(case_of())

    assert [r.state for r in found.rows] == ["aligned"] * 4
    assert (found.informed, found.aligned, found.plan, found.waiting_for) == (True, True, "adopt-in-part", ())


def test_there_is_no_board_before_a_report_is_signed() -> None:
    assert alignment.board(cases.case_of(BREAST)) is None
    for status in ("registered", "preliminary"):
        assert alignment.board(case_of(status=status)) is None


# --- holds ------------------------------------------------------------------------------------------------------

HOLDS = [
    (sent, copy, ack, copy == "verified" or ack != "none")
    for sent, copy, ack in itertools.product(
        ("no", "accepted", "refused", "unknown"), ("none", "verified", "unverifiable"), ("none", "signed-in", "link")
    )
]


@pytest.mark.parametrize(("sent", "copy", "ack", "holds"), HOLDS)
def test_a_provider_holds_a_verified_copy_or_one_it_acknowledged(sent: str, copy: str, ack: str, holds: bool) -> None:
    """The author of what is under review: of him nothing but holding it is required."""
    case = case_of({AUTHOR: {"sent": sent, "copy": copy, "ack": ack}})

    found = row(case, AUTHOR)
    assert found.held.holds is holds
    assert found.aligned is holds
    assert board(case).informed is holds
    assert board(case).aligned is holds


def test_unverifiable_alone_never_counts_whatever_was_sent() -> None:
    for sent in ("accepted", "unknown"):
        case = case_of({AUTHOR: {**UNVERIFIABLE, "sent": sent}})
        assert row(case, AUTHOR).state == "unknown"
        assert not board(case).informed


def test_unverifiable_with_an_acknowledgement_counts_and_says_so() -> None:
    found = row(case_of(), CARE_TEAM)

    assert found.aligned
    assert alignment.words(found) == "aligned (acknowledged, unverified)"


def test_a_verified_copy_is_never_called_unverified() -> None:
    assert alignment.words(row(case_of(), PCP)) == "aligned"
    assert alignment.words(row(case_of({CARE_TEAM: {}}), CARE_TEAM)) == "unknown"


def test_nobody_is_informed_by_a_case_without_anybody() -> None:
    """Nobody asked, nobody decides, no PCP: "informed" may not be true of an empty audience."""
    plain = cases.with_reviewer(cases.request_of(SPINE, pcp=None, decision=None, underReview=None, inform=None), SPINE)
    found = alignment.board(Case(cases.CASE_ID, [*cases.case_of(SPINE, plain=plain).resources, report_of()]))

    assert found is not None
    assert found.rows == ()
    assert not found.aligned
    assert not found.informed


# --- what is required of whom -----------------------------------------------------------------------------------


@pytest.mark.parametrize("significance", codes.SIGNIFICANCES)
def test_the_pcp_must_decide_only_when_the_finding_is_major_or_more(significance: str) -> None:
    undecided = case_of({PCP: {**VERIFIED, **SIGNED}}, significance=significance)

    assert row(undecided, PCP).aligned is (significance in ("none", "minor"))
    assert board(undecided).aligned is (significance in ("none", "minor"))


@pytest.mark.parametrize("significance", codes.SIGNIFICANCES)
def test_the_decision_owner_must_always_decide(significance: str) -> None:
    found = row(case_of({SURGEON: {**VERIFIED, **SIGNED}}, significance=significance), SURGEON)

    assert not found.aligned
    assert "decision" in found.waiting_for


@pytest.mark.parametrize("who", [PCP, SURGEON])
def test_pcp_and_decision_owner_must_acknowledge_even_what_is_verified(who: str) -> None:
    case = case_of({who: {**VERIFIED, **DECIDED}})

    assert row(case, who).state == "informed"
    assert "acknowledgement" in row(case, who).waiting_for
    assert board(case).informed
    assert not board(case).aligned


def test_a_requester_who_is_neither_pcp_nor_owner_must_acknowledge_and_need_not_decide() -> None:
    """The oncologist asks instead of the PCP."""
    plain = cases.with_reviewer(cases.request_of(BREAST, requester=AUTHOR), BREAST)

    def aligned(facts: dict[str, str]) -> bool:
        parts = [r for r in case_of({AUTHOR: facts}, plan_facts={AUTHOR: {**VERIFIED, **SIGNED}}).resources
                 if r["resourceType"] in ("DiagnosticReport", "Observation", "CarePlan", "Task")
                 and ("description" in r or "partOf" in r or r["resourceType"] != "CarePlan")]  # fmt: skip
        opened = cases.case_of(BREAST, plain=plain)
        known = {reference(r) for r in opened.resources}
        case = Case(cases.CASE_ID, [*opened.resources, *(r for r in parts if reference(r) not in known)])
        return board(case).aligned

    assert not aligned(VERIFIED)
    assert aligned({**VERIFIED, **SIGNED})


def test_the_significance_of_an_axis_that_was_not_assessed_demands_nothing() -> None:
    not_assessed = judgement("critical", "not-assessed", "another axis")

    assert board(case_of({PCP: {**VERIFIED, **SIGNED}}, not_assessed, significance="minor")).aligned


def test_the_draft_of_an_amendment_demands_nothing_before_it_is_signed() -> None:
    """ "While the amendment is a draft, the version before stays current"."""
    drafted = {**judgement("critical", name="draft"), "status": "registered"}

    assert board(case_of({PCP: {**VERIFIED, **SIGNED}}, drafted, significance="minor")).aligned


def test_the_patient_who_asked_is_no_row_and_never_blocks() -> None:
    case = cases.case_of(SPINE, report_of(), judgement("major"), plan_of(by="surgeon"))
    people = ("pcp", "surgeon", "neurologist", "physiotherapist")
    tasks = [
        cases.delivery(cases.person_ref(who), 1, kind=kind, **VERIFIED, **SIGNED, **DECIDED)
        for who in people
        for kind in ("deliver-report", "deliver-plan")
    ]
    found = board(Case(case.id, [*case.resources, *tasks]))

    assert {r.member.person.reference for r in found.rows} == {cases.person_ref(who) for who in people}
    assert found.aligned


# --- plan of record and decisions -------------------------------------------------------------------------------


def test_without_a_plan_of_record_all_are_informed_and_none_is_aligned() -> None:
    found = board(case_of(plan={}, plan_facts={who: {} for who in EVERYBODY}))

    assert [r.state for r in found.rows] == ["informed"] * 4
    assert (found.informed, found.aligned) == (True, False)
    assert found.waiting_for == ("the decision owner's plan of record",)


@pytest.mark.parametrize("who", EVERYBODY)
def test_everybody_must_hold_the_plan_of_record_too(who: str) -> None:
    case = case_of(plan_facts={who: {**UNVERIFIABLE}})

    assert row(case, who).state == "informed"
    assert "plan of record" in row(case, who).waiting_for
    assert not board(case).aligned


@pytest.mark.parametrize("who", [PCP, SURGEON])
def test_who_must_acknowledge_the_report_must_acknowledge_the_plan_of_record(who: str) -> None:
    assert not row(case_of(plan_facts={who: dict(VERIFIED)}), who).aligned


def test_a_plan_of_record_that_cites_an_older_report_counts_for_nothing() -> None:
    found = board(case_of(version=2, plan=plan_of(cites=1)))

    assert not found.aligned
    assert found.plan == ""


def test_a_plan_of_record_of_somebody_who_does_not_decide_counts_for_nothing() -> None:
    found = board(case_of(plan=plan_of(by=AUTHOR)))

    assert not found.aligned


def test_a_plan_of_record_that_was_revoked_counts_for_nothing() -> None:
    assert not board(case_of(plan={**plan_of(), "status": "revoked"})).aligned


def test_an_older_version_of_the_plan_of_record_is_not_enough() -> None:
    assert not board(case_of(plan=plan_of(version=2))).aligned


CONTRADICT = {
    ("adopt", "keep-current"), ("adopt", "patient-declined"), ("adopt-in-part", "keep-current"),
    ("adopt-in-part", "patient-declined"),
}  # fmt: skip


@pytest.mark.parametrize("decision", codes.DECISIONS)
@pytest.mark.parametrize("plan", codes.DECISIONS)
def test_decisions_against_the_plan_of_record_keep_a_case_unaligned_either_way_round(plan: str, decision: str) -> None:
    pcp, owner = {**VERIFIED, **SIGNED, "decision": decision}, {**VERIFIED, **SIGNED, "decision": plan}
    case = case_of({PCP: pcp, SURGEON: owner}, plan=plan_of(plan))
    contradicts = (plan, decision) in CONTRADICT or (decision, plan) in CONTRADICT
    is_open = "seek-third-opinion" in (plan, decision)

    assert board(case).aligned is not (contradicts or is_open)
    assert board(case).informed
    if contradicts or decision == "seek-third-opinion":
        assert row(case, PCP).state == "to-check"


def test_a_plan_of_record_that_seeks_a_third_opinion_keeps_the_case_unaligned() -> None:
    assert not board(case_of(plan=plan_of("seek-third-opinion"))).aligned


@pytest.mark.parametrize("who", EVERYBODY)
def test_a_wish_for_a_third_opinion_by_anybody_keeps_the_case_unaligned_until_he_decides_again(who: str) -> None:
    assert not board(case_of({who: {**DONE[who], "decision": "seek-third-opinion"}})).aligned
    assert board(case_of({who: {**DONE[who], "decision": "adopt-in-part"}})).aligned


# --- versions ---------------------------------------------------------------------------------------------------


def amended(facts: dict[str, dict[str, str]], **how: Any) -> Case:
    """Version 2 is signed; everybody had version 1."""
    of_first = [task(who, 1, **said) for who, said in DONE.items()]
    return case_of({**{who: {} for who in EVERYBODY}, **facts}, *of_first, version=2, **how)


def test_an_amendment_sets_everybody_back_until_they_hold_the_new_version() -> None:
    found = board(amended({}))

    assert [r.state for r in found.rows] == ["behind"] * 4
    assert [r.version for r in found.rows] == [1] * 4
    assert (found.version, found.informed, found.aligned) == (2, False, False)


def test_decisions_and_acknowledgements_of_the_version_before_do_not_count_for_the_new_one() -> None:
    case = amended({PCP: dict(VERIFIED), SURGEON: dict(VERIFIED)}, plan=plan_of(cites=2))

    assert row(case, PCP).held.decision == "none"
    assert row(case, SURGEON).held.ack == "none"
    assert not row(case, PCP).aligned
    assert not row(case, SURGEON).aligned


def test_all_are_aligned_again_once_they_hold_and_decided_on_the_new_version() -> None:
    new = {who: {**said, "superseded": "marked"} for who, said in DONE.items()}

    assert board(amended(new, plan=plan_of(cites=2))).aligned


@pytest.mark.parametrize(
    ("facts", "aligned"),
    [
        ({**VERIFIED, "superseded": "marked"}, True),
        ({**VERIFIED, "superseded": "unmarked"}, False),
        (dict(VERIFIED), False),  # nobody looked whether the old copy is marked
        ({**VERIFIED, **SIGNED, "superseded": "unmarked"}, True),  # what was acknowledged says that it supersedes
    ],
)
def test_an_older_copy_without_a_superseding_mark_keeps_its_holder_unaligned(
    facts: dict[str, str], aligned: bool
) -> None:
    new = {who: {**said, "superseded": "marked"} for who, said in DONE.items()}
    case = amended({**new, AUTHOR: facts}, plan=plan_of(cites=2))

    assert row(case, AUTHOR).aligned is aligned
    assert board(case).aligned is aligned


def test_a_link_that_nobody_opened_is_no_older_copy() -> None:
    """An old version's link says itself that it is superseded, so nothing there needs a mark."""
    new = {who: {**said, "superseded": "marked"} for who, said in DONE.items()}
    old = [task(who, 1, **said) for who, said in DONE.items() if who != AUTHOR]
    link = task(AUTHOR, 1, **UNVERIFIABLE, rung="10")
    case = case_of({**new, AUTHOR: dict(VERIFIED)}, *old, link, version=2, plan=plan_of(cites=2))

    assert row(case, AUTHOR).aligned


def test_who_never_had_an_older_copy_needs_no_superseding_mark() -> None:
    new = {who: {**said, "superseded": "marked"} for who, said in DONE.items()}
    old = [task(who, 1, **said) for who, said in DONE.items() if who != AUTHOR]
    case = case_of({**new, AUTHOR: dict(VERIFIED)}, *old, version=2, plan=plan_of(cites=2))

    assert row(case, AUTHOR).aligned


@pytest.mark.parametrize("sent", ["accepted", "unknown"])
def test_who_may_have_an_older_version_is_behind(sent: str) -> None:
    case = case_of({AUTHOR: {}}, task(AUTHOR, 1, sent=sent, copy="unverifiable"), version=2)

    assert row(case, AUTHOR).state == "behind"


def test_who_was_refused_an_older_version_is_not_behind_but_unknown() -> None:
    case = case_of({AUTHOR: {}}, task(AUTHOR, 1, sent="refused"), version=2)

    assert row(case, AUTHOR).state == "unknown"


# --- states -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "state", "version"),
    [
        ({}, "unknown", 0),
        ({"sent": "no", "business": "planned", "status": "accepted"}, "unknown", 0),
        ({"sent": "unknown", "business": "sending", "status": "in-progress"}, "unknown", 1),
        ({"sent": "accepted", "copy": "mismatch", "business": "mismatch", "status": "on-hold"}, "to-check", 1),
        ({"sent": "no", "business": "failed", "status": "on-hold"}, "blocked", 0),
        ({"sent": "no", "business": "failed", "status": "failed"}, "blocked", 0),
        ({**VERIFIED}, "aligned", 1),
    ],
)
def test_the_board_says_how_it_stands_with_each_provider(facts: dict[str, str], state: str, version: int) -> None:
    found = row(case_of({AUTHOR: facts}), AUTHOR)

    assert (found.state, found.version) == (state, version)


def test_who_refused_the_report_is_blocked_and_holds_no_version() -> None:
    found = row(case_of({AUTHOR: {"sent": "refused", "business": "failed"}}), AUTHOR)

    assert (found.state, found.version) == ("blocked", 0)


def test_who_is_blocked_from_the_new_version_is_shown_with_what_it_holds() -> None:
    found = row(amended({AUTHOR: {"sent": "no", "business": "failed", "status": "on-hold"}}), AUTHOR)

    assert (found.state, found.version) == ("blocked", 1)


def test_a_mismatch_never_holds_by_itself() -> None:
    case = case_of({AUTHOR: {"sent": "accepted", "copy": "mismatch", "business": "mismatch", "status": "on-hold"}})

    assert not row(case, AUTHOR).held.holds
    assert not board(case).informed


def test_a_retracted_report_aligns_nobody() -> None:
    found = board(case_of(status="entered-in-error"))

    assert not found.aligned


# --- the facts on the Task --------------------------------------------------------------------------------------


def test_evidence_replaces_what_was_said_before_and_keeps_the_rest() -> None:
    before = task(PCP, sent="unknown", rung="3")

    after = alignment.with_evidence(before, {"sent": "accepted", "location": "DocumentReference/9", "dropped": ""})

    assert alignment.evidence(after) == {"rung": "3", "sent": "accepted", "location": "DocumentReference/9"}
    assert alignment.evidence(before) == {"sent": "unknown", "rung": "3"}


def test_the_facts_of_a_delivery_are_read_from_its_task() -> None:
    found = alignment.held(task(PCP, 3, sent="accepted", copy="verified", ack="link", ack_by="Dr. X", decision="adopt",
                                rung="2", superseded="marked", business="verified"))  # fmt: skip

    assert (found.version, found.sent, found.copy, found.ack, found.ack_by) == (3, "accepted", "verified", "link",
                                                                                "Dr. X")  # fmt: skip
    assert (found.decision, found.rung, found.status, found.superseded) == ("adopt", "2", "verified", "marked")


def test_a_task_says_nothing_before_anything_happened() -> None:
    found = alignment.held(task(PCP, 1))

    assert (found.sent, found.copy, found.ack, found.decision, found.holds) == ("no", "none", "none", "none", False)
