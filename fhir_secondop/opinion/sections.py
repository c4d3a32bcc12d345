"""Facts → the sections of the Composition that the draft alone doesn't tell: why, on which record, by whom, to whom."""

from __future__ import annotations

from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes, narrative
from fhir_secondop.opinion.facts import Facts

_REASON_FOR_REFERRAL = codes.concept(codes.LOINC, "42349-1", "Reason for referral (narrative)")


def of_facts(facts: Facts) -> tuple[Resource, ...]:
    """The sections, in the order in which they are read. What a report has nothing to say of has none."""
    parts = (
        ("Amendment", _own("amendment"), _amendment(facts)),
        ("Reason for referral", _REASON_FOR_REFERRAL, _asked(facts)),
        ("Records reviewed", _own("records-reviewed"), _records(facts)),
        ("Independence", _own("independence"), _independence(facts)),
        ("Blindness", _own("blindness"), [facts["blindness"]] if facts["blindness"] else []),
        ("Sent to", _own("recipients"), [f"{r['name']} ({r['role']})" for r in facts["recipients"]]),
    )
    return tuple(narrative.section(title, code, narrative.bullets(lines)) for title, code, lines in parts if lines)


def _own(code: str) -> Resource:
    return codes.concept(codes.SECTION, code)


def _amendment(facts: Facts) -> list[str]:
    amendment = facts["amendment"]
    if not amendment:
        return []
    what = f"{amendment['kind'].upper()}: replaces version {amendment['replaces']} of {amendment['issued']}"
    return [what, *([f"Reason: {amendment['reason']}"] if amendment["reason"] else [])]


def _asked(facts: Facts) -> list[str]:
    decision = facts["decision"]
    lines = [f"Asked by: {facts['requester']}", *(f"Reason: {reason}" for reason in facts["reasons"])]
    lines += [f"Decision in question: {decision['text']}"] if decision["text"] else []
    lines += [f"To be decided by: {decision['owner']}"] if decision["owner"] else []
    lines += [f"To be decided until: {decision['deadline']}"] if decision["deadline"] else []
    return lines


def _records(facts: Facts) -> list[str]:
    lines = [f"Notice: {notice}" for notice in facts["notices"]]
    for source in facts["records"]:
        lines.append(f"{source['name']}: {source['received']} resources, as of {source['asOf']}")
        lines += [f"{source['name']}: {gap}" for gap in source["gaps"]]
    for conflict in facts["conflicts"]:
        lines.append(f"Differs between sources: {conflict['about']} ({conflict['kind']})")
        lines += [
            f"{side['source']} says: {side['text']}" + (f" ({side['date']})" if side["date"] else "")
            for side in conflict["sides"]
        ]
    return lines + ([f"Missing: {title}" for title in facts["missing"]] or ["Nothing on the checklist is missing."])


def _independence(facts: Facts) -> list[str]:
    stated = facts["independence"]
    lines = [f"Result: {stated['result']}", *stated["findings"]]
    return lines + [f"{name.capitalize()}: {stated[name]}" for name in ("attestation", "override") if stated[name]]
