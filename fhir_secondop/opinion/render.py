"""Facts → PDF and plain text. Nothing is said here that is not in the facts, and all of them are said."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from importlib.resources import as_file, files

from fhir_secondop.fhir import codec
from fhir_secondop.opinion.facts import Facts

WIDTH = 78


def pdf(template: str, facts: Facts) -> bytes:
    """The PDF (tagged, PDF/UA-1) of a template in opinion/templates; the facts go in as data, never as markup.

    A character that no font here has is spelled out, "[U+738B]": a report must be possible whatever a name is
    written in, and nothing may be left out silently.
    """
    text = codec.dumps(facts)
    for attempt in (text, _spelled(text, _BEYOND)):
        try:
            return _compiled(template, attempt)
        except RuntimeError as error:
            if "could not be displayed" not in str(error):
                raise
    return _compiled(template, _spelled(text, _NOT_LATIN))


# First what hardly any font has, then everything but Latin text and its punctuation.
_PROPOSAL = (
    "It may be taken up or declined; whoever looks after the patient decides, and orders what is needed. "
    "The reviewer is told."
)
_BEYOND = re.compile("[\u0e00-\u0eff\u2e80-\U0010ffff\u200d\ufe0f]")
_NOT_LATIN = re.compile("[^\x20-\u024f\u2010-\u2027\u2030-\u205e\u20ac\u2122\u2260-\u2265\n]")


def _spelled(text: str, characters: re.Pattern[str]) -> str:
    return characters.sub(lambda match: f"[U+{ord(match[0]):04X}]", text)


def _compiled(template: str, facts: str) -> bytes:
    import typst  # 80 MB of compiler; only when a document is made

    with as_file(files("fhir_secondop.opinion") / "templates") as folder:
        compiled: bytes = typst.compile(
            str(folder / f"{template}.typ"),
            root=str(folder),
            sys_inputs={"facts": facts},
            ignore_system_fonts=True,
            pdf_standards=["ua-1"],
        )
    return compiled


def report_text(facts: Facts) -> str:
    """The report as plain text, 78 columns: for EHRs that take no more, and for a fax."""
    reviewer, decision, stated = facts["reviewer"], facts["decision"], facts["independence"]
    out = [
        *_head("SECOND OPINION", facts),
        *_amended(facts["amendment"]),
        *_field("Status", facts["status"]),
        *_field("Reviewer", f"{reviewer['name']}, {reviewer['organization']}, identifier {reviewer['identifier']}"),
        *_field("Asked by", facts["requester"]),
        *_field("Consulted", facts["consultation"]),
        "",
        *_block("CONCLUSION", facts["conclusion"]),
        *_wrap(f"Overall concordance: {facts['overall']}. Significance: {facts['significance']}."),
        "",
    ]
    if decision["text"]:
        out += _wrap(f"Decision in question: {decision['text']}")
        out += [*_wrap(f"To be decided by {decision['owner']}, {decision['deadline'] or 'no date'}."), ""]
    if facts["reasons"]:
        out += [*_title("WHY IT WAS ASKED"), *_bullets(facts["reasons"]), ""]
    out += [*_title("ITEM BY ITEM"), *(line for item in facts["items"] for line in _item(item))]
    out += _answers(facts["answers"])
    if facts["recommendations"]:
        out += _title("RECOMMENDATIONS (proposals; the treating team decides)")
        out += _bullets(
            r["text"] + "".join(f" [{x}]" for x in (r["strength"], r["kind"]) if x) for r in facts["recommendations"]
        )
        out.append("")
    for part in facts["prose"]:
        out += _block(part["title"].upper(), part["text"])
    out += _records(facts)
    out += [*_title("INDEPENDENCE"), f"Result: {stated['result']}", *_bullets(stated["findings"])]
    for name in ("attestation", "override"):
        if stated[name]:
            out += _wrap(f"{name.capitalize()}: {stated[name]}")
    recipients = (f"{r['name']} ({r['role']})" for r in facts["recipients"])
    return "\n".join([*out, "", *_title("SENT TO"), *_bullets(recipients), "", *_foot(facts)])


def plan_text(facts: Facts) -> str:
    """The plan of record as plain text."""
    return "\n".join(
        [
            *_head("PLAN OF RECORD", facts),
            *_field("Decided by", facts["author"]),
            *_field("Decision", f"{facts['decision']}, on {facts['cites']}"),
            "",
            *_block("PLAN", facts["text"]),
            *_bullets(facts["items"]),
            "",
            *_foot(facts),
        ]
    )


def proposal_text(facts: Facts) -> str:
    """A proposal as plain text."""
    withdrawn = [f"WITHDRAWN. {facts['withdrawn']}", ""] if facts["withdrawn"] else []
    return "\n".join(
        [
            *_head("PROPOSAL, NOT AN ORDER", facts),
            *_field("Proposed by", facts["author"]),
            *_field("Kind", facts["kind"]),
            *_field("Answer by", facts["until"]),
            "",
            *withdrawn,
            *_block("PROPOSED", facts["text"]),
            *(_block("WHY", facts["why"]) if facts["why"] else []),
            _PROPOSAL,
            "",
            *_foot(facts),
        ]
    )


def notice_text(facts: Facts) -> str:
    """A notice as plain text."""
    # An EHR that drops identifiers keeps the text: this line is how a copy is found and told apart.
    mark = f"Version:   {facts['version']} ({facts['versionId']})"
    return "\n".join([*_title("NOTICE"), mark, "", *_block("", facts["text"])[2:]])


def _head(title: str, facts: Facts) -> list[str]:
    patient = facts["patient"]
    return [
        title,
        "=" * len(title),
        *_field("Patient", f"{patient['name']}, born {patient['birthDate']}, {patient['gender']}"),
        *_field("", ", ".join(patient["identifiers"])),
        *_field("Case", facts["caseId"]),
        # An EHR that drops identifiers keeps the text: this line is how a copy is found and told apart.
        f"Version:   {facts['version']} ({facts['versionId']})",
        *_field("Issued", facts["issued"]),
        *(line for notice in facts["notices"] for line in _wrap(f"*** {notice} ***")),
    ]


def _foot(facts: Facts) -> list[str]:
    return [f"Document {facts['setId']}", ""]


def _amended(amendment: Facts | None) -> list[str]:
    if not amendment:
        return []
    return [
        f"*** {amendment['kind'].upper()}: REPLACES VERSION {amendment['replaces']} OF {amendment['issued']} ***",
        *_wrap(f"Reason: {amendment['reason']}"),
        "",
    ]


def _item(item: Facts) -> list[str]:
    said = (
        f"  {item['axis']}: {item['concordance']}; significance {item['significance'] or 'not stated'}; "
        f"confidence {item['confidence'] or 'not stated'}"
    )
    out = [*_wrap(item["title"]), *_wrap(said, "  ")]
    for label, name in (
        ("Instead", "proposed"),
        ("Basis", "basis"),
        ("Would change it", "wouldChange"),
        ("Missing", "missing"),
    ):
        if item[name]:
            out += _wrap(f"  {label}: {item[name]}", "  ")
    return [*out, ""]


def _answers(answers: list[Facts]) -> list[str]:
    if not answers:
        return []
    out = _title("QUESTIONS AND ANSWERS")
    for number, answer in enumerate(answers, 1):
        out += _wrap(f"{number}. {answer['question']}")
        out += _wrap("   " + (answer["text"] or f"Cannot be answered: {answer['cannotAnswer']}"), "   ")
    return [*out, ""]


def _records(facts: Facts) -> list[str]:
    out = _title("RECORDS REVIEWED")
    for source in facts["records"]:
        out += _bullets([f"{source['name']}: {source['received']} resources, as of {source['asOf']}"])
        out += [line for gap in source["gaps"] for line in _wrap(f"    {gap}", "    ")]
    missing = ", ".join(facts["missing"])
    out += _wrap(f"Missing from the record: {missing}." if missing else "Nothing on the checklist is missing.")
    if facts["conflicts"]:
        out += ["", "What the sources say differently (none was chosen):"]
    for conflict in facts["conflicts"]:
        out += _bullets([f"{conflict['about']} ({conflict['kind']})"])
        for side in conflict["sides"]:
            date = f" ({side['date']})" if side["date"] else ""
            out += _wrap(f"    {side['source']}: {side['text']}{date}", "      ")
    return [*out, ""]


def _field(label: str, value: str) -> list[str]:
    """A line of the head: the label in eleven columns, the value wrapped beside it."""
    return _wrap((f"{label}:" if label else "").ljust(11) + value, " " * 11)


def _title(text: str) -> list[str]:
    return [text, "-" * len(text)]


def _block(title: str, text: str) -> list[str]:
    return [*_title(title), *(line for part in text.split("\n") for line in (_wrap(part) or [""])), ""]


def _bullets(lines: Iterable[str]) -> list[str]:
    return [wrapped for line in lines for wrapped in _wrap(f"- {line}", "  ")]


def _wrap(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
