"""DOMAIN section 2: which moves a Task may make, written out again here and compared with the product."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fhir_secondop.errors import Conflict, Invalid, http_status
from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes, workflow

STATES = (
    "draft", "requested", "received", "accepted", "rejected", "ready", "cancelled", "in-progress", "on-hold",
    "failed", "completed", "entered-in-error",
)  # fmt: skip
# One line a sentence of DOMAIN section 2. A Task on hold stands below, because it depends on where it came from.
LEGAL = {
    # draft→requested→(received)→accepted→(ready)→in-progress→completed
    ("draft", "requested"), ("requested", "received"), ("requested", "accepted"), ("received", "accepted"),
    ("accepted", "ready"), ("accepted", "in-progress"), ("ready", "in-progress"), ("in-progress", "completed"),
    # requested/received→rejected
    ("requested", "rejected"), ("received", "rejected"),
    # draft/requested/received/accepted/ready→cancelled
    ("draft", "cancelled"), ("requested", "cancelled"), ("received", "cancelled"), ("accepted", "cancelled"),
    ("ready", "cancelled"),
    # accepted/ready/in-progress→on-hold
    ("accepted", "on-hold"), ("ready", "on-hold"), ("in-progress", "on-hold"),
    # accepted/ready/in-progress/on-hold→failed
    ("accepted", "failed"), ("ready", "failed"), ("in-progress", "failed"),
    # completed, rejected, cancelled and failed move only to entered-in-error
    ("completed", "entered-in-error"), ("rejected", "entered-in-error"), ("cancelled", "entered-in-error"),
    ("failed", "entered-in-error"),
}  # fmt: skip
LEGAL_FROM_HOLD = {
    "accepted": {"accepted", "failed", "cancelled"},
    "ready": {"ready", "failed", "cancelled"},
    "in-progress": {"in-progress", "failed"},  # no longer to be cancelled: that takes an abort Task
}


def task(status: str, **more: Any) -> Resource:
    return {"resourceType": "Task", "status": status, "intent": "order",
            "code": codes.concept(codes.TASK_CODE, "fulfill"), **more}  # fmt: skip


def complete(status: str) -> Resource:
    """A Task in that state with all that any state needs."""
    return task(status, output=[{"type": {"text": "report"}, "valueString": "x"}], statusReason={"text": "because"})


def is_allowed(before: str, after: str, held_from: str = "") -> bool:
    try:
        workflow.check_move(complete(before), complete(after), held_from=held_from)
    except Conflict:
        return False
    return True


@pytest.mark.parametrize("after", STATES)
@pytest.mark.parametrize("before", [s for s in STATES if s != "on-hold"])
def test_a_task_moves_only_as_the_design_says(before: str, after: str) -> None:
    expected = before == after or (before, after) in LEGAL

    assert is_allowed(before, after) is expected


@pytest.mark.parametrize("after", [s for s in STATES if s != "on-hold"])
@pytest.mark.parametrize("held_from", LEGAL_FROM_HOLD)
def test_a_task_on_hold_goes_back_where_it_came_from_or_fails_and_is_cancelled_only_before_in_progress(
    held_from: str, after: str
) -> None:
    assert is_allowed("on-hold", after, held_from) is (after in LEGAL_FROM_HOLD[held_from])


@pytest.mark.parametrize("state", STATES)
def test_a_task_that_stays_where_it_is_may_be_updated(state: str) -> None:
    workflow.check_move(complete(state), {**complete(state), "lastModified": "2026-11-24T00:00:00Z"})


def test_an_unknown_state_is_no_way_round_the_table() -> None:
    for state in STATES:
        assert not is_allowed(state, "done")
        assert not is_allowed("done", state)


def test_an_illegal_move_answers_409_and_names_both_states() -> None:
    with pytest.raises(Conflict) as caught:
        workflow.check_move(complete("completed"), complete("in-progress"))

    assert http_status(caught.value) == 409
    assert "completed" in caught.value.message
    assert "in-progress" in caught.value.message


@pytest.mark.parametrize(
    ("before", "after", "needed"),
    [
        ("in-progress", "completed", "output"),
        ("in-progress", "on-hold", "statusReason"),
        ("in-progress", "failed", "statusReason"),
        ("requested", "rejected", "statusReason"),
    ],
)
def test_a_state_is_refused_without_what_it_needs_and_taken_with_it(before: str, after: str, needed: str) -> None:
    lacking = {name: value for name, value in complete(after).items() if name != needed}

    with pytest.raises(Invalid) as caught:
        workflow.check_move(complete(before), lacking)

    assert [issue.expression for issue in caught.value.issues] == [f"Task.{needed}"]
    workflow.check_move(complete(before), complete(after))


@pytest.mark.parametrize("state", ["completed", "on-hold", "failed", "rejected"])
def test_what_a_state_needs_may_not_be_taken_away_while_it_stays(state: str) -> None:
    with pytest.raises(Invalid):
        workflow.check_move(complete(state), task(state))


@pytest.mark.parametrize("state", ["requested", "received", "accepted", "ready", "in-progress", "cancelled"])
def test_other_states_need_neither_output_nor_reason(state: str) -> None:
    workflow.check_move(task(state), task(state))


def test_moved_sets_state_time_business_status_and_reason_and_leaves_the_task_before_alone() -> None:
    before = task("requested")

    after = workflow.moved(before, "rejected", "2026-11-23T10:00:00Z", reason="no-capacity", reason_text="on leave")

    assert before == task("requested")
    assert after["status"] == "rejected"
    assert after["lastModified"] == "2026-11-23T10:00:00Z"
    assert codes.code_of(after["statusReason"], codes.STATUS_REASON) == "no-capacity"
    assert after["statusReason"]["text"] == "on leave"


def test_moved_takes_the_reason_of_a_hold_away_when_the_task_goes_on() -> None:
    held = task("on-hold", statusReason={"text": "waits"})

    assert "statusReason" not in workflow.moved(held, "in-progress", "2026-11-23T10:00:00Z")


def test_moved_refuses_an_illegal_move_and_one_without_its_reason() -> None:
    with pytest.raises(Conflict):
        workflow.moved(task("completed"), "accepted", "2026-11-23T10:00:00Z")
    with pytest.raises(Invalid):
        workflow.moved(task("in-progress"), "failed", "2026-11-23T10:00:00Z")


def test_business_status_of_a_delivery_is_of_its_own_system() -> None:
    of_case = workflow.moved(task("requested"), "accepted", "2026-11-23T10:00:00Z", business="record-review")
    delivery = {**task("accepted"), "code": codes.concept(codes.TASK, "deliver-report")}
    of_delivery = workflow.moved(delivery, "in-progress", "2026-11-23T10:00:00Z", business="sending")

    assert codes.code_of(of_case["businessStatus"], codes.BUSINESS_STATUS) == "record-review"
    assert codes.code_of(of_delivery["businessStatus"], codes.DELIVERY_STATUS) == "sending"
    assert workflow.business_status(of_case) == "record-review"
    assert workflow.business_status(of_delivery) == "sending"


def test_coordination_review_and_delivery_tasks_are_told_apart() -> None:
    coordination, review = task("requested"), task("requested", partOf=[{"reference": "Task/1"}])
    delivery = {**review, "code": codes.concept(codes.TASK, "deliver-plan")}
    kinds = (workflow.is_coordination, workflow.is_review, workflow.is_delivery)

    assert [kind(coordination) for kind in kinds] == [True, False, False]
    assert [kind(review) for kind in kinds] == [False, True, False]
    assert [kind(delivery) for kind in kinds] == [False, False, True]


class TaskLife(RuleBasedStateMachine):
    """A Task that anybody pushes anywhere: it never stands in a state that the design does not allow it."""

    @initialize()
    def is_written(self) -> None:
        self.task = task("draft")
        self.held_from = ""
        self.was_in_progress = False

    @rule(after=st.sampled_from(STATES), has_output=st.booleans(), has_reason=st.booleans())
    def is_pushed(self, after: str, has_output: bool, has_reason: bool) -> None:
        before = self.task["status"]
        wanted = {**task(after), **({"output": [{"valueString": "x"}]} if has_output else {}),
                  **({"statusReason": {"text": "because"}} if has_reason else {})}  # fmt: skip
        try:
            workflow.check_move(self.task, wanted, held_from=self.held_from)
        except (Conflict, Invalid):
            return
        if after == "on-hold" != before:
            self.held_from = before
        elif after != "on-hold":
            self.held_from = ""
        self.was_in_progress = self.was_in_progress or after == "in-progress"
        self.task = wanted

    @invariant()
    def has_what_its_state_needs(self) -> None:
        state = self.task["status"]
        assert state != "completed" or "output" in self.task
        assert state not in ("rejected", "failed", "on-hold") or "statusReason" in self.task

    @invariant()
    def is_not_cancelled_or_rejected_once_work_began(self) -> None:
        assert not (self.was_in_progress and self.task["status"] in ("cancelled", "rejected", "requested", "accepted"))

    @invariant()
    def is_completed_only_after_work_began(self) -> None:
        assert self.task["status"] != "completed" or self.was_in_progress


TaskLife.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestTaskLife = TaskLife.TestCase
