"""Does every provider hold the current version, and do they agree? DOMAIN section 6, as pure functions.

Four independent facts per recipient and version: sent, copy, ack, decision. They stand on the delivery Tasks; here
they are read, and nothing here ever adds one.
"""

from __future__ import annotations

from dataclasses import dataclass

from fhir_secondop.model import Resource
from fhir_secondop.opinion import checks, codes, report, workflow
from fhir_secondop.opinion.case import Case, Member, reference

PROPOSAL = "deliver-proposal"
_CONTRADICTING = ({"adopt", "adopt-in-part"}, {"keep-current", "patient-declined"})


@dataclass(frozen=True, slots=True)
class Held:
    """What one recipient has of one version of one thing, as its delivery Task says."""

    version: int
    sent: str = "no"
    copy: str = "none"
    ack: str = "none"
    ack_by: str = ""
    decision: str = "none"
    rung: str = ""
    status: str = ""
    why: str = ""  # what it waits for, as the Task says
    duplicates: str = ""  # what of it is there more than once
    superseded: str = ""  # how the copy before was marked: marked, unmarked, or nothing before

    @property
    def holds(self) -> bool:
        """The copy was verified, or a person acknowledged this version. Unverifiable alone never counts."""
        return self.copy == "verified" or self.ack != "none"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the board."""

    member: Member
    version: int
    held: Held
    state: str
    aligned: bool
    required: tuple[str, ...]
    waiting_for: str


@dataclass(frozen=True, slots=True)
class Board:
    """The whole case: every provider, and whether all of them are informed and aligned."""

    case_id: str
    version: int
    rows: tuple[Row, ...]
    informed: bool
    aligned: bool
    plan: str  # the decision of the plan of record, or ""
    waiting_for: tuple[str, ...]


def evidence(task: Resource) -> dict[str, str]:
    """The outputs of a delivery Task by the code of their type."""
    found: dict[str, str] = {}
    for output in task.get("output", []):
        code = codes.code_of(output["type"], codes.EVIDENCE)
        if code:
            value = next(v for k, v in output.items() if k.startswith("value"))
            found[code] = str(value["reference"] if isinstance(value, dict) else value)
    return found


def with_evidence(task: Resource, facts: dict[str, str]) -> Resource:
    """The Task with these outputs in place of earlier ones of the same type."""
    kept = [o for o in task.get("output", []) if codes.code_of(o["type"], codes.EVIDENCE) not in facts]
    added = [
        {"type": codes.concept(codes.EVIDENCE, code), "valueString": value} for code, value in facts.items() if value
    ]
    without = {name: value for name, value in task.items() if name != "output"}
    return {**without, **({"output": [*kept, *added]} if kept or added else {})}


def thing_of(task: Resource) -> tuple[str, str]:
    """What a delivery Task carries a version of: of the report and the plan there is one each, of proposals several."""
    kind = codes.code_of(task["code"], codes.TASK) or ""
    return kind, task["focus"]["reference"].split("/")[1] if kind == PROPOSAL else ""


def version_of(task: Resource) -> int:
    """The version that a delivery Task carries."""
    for given in task.get("input", []):
        if codes.has(given["type"], codes.EVIDENCE, "version"):
            return int(given["valuePositiveInt"])
    return 0


def held(task: Resource) -> Held:
    """The four facts of a delivery Task."""
    said = evidence(task)
    return Held(
        version=version_of(task),
        sent=said.get("sent", "no"),
        copy=said.get("copy", "none"),
        ack=said.get("ack", "none"),
        ack_by=said.get("ack-by", ""),
        decision=said.get("decision", "none"),
        rung=said.get("rung", ""),
        status=workflow.business_status(task),
        duplicates=said.get("duplicates", ""),
        superseded=said.get("superseded", ""),
        why=task.get("statusReason", {}).get("text", "") if task["status"] != "completed" else "",
    )


def board(case: Case) -> Board | None:
    """The alignment board; None before a report is signed."""
    signed = case.report
    if signed is None:
        return None
    current = report.version_of(signed)
    retracted = signed["status"] == "entered-in-error"
    plan = plan_of(case, current)
    plan_decision = str(codes.extension_value(plan, codes.DECISION_EXTENSION)) if plan else ""
    significant = _is_significant(case)
    rows = tuple(_row(case, member, current, plan, plan_decision, significant) for member in case.audience)
    informed = bool(rows) and all(row.held.holds and row.held.version == current for row in rows)
    waiting = []
    if plan is None and not retracted:
        waiting.append("the decision owner's plan of record")
    elif not case.decision_owner and not retracted:
        waiting.append("somebody who decides")
    return Board(
        case_id=case.id,
        version=current,
        rows=rows,
        informed=informed,
        aligned=not waiting and not retracted and all(row.aligned for row in rows) and bool(rows),
        plan=plan_decision,
        waiting_for=(*waiting, *(f"{row.member.person.name}: {row.waiting_for}" for row in rows if row.waiting_for)),
    )


def _is_significant(case: Case) -> bool:
    """Whether an assessed axis of the signed report is of major significance or more."""
    cited = {result["reference"] for result in (case.report or {}).get("result", [])}
    for observation in case.of_type("Observation"):
        judged = {c.get("code") for c in observation.get("valueCodeableConcept", {}).get("coding", [])}
        if reference(observation) not in cited or judged == {"not-assessed"}:
            continue
        for component in observation.get("component", []):
            if codes.code_of(component.get("valueCodeableConcept"), codes.SIGNIFICANCE) in ("major", "critical"):
                return True
    return False


def plan_of(case: Case, current: int) -> Resource | None:
    """The newest plan of record, by the decision owner, that cites the current version."""
    owner = case.decision_owner
    plans = [
        p
        for p in case.of_type("CarePlan")
        if codes.extension_value(p, codes.CITES_REPORT) == current
        and p["status"] == "active"
        and owner is not None
        and p.get("author", {}).get("reference") in (owner.reference, owner.practitioner)
    ]
    return plans[-1] if plans else None


def _row(case: Case, member: Member, current: int, plan: Resource | None, plan_decision: str, significant: bool) -> Row:
    tasks = [t for t in case.deliveries if t.get("owner", {}).get("reference") == member.person.reference]
    reports = sorted((held(t) for t in tasks if codes.has(t["code"], codes.TASK, "deliver-report")),
                     key=lambda h: h.version)  # fmt: skip
    now = next((h for h in reports if h.version == current), Held(current))
    older = [h for h in reports if h.version < current and _may_be_there(h)]
    required = _required(member, significant)
    contradicts = _contradicts(now.decision, plan_decision)
    missing = _missing(now, bool(older), required)
    if contradicts:
        missing.append("decision against the plan of record")
    if plan is not None:
        missing.extend(_missing_of_plan(tasks, required, plan))
    seen = checks.of_person(case, member.person.reference)
    missing.extend(f"what the chart there shows ({item['description']})" for item in seen)
    # Without a plan of record nobody is aligned; the board says whom that waits for.
    aligned = plan is not None and not missing
    shown = now
    if not now.holds and older:
        shown = older[-1]
    return Row(
        member=member,
        version=shown.version if shown.holds or shown.sent in ("accepted", "unknown") else 0,
        held=now,
        state=checks.state_of(seen) or _state(now, older, aligned, contradicts),
        aligned=aligned,
        required=required,
        waiting_for=", ".join(missing),
    )


def _may_be_there(held_: Held) -> bool:
    """Whether a copy of this version may stand at the recipient: not by a link that nobody opened, which says itself
    that its version was replaced.
    """
    if held_.holds:
        return True
    return held_.sent in ("accepted", "unknown") and held_.rung != "10"


def _missing(now: Held, has_older: bool, required: tuple[str, ...]) -> list[str]:
    missing = []
    if not now.holds and now.rung == "10" and now.status == "unverifiable":
        missing.append("the cover sheet must be handed over, and its link confirmed")
    elif not now.holds:
        missing.append("no verified copy yet" + (f" ({now.why})" if now.why else ""))
    if now.duplicates:
        missing.append(f"it is there more than once ({now.duplicates})")
    if "ack" in required and now.ack == "none":
        missing.append("acknowledgement")
    if "decision" in required and now.decision == "none":
        missing.append("decision")
    # An acknowledged new version is the superseding notice that section 6 asks for.
    if has_older and now.superseded != "marked" and now.ack == "none":
        missing.append("an older copy there is not marked as superseded")
    return missing


def _required(member: Member, significant: bool) -> tuple[str, ...]:
    """What this member must do beyond holding the version."""
    needed = []
    if {"pcp", "decision-owner", "requester"} & set(member.roles):
        needed.append("ack")
    if "decision-owner" in member.roles or ("pcp" in member.roles and significant):
        needed.append("decision")
    return tuple(needed)


def _missing_of_plan(tasks: list[Resource], required: tuple[str, ...], plan: Resource) -> list[str]:
    version = plan_version(plan)
    found = next(
        (held(t) for t in tasks if codes.has(t["code"], codes.TASK, "deliver-plan") and version_of(t) == version),
        Held(version),
    )
    missing = []
    if not found.holds:
        missing.append("no verified copy of the plan of record yet")
    if "ack" in required and found.ack == "none":
        missing.append("acknowledgement of the plan of record")
    return missing


def plan_version(plan: Resource) -> int:
    """The version of a plan of record, counted over the case."""
    value = codes.extension_value(plan, codes.REPORT_VERSION)
    return value if isinstance(value, int) else 0


def _contradicts(decision: str, plan_decision: str) -> bool:
    if "seek-third-opinion" in (decision, plan_decision):
        return True
    return any(
        decision in one and plan_decision in other for one, other in (_CONTRADICTING, tuple(reversed(_CONTRADICTING)))
    )


def _state(now: Held, older: list[Held], aligned: bool, contradicts: bool) -> str:
    if aligned:
        return "aligned"
    if now.status == "mismatch" or contradicts:
        return "to-check"
    if now.holds:
        return "informed"
    if now.status == "failed" or now.sent == "refused":
        return "blocked"
    if older:
        return "behind"
    return "unknown"


def words(row: Row) -> str:
    """The state for people: "acknowledged, unverified" where nobody but a person says that it arrived."""
    if row.held.ack != "none" and row.held.copy == "mismatch":
        return f"{row.state} (acknowledged, the copy there differs)"
    if row.held.ack != "none" and row.held.copy != "verified":
        return f"{row.state} (acknowledged, unverified)"
    if row.state == "blocked" and row.version:
        return f"blocked, holds version {row.version}"
    return row.state
