"""Facts → PDF and plain text. Nothing is said here that is not in the facts, and all of them are said."""

from __future__ import annotations

import textwrap
from importlib.resources import as_file, files
from typing import Any

from fhir_secondop.fhir import codec
from fhir_secondop.opinion.facts import Facts

WIDTH = 78


def pdf(template: str, facts: Facts) -> bytes:
    """The PDF of a template in opinion/templates; the facts go in as data, so nothing in them is markup."""
    import typst  # 80 MB of compiler; only when a document is made

    with as_file(files("fhir_secondop.opinion") / "templates") as folder:
        compiled: bytes = typst.compile(
            str(folder / f"{template}.typ"),
            root=str(folder),
            sys_inputs={"facts": codec.dumps(facts)},
            ignore_system_fonts=True,
            pdf_standards=["ua-1"],
        )
    return compiled


def report_text(facts: Facts) -> str:
    """The report as plain text, 78 columns: for EHRs that take no more, and for a fax."""
    out: list[str] = [*_head("SECOND OPINION", facts)]
    amendment = facts["amendment"]
    if amendment:
        out += [
            f"*** {amendment['kind'].upper()}: REPLACES VERSION {amendment['replaces']} OF {amendment['issued']} ***",
            *_wrap(f"Reason: {amendment['reason']}"),
            "",
        ]
    out += [
        f"Status:    {facts['status']}",
        f"Reviewer:  {facts['reviewer']['name']}, {facts['reviewer']['organization']}",
        f"           identifier {facts['reviewer']['identifier']}",
        f"Asked by:  {facts['requester']}",
        "",
        *_block("CONCLUSION", facts["conclusion"]),
        f"Overall concordance: {facts['overall']}. Significance: {facts['significance']}.",
        "",
    ]
    if facts["decision"]["text"]:
        out += _wrap(f"Decision in question: {facts['decision']['text']}")
        out += [f"To be decided by {facts['decision']['owner']}, {facts['decision']['deadline'] or 'no date'}.", ""]
    if facts["reasons"]:
        out += [*_title("WHY IT WAS ASKED"), *_bullets(facts["reasons"]), ""]
    out += [*_title("ITEM BY ITEM")]
    for item in facts["items"]:
        out += _wrap(f"{item['title']}")
        out += _wrap(f"  {item['axis']}: {item['concordance']}; significance {item['significance'] or 'not stated'}; "
                     f"confidence {item['confidence'] or 'not stated'}", "  ")  # fmt: skip
        for label, name in (("Basis", "basis"), ("Would change it", "wouldChange"), ("Missing", "missing")):
            if item[name]:
                out += _wrap(f"  {label}: {item[name]}", "  ")
        out.append("")
    if facts["answers"]:
        out += _title("QUESTIONS AND ANSWERS")
        for number, answer in enumerate(facts["answers"], 1):
            out += _wrap(f"{number}. {answer['question']}")
            out += _wrap("   " + (answer["text"] or f"Cannot be answered: {answer['cannotAnswer']}"), "   ")
        out.append("")
    if facts["recommendations"]:
        out += _title("RECOMMENDATIONS (proposals; the treating team decides)")
        out += _bullets(
            r["text"] + "".join(f" [{x}]" for x in (r["strength"], r["kind"]) if x) for r in facts["recommendations"]
        )
        out.append("")
    for part in facts["prose"]:
        out += _block(part["title"].upper(), part["text"])
    out += _records(facts)
    stated = facts["independence"]
    out += [*_title("INDEPENDENCE"), f"Result: {stated['result']}", *_bullets(stated["findings"])]
    for name in ("attestation", "override"):
        if stated[name]:
            out += _wrap(f"{name.capitalize()}: {stated[name]}")
    out += ["", *_title("SENT TO"), *_bullets(f"{r['name']} ({r['role']})" for r in facts["recipients"]), ""]
    return "\n".join(out)


def _records(facts: Facts) -> list[str]:
    out = _title("RECORDS REVIEWED")
    for source in facts["records"]:
        out.append(f"- {source['name']}: {source['received']} resources, as of {source['asOf']}")
        out += [f"    {gap}" for gap in source["gaps"]]
    missing = ", ".join(facts["missing"])
    out += _wrap(f"Missing from the record: {missing}." if missing else "Nothing on the checklist is missing.")
    return [*out, ""]


def plan_text(facts: Facts) -> str:
    """The plan of record as plain text."""
    return "\n".join(
        [
            *_head("PLAN OF RECORD", facts),
            f"Decided by: {facts['author']}",
            f"Decision:   {facts['decision']}, on {facts['cites']}",
            "",
            *_block("PLAN", facts["text"]),
            *_bullets(facts["items"]),
            "",
        ]
    )


def _head(title: str, facts: Facts) -> list[str]:
    patient = facts["patient"]
    return [
        title,
        "=" * len(title),
        f"Patient:   {patient['name']}, born {patient['birthDate']}, {patient['gender']}",
        f"           {', '.join(patient['identifiers'])}",
        f"Case:      {facts['caseId']}",
        # An EHR that drops identifiers keeps the text: this line is how a copy is found and told apart.
        f"Version:   {facts['version']} ({facts['versionId']})",
        f"Issued:    {facts['issued']}",
    ]


def _title(text: str) -> list[str]:
    return [text, "-" * len(text)]


def _block(title: str, text: str) -> list[str]:
    return [*_title(title), *(line for part in text.split("\n") for line in (_wrap(part) or [""])), ""]


def _bullets(lines: Any) -> list[str]:
    return [wrapped for line in lines for wrapped in _wrap(f"- {line}", "  ")]


def _wrap(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
