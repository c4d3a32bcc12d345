"""What a chart shows that contradicts what we delivered: one Task a finding, for a person to look at. Pure.

We correct nothing there. An item is closed by a person with a reason, or by itself when a later look finds it
resolved; that a provider has diverged is said by a person only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes, workflow
from fhir_secondop.opinion.case import PLATFORM, Case, derived_id, profile, reference
from fhir_secondop.opinion.compose import compose

_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")  # an EHR may write anything there
COORDINATOR = "the coordinator"
DIVERGED, AGREES, RESOLVED = "diverged", "no-contradiction", "resolved"
ANSWERS = (DIVERGED, AGREES)
"""What a person says of an item; RESOLVED is what a later look says."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look saw that contradicts. `where` is the place in the chart ("DocumentReference/12"), `mark` tells what
    was seen there from anything else that may be seen there later.

    One that is not `certain` counts when the next look sees it, too. `concerns` are the people whose chart it is.
    """

    kind: str
    where: str
    mark: str
    says: str
    focus: str  # versioned reference to what was delivered or decided
    certain: bool = True
    version: str = ""  # meta.versionId of what was read there
    concerns: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What it is told by: the same thing, of the same version of ours, seen at the same place."""
        return " ".join((self.kind, self.where, self.focus, self.mark))


def of_case(case: Case) -> list[Resource]:
    """The items of the case, oldest first."""
    return [t for t in case.of_type("Task") if workflow.is_check(t)]


def is_open(item: Resource) -> bool:
    """Whether nobody has looked yet, and it was not found resolved."""
    return bool(item["status"] == "in-progress")


def answer_of(item: Resource) -> str:
    """DIVERGED, AGREES or RESOLVED; "" as long as it is open. What diverged and was mended since is resolved."""
    return RESOLVED if said(item, "resolved-at") else said(item, "checked")


def said(item: Resource, code: str) -> str:
    """An input or output of an item, "" where it has none."""
    return next(iter(_all(item, code)), "")


def _all(item: Resource, code: str) -> Iterator[str]:
    for one in (*item.get("input", []), *item.get("output", [])):
        if codes.has(one["type"], codes.EVIDENCE, code):
            value = next(v for k, v in one.items() if k.startswith("value"))
            yield str(value["reference"] if isinstance(value, dict) else value)


def of_person(case: Case, person: str) -> list[Resource]:
    """The items that stand about the chart of that person (a reference): open, or said to diverge."""
    return [t for t in of_case(case) if person in _all(t, "concerns") and stands(t)]


def stands(item: Resource) -> bool:
    """Whether it is open, or a person has said that the chart diverges and nothing has mended it since."""
    return is_open(item) or answer_of(item) == DIVERGED


def state_of(items: list[Resource]) -> str:
    """The state on the board of somebody whom these items concern; "" of none."""
    if any(answer_of(item) == DIVERGED for item in items):
        return DIVERGED
    return "to-check" if items else ""


def item(case: Case, name: str, finding: Finding, now: str) -> Resource | None:
    """The Task for a finding at that connection; None where there is one already.

    What a person has closed stays closed; what had been resolved and is there again is a new one.
    """
    known = [t for t in of_case(case) if said(t, "connection") == name and said(t, "mark") == finding.key]
    if any(answer_of(t) != RESOLVED for t in known):
        return None
    owner = case.decision_owner
    inputs = [
        _text("connection", name), _text("where", finding.where), _text("finding", finding.kind),
        _text("mark", finding.key),
        *([_text("read-version", finding.version)] if _ID.fullmatch(finding.version) else []),
        *({"type": codes.concept(codes.EVIDENCE, "concerns"), "valueReference": {"reference": r}}
          for r in finding.concerns),
    ]  # fmt: skip
    return compose(
        "Task",
        meta=profile("case-task"),
        id=derived_id(case.id, workflow.CHECK, name, finding.key, 1 + len(known)),
        partOf=[{"reference": reference(case.coordination)}],
        status="in-progress",
        intent="order",
        code=codes.concept(codes.TASK, workflow.CHECK, "To check"),
        description=finding.says,
        focus={"reference": finding.focus},
        for_={"reference": reference(case.patient)},
        authoredOn=now,
        lastModified=now,
        requester=PLATFORM,
        owner={"reference": owner.reference, "display": owner.name} if owner else {"display": COORDINATOR},
        input=inputs,
    )


def _text(code: str, value: str) -> Resource:
    return {"type": codes.concept(codes.EVIDENCE, code), "valueString": value}


def closed(item_: Resource, answer: str, by: str, reason: str, now: str) -> Resource:
    """The item after a person has looked: DIVERGED or AGREES, and why."""
    outputs = [_text("checked", answer), _text("checked-by", by), _text("checked-why", reason),
               _text("checked-at", now)]  # fmt: skip
    return workflow.moved({**item_, "output": [*item_.get("output", []), *outputs]}, "completed", now)


def resolved(item_: Resource, why: str, now: str) -> Resource:
    """The item after a look that finds it no more; one that was said to diverge keeps who said so."""
    outputs = [*item_.get("output", []), _text("resolved-at", now), _text("resolved-why", why)]
    after = {**item_, "output": outputs, "lastModified": now}
    return workflow.moved(after, "completed", now) if is_open(item_) else after


def told(case: Case) -> list[dict[str, Any]]:
    """The items for JSON and pages, newest first."""
    return [
        {"task": t["id"], "open": is_open(t), "finding": said(t, "finding"), "says": t["description"],
         "where": said(t, "where"), "at": said(t, "connection"), "seen": t["authoredOn"],
         "owner": t["owner"]["display"], "answer": answer_of(t), "by": said(t, "checked-by"),
         "reason": said(t, "checked-why"), "resolved": said(t, "resolved-at"), "how": said(t, "resolved-why")}
        for t in reversed(of_case(case))
    ]  # fmt: skip
