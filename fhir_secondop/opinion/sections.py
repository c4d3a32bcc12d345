"""Facts → the sections of the signed Composition: every fact of the other forms, in words, in the order of reading.

A line that begins with a label ("Basis: …") has it in every form alike.
"""

from __future__ import annotations

from collections.abc import Iterable

from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes, narrative, report
from fhir_secondop.opinion.facts import Facts

_REASON_FOR_REFERRAL = codes.concept(codes.LOINC, "42349-1", "Reason for referral (narrative)")


def of_facts(facts: Facts, first_reads: Iterable[str] = ()) -> tuple[Resource, ...]:
    """The sections. What a report has nothing to say of has none. `first_reads` are references of blind first reads."""
    prose = {title: code for _, title, code in report.PROSE}
    parts = (
        ("Amendment", _own("amendment"), narrative.bullets(_amendment(facts))),
        ("Conclusion", _own("conclusion"), narrative.div(facts["conclusion"])),
        ("Concordance", _own("concordance"), narrative.bullets(_concordance(facts))),
        ("Options", _own("options"), narrative.bullets(_options(facts))),
        ("Recommendations", report.PLAN_OF_CARE, narrative.bullets(_recommendations(facts))),
        ("Questions and answers", _own("questions-and-answers"), narrative.bullets(_answers(facts))),
        *((part["title"], prose[part["title"]], narrative.div(part["text"])) for part in facts["prose"]),
        ("Reason for referral", _REASON_FOR_REFERRAL, narrative.bullets(_asked(facts))),
        ("Records reviewed", _own("records-reviewed"), narrative.bullets(_records(facts))),
        ("Independence", _own("independence"), narrative.bullets(_independence(facts))),
        ("Blindness", _own("blindness"), narrative.bullets(_blindness(facts))),
        ("Sent to", _own("recipients"), narrative.bullets(f"{r['name']} ({r['role']})" for r in facts["recipients"])),
    )
    entries = {"Blindness": list(first_reads)}
    return tuple(
        narrative.section(title, code, body, entries.get(title, ()))
        for title, code, body in parts
        if narrative.text(body)
    )


def _own(code: str) -> Resource:
    return codes.concept(codes.SECTION, code)


def _amendment(facts: Facts) -> list[str]:
    amendment = facts["amendment"]
    if not amendment:
        return []
    what = f"{amendment['kind'].upper()}: replaces version {amendment['replaces']} of {amendment['issued']}"
    return [what, *([f"Reason: {amendment['reason']}"] if amendment["reason"] else [])]


def _concordance(facts: Facts) -> list[str]:
    labels = (
        ("Significance", "significance"), ("Confidence", "confidence"), ("Instead", "proposed"), ("Basis", "basis"),
        ("Would change it", "wouldChange"), ("Missing", "missing"),
    )  # fmt: skip
    lines = [f"Overall concordance: {facts['overall']}", f"Significance: {facts['significance']}"]
    for number, item in enumerate(facts["items"], 1):
        said = [f"{number}. {item['title']}", f"On the {item['axis']}: {item['concordance']}"]
        lines.append("\n".join([*said, *(f"{label}: {item[name]}" for label, name in labels if item[name])]))
    return lines


def _options(facts: Facts) -> list[str]:
    return [
        "\n".join(
            [f"{number}. {one['text']}", f"Opinion: {one['preference']}",
             *(f"{label}: {one[name]}" for label, name in report.OPTION_LABELS if one[name])]
        )
        for number, one in enumerate(facts["options"], 1)
    ]  # fmt: skip


def _recommendations(facts: Facts) -> list[str]:
    return [
        one["text"] + "".join(f" [{said}]" for said in (one["strength"], one["kind"]) if said)
        for one in facts["recommendations"]
    ]


def _answers(facts: Facts) -> list[str]:
    return [
        f"{number}. {a['question']}\n"
        + (f"Answer: {a['text']}" if a["text"] else f"Cannot be answered: {a['cannotAnswer']}")
        for number, a in enumerate(facts["answers"], 1)
    ]


def _asked(facts: Facts) -> list[str]:
    decision = facts["decision"]
    labels = (("Decision in question", "text"), ("To be decided by", "owner"), ("Until", "deadline"))
    lines = [f"Asked by: {facts['requester']}", *(f"Reason: {reason}" for reason in facts["reasons"])]
    return lines + [f"{label}: {decision[name]}" for label, name in labels if decision[name]]


def _records(facts: Facts) -> list[str]:
    lines = [*(f"Notice: {notice}" for notice in facts["notices"]), f"Consultation: {facts['consultation']}"]
    for source in facts["records"]:
        said = f"{source['name']}: {source['received']} resources, as of {source['asOf']}"
        lines.append("\n".join([said, *(f"Not there: {gap}" for gap in source["gaps"])]))
    for conflict in facts["conflicts"]:
        sides = (
            f"{side['source']} says: {side['text']}" + (f" ({side['date']})" if side["date"] else "")
            for side in conflict["sides"]
        )
        lines.append("\n".join([f"Differs between sources: {conflict['about']} ({conflict['kind']})", *sides]))
    return lines + ([f"Missing: {title}" for title in facts["missing"]] or ["Nothing on the checklist is missing."])


def _independence(facts: Facts) -> list[str]:
    stated = facts["independence"]
    lines = [f"Result: {stated['result']}", *stated["findings"]]
    return lines + [f"{name.capitalize()}: {stated[name]}" for name in ("attestation", "override") if stated[name]]


def _blindness(facts: Facts) -> list[str]:
    said = facts["blindness"]
    return [said["said"], *(f"{read['title']}\n{read['text']}" for read in said["reads"])]
