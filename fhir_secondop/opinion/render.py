"""Facts → PDF and plain text, and all the forms of a report. Nothing but the facts is said, and all of them are."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from importlib.resources import as_file, files
from typing import Any

from fhir_secondop.fhir import codec
from fhir_secondop.opinion import report, xhtml
from fhir_secondop.opinion.facts import Facts

WIDTH = 78


def forms(facts: Facts) -> list[tuple[str, bytes]]:
    """The report in each form that is kept, media type and bytes; the PDF first: an EHR that takes one takes that."""
    return [
        ("application/pdf", pdf("report", facts)),
        ("text/plain; charset=utf-8", report_text(facts).encode()),
        ("text/html; charset=utf-8", xhtml.report_xhtml(facts).encode()),
    ]


def pdf(template: str, facts: Facts) -> bytes:
    """The PDF (tagged, PDF/UA-1) of a template in opinion/templates; the facts go in as data, never as markup.

    A character that no font here has is spelled out, "[U+1FAC0]": a report must be possible whatever a name is
    written in, and nothing may be left out silently.
    """
    text = codec.dumps(_closed(facts))
    for _ in range(_ATTEMPTS):
        try:
            return _compiled(template, text)
        except RuntimeError as error:
            lacking = _lacking(error)
            if not lacking:
                raise
            text = lacking.sub(lambda match: f"[U+{ord(match[0]):04X}]", text)
    raise RuntimeError("The fonts lack characters even after these were spelled out.")


_PROPOSAL = (
    "It may be taken up or declined; whoever looks after the patient decides, and orders what is needed. "
    "The reviewer is told."
)
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]")
_LEFT_TO_RIGHT_MARK = "\u200e"


def _closed(value: Any) -> Any:
    """The facts for a page that goes from left to right: a name that doesn't ends where it ends.

    Without the mark what follows ("…: 12 resources", "… (PCP)") would be drawn as a part of it, in its direction.
    """
    if isinstance(value, dict):
        return {key: _closed(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_closed(child) for child in value]
    return value + _LEFT_TO_RIGHT_MARK if isinstance(value, str) and _RIGHT_TO_LEFT.search(value) else value


# The compiler names what it can't draw by the cluster; a second pass finds what stood behind it.
_ATTEMPTS = 8
_UNDRAWN = re.compile(r'the text `"(.*?)"` could not be displayed', re.DOTALL)
_ESCAPED = re.compile(r"\\u\{([0-9a-f]+)\}")


def _lacking(error: RuntimeError) -> re.Pattern[str] | None:
    """The characters that the compiler says no font can draw; None when it failed for another reason."""
    clusters = _UNDRAWN.findall(str(getattr(error, "diagnostic", error)))
    said = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), "".join(clusters))
    lacking = {character for character in said if not character.isascii()}
    return re.compile("[" + "".join(map(re.escape, sorted(lacking))) + "]") if lacking else None


def _compiled(template: str, facts: str) -> bytes:
    import typst  # 80 MB of compiler; only when a document is made

    here = files("fhir_secondop.opinion")
    with as_file(here / "templates") as folder, as_file(here / "fonts") as fonts:
        compiled: bytes = typst.compile(
            str(folder / f"{template}.typ"),
            root=str(folder),
            font_paths=[str(fonts)],
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
    if any(decision.values()):
        labels = (("Decision in question", "text"), ("To be decided by", "owner"), ("Until", "deadline"))
        out += [line for label, name in labels if decision[name] for line in _wrap(f"{label}: {decision[name]}")]
        out.append("")
    if facts["reasons"]:
        out += [*_title("WHY IT WAS ASKED"), *_bullets(facts["reasons"]), ""]
    if facts["items"]:
        out += _title("ITEM BY ITEM")
        out += [line for number, item in enumerate(facts["items"], 1) for line in _item(number, item)]
    out += _answers(facts["answers"])
    out += _options(facts["options"])
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
    out += ["", *_block("BLINDNESS", facts["blindness"]["said"])]
    for read in facts["blindness"]["reads"]:
        out += [*_wrap(f"{read['title']}:"), *_block("", read["text"])[2:]]
    recipients = (f"{r['name']} ({r['role']})" for r in facts["recipients"])
    return "\n".join([*out, *_title("SENT TO"), *_bullets(recipients), "", *_foot(facts)])


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
    withdrawn = [*_wrap(f"WITHDRAWN. {facts['withdrawn']}"), ""] if facts["withdrawn"] else []
    return "\n".join(
        [
            *_head("PROPOSAL, NOT AN ORDER", facts),
            *_field("Author", facts["author"]),
            *_field("Kind", facts["kind"]),
            *_field("Answer by", facts["until"]),
            "",
            *withdrawn,
            *_block("PROPOSED", facts["text"]),
            *(_block("WHY", facts["why"]) if facts["why"] else []),
            *_wrap(_PROPOSAL),
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
    born = [f"born {patient['birthDate']}"] if patient["birthDate"] else []
    return [
        title,
        "=" * len(title),
        *_field("Patient", ", ".join([patient["name"], *born, *([patient["gender"]] if patient["gender"] else [])])),
        *(_field("", ", ".join(patient["identifiers"])) if patient["identifiers"] else []),
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


def _item(number: int, item: Facts) -> list[str]:
    said = (
        f"  {item['axis']}: {item['concordance']}; significance {item['significance'] or 'not stated'}; "
        f"confidence {item['confidence'] or 'not stated'}"
    )
    out = [*_wrap(f"{number}. {item['title']}"), *_wrap(said, "  ")]
    for label, name in (
        ("Instead", "proposed"),
        ("Basis", "basis"),
        ("Would change it", "wouldChange"),
        ("Missing", "missing"),
    ):
        if item[name]:
            out += _wrap(f"  {label}: {item[name]}", "  ")
    return [*out, ""]


def _options(options: list[Facts]) -> list[str]:
    if not options:
        return []
    out = _title("OPTIONS (weighed by the reviewer; patient and treating team decide)")
    for number, one in enumerate(options, 1):
        out += _wrap(f"{number}. {one['text']} [{one['preference']}]", "   ")
        for label, name in report.OPTION_LABELS:
            out += _block_of(label, one[name]) if one[name] else []
    return [*out, ""]


def _answers(answers: list[Facts]) -> list[str]:
    if not answers:
        return []
    out = _title("QUESTIONS AND ANSWERS")
    for number, answer in enumerate(answers, 1):
        out += _wrap(f"{number}. {answer['question']}")
        out += (
            _block_of("Answer", answer["text"])
            if answer["text"]
            else _block_of("Cannot be answered", answer["cannotAnswer"])
        )
    return [*out, ""]


def _records(facts: Facts) -> list[str]:
    out = _title("RECORDS REVIEWED")
    for source in facts["records"]:
        out += _bullets([f"{source['name']}: {source['received']} resources, as of {source['asOf']}"])
        out += [line for gap in source["gaps"] for line in _wrap(f"    - {gap}", "      ")]
    if facts["missing"]:
        out += ["Missing from the record:", *_bullets(facts["missing"])]
    else:
        out.append("Nothing on the checklist is missing.")
    if facts["conflicts"]:
        out += ["", "What the sources say differently (none was chosen):"]
    for conflict in facts["conflicts"]:
        out += _bullets([f"{conflict['about']} ({conflict['kind']})"])
        for side in conflict["sides"]:
            date = f" ({side['date']})" if side["date"] else ""
            out += _wrap(f"    - {side['source']}: {side['text']}{date}", "      ")
    return [*out, ""]


def _field(label: str, value: str) -> list[str]:
    """A line of the head: the label in eleven columns, the value wrapped beside it."""
    return _wrap((f"{label}:" if label else "").ljust(11) + value, " " * 11)


def _title(text: str) -> list[str]:
    return [text, "-" * len(text)]


def _block(title: str, text: str) -> list[str]:
    return [*_title(title), *(line for part in text.split("\n") for line in (_wrap(part) or [""])), ""]


def _block_of(label: str, text: str) -> list[str]:
    """A text of one or more blocks behind a label, indented under a numbered line."""
    return [line for part in f"{label}: {text}".split("\n") for line in (_wrap("   " + part, "   ") or [""])]


def _bullets(lines: Iterable[str]) -> list[str]:
    return [wrapped for line in lines for wrapped in _wrap(f"- {line}", "  ")]


def _wrap(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
