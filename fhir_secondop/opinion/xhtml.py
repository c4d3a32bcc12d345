"""Facts → the report as a page of XHTML: printable, readable by a screen reader, with nothing in it that runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lxml import etree

from fhir_secondop.opinion import report
from fhir_secondop.opinion.facts import Facts
from fhir_secondop.opinion.narrative import XHTML

_NAMESPACES: Any = {None: XHTML}
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
# It is served as text/html too, which reads no entities in a style: no <, > or & in here.
_STYLE = """
body { font: 1rem/1.45 Georgia, "Times New Roman", serif; color: #1b2a3a; max-width: 46rem; margin: 2rem auto;
  padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; margin: 0 0 .5rem; }
h2 { font-size: 1.1rem; margin: 1.6rem 0 .4rem; border-top: 1px solid #d5dce3; padding-top: .8rem; }
dl.head { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; }
dl.head dt { color: #51606e; } dd { margin: 0; } dl.item dt { font-weight: bold; }
.answer { border-left: .3rem solid #1b2a3a; background: #f5f7f9; padding: .6rem 1rem; margin: 1.2rem 0; }
.notice { border: 2px solid #9c2f2f; padding: .6rem 1rem; margin: 1rem 0; font-weight: bold; }
.note { color: #51606e; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top;
  padding: .3rem .6rem .3rem 0; border-bottom: 1px solid #d5dce3; }
@page { size: A4; margin: 2cm; }
@media print { body { margin: 0; max-width: none; } h2 { break-after: avoid; } li, tr { break-inside: avoid; } }
"""


def report_xhtml(facts: Facts) -> str:
    """The report as an XHTML document. The first screen has the answer, as the first page of the PDF has."""
    root = etree.Element(f"{{{XHTML}}}html", nsmap=_NAMESPACES)
    root.set("lang", "en")
    root.set(_LANGUAGE, "en")
    head, body = _add(root, "head"), _add(_add(root, "body"), "main")
    _add(head, "meta", charset="utf-8")
    _add(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    _add(head, "title", f"Second opinion, case {facts['caseId']}, version {facts['version']}")
    _add(head, "style", _STYLE)
    _top(body, facts)
    _answer(body, facts)
    _asked(body, facts)
    _judged(body, facts)
    for part in facts["prose"]:
        _paragraphs(_section(body, part["title"].lower(), part["title"]), part["text"])
    _reviewed(body, facts)
    _standing(body, facts)
    return "<!DOCTYPE html>\n" + str(etree.tostring(root, encoding="unicode"))


def _top(body: Any, facts: Facts) -> None:
    patient, reviewer = facts["patient"], facts["reviewer"]
    _add(body, "h1", "Second opinion")
    rows = (
        ("Patient", patient["name"]), ("Born", patient["birthDate"]), ("Gender", patient["gender"]),
        *(("Identifier of the patient", value) for value in patient["identifiers"]),
        ("Reviewer", reviewer["name"]), ("Organization of the reviewer", reviewer["organization"]),
        ("Identifier of the reviewer", reviewer["identifier"]), ("Asked by", facts["requester"]),
        ("Consultation", facts["consultation"]),
        ("Case", facts["caseId"]), ("Version", str(facts["version"])), ("Status", facts["status"]),
        ("Issued", facts["issued"]),
    )  # fmt: skip
    _pairs(body, [(label, value) for label, value in rows if value], "head")
    amendment = facts["amendment"]
    if amendment:
        box = _add(body, "div", class_="notice", id="amendment")
        said = f"{amendment['kind'].upper()}: replaces version {amendment['replaces']} of {amendment['issued']}"
        _add(box, "p", said)
        if amendment["reason"]:
            _add(box, "p", f"Reason: {amendment['reason']}")
    for notice in facts["notices"]:
        _add(body, "p", notice, class_="notice")


def _answer(body: Any, facts: Facts) -> None:
    box = _add(body, "section", class_="answer", id="conclusion")
    _add(box, "h2", "Conclusion")
    _paragraphs(box, facts["conclusion"])
    _pairs(box, (("Overall concordance", facts["overall"]), ("Significance", facts["significance"])), "head")


def _asked(body: Any, facts: Facts) -> None:
    decision = facts["decision"]
    if decision["text"]:
        rows = [("In question", decision["text"])]
        rows += [("To be decided by", decision["owner"])] if decision["owner"] else []
        rows += [("Until", decision["deadline"])] if decision["deadline"] else []
        _pairs(_section(body, "decision", "The decision in question"), rows, "head")
    if facts["reasons"]:
        _list(_section(body, "reasons", "Why it was asked"), facts["reasons"])


def _judged(body: Any, facts: Facts) -> None:
    if facts["items"]:
        box = _section(body, "items", "Item by item")
        for item in facts["items"]:
            _add(box, "h3", item["title"])
            labels = (
                ("On the", "axis"), ("Opinion", "concordance"), ("Significance", "significance"),
                ("Confidence", "confidence"), ("Instead", "proposed"), ("Basis", "basis"),
                ("Would change it", "wouldChange"), ("Missing", "missing"),
            )  # fmt: skip
            _pairs(box, [(label, item[name]) for label, name in labels if item[name]], "item")
    if facts["answers"]:
        listed = _add(_section(body, "answers", "Questions and answers"), "ol")
        for answer in facts["answers"]:
            point = _add(listed, "li")
            _add(point, "strong", answer["question"])
            if answer["cannotAnswer"]:
                _add(point, "p", "Cannot be answered:", class_="note")
            _paragraphs(point, answer["text"] or answer["cannotAnswer"])
    if facts["options"]:
        box = _section(body, "options", "Options")
        _add(box, "p", "Weighed by the reviewer; patient and treating team decide.", class_="note")
        for one in facts["options"]:
            _add(box, "h3", one["text"], dir="auto")
            said = [(label, one[name]) for label, name in report.OPTION_LABELS if one[name]]
            _pairs(box, [("Opinion", one["preference"]), *said], "item")
    if facts["recommendations"]:
        box = _section(body, "recommendations", "Recommendations")
        _add(box, "p", "Proposals; the treating team decides.", class_="note")
        table = _add(box, "table")
        _row(_add(table, "thead"), "th", ("Recommendation", "Strength", "Kind"))
        rows = _add(table, "tbody")
        for one in facts["recommendations"]:
            _row(rows, "td", (one["text"], one["strength"], one["kind"]))


def _reviewed(body: Any, facts: Facts) -> None:
    box = _section(body, "records", "Records reviewed")
    for source in facts["records"]:
        _add(box, "h3", source["name"])
        _pairs(box, (("Resources", str(source["received"])), ("As of", source["asOf"])), "item")
        if source["gaps"]:
            _list(box, source["gaps"])
    _add(box, "h3", "Missing from the record")
    if facts["missing"]:
        _list(box, facts["missing"], id="missing")
    else:
        _add(box, "p", "Nothing on the checklist is missing.")
    if facts["conflicts"]:
        box = _section(body, "conflicts", "What the sources say differently")
        _add(box, "p", "None was chosen.", class_="note")
        for conflict in facts["conflicts"]:
            table = _add(box, "table")
            _add(table, "caption", f"{conflict['about']} ({conflict['kind']})")
            _row(_add(table, "thead"), "th", ("Source", "Says", "Date"))
            rows = _add(table, "tbody")
            for side in conflict["sides"]:
                _row(rows, "td", (side["source"], side["text"], side["date"]))


def _standing(body: Any, facts: Facts) -> None:
    stated = facts["independence"]
    box = _section(body, "independence", "Independence")
    rows = [("Result", stated["result"])]
    rows += [(name.capitalize(), stated[name]) for name in ("attestation", "override") if stated[name]]
    _pairs(box, rows, "item")
    if stated["findings"]:
        _list(box, stated["findings"])
    box = _section(body, "blindness", "Blindness")
    _add(box, "p", facts["blindness"]["said"])
    for read in facts["blindness"]["reads"]:
        _add(box, "h3", read["title"])
        _paragraphs(box, read["text"])
    box = _section(body, "recipients", "Sent to")
    table = _add(box, "table")
    _row(_add(table, "thead"), "th", ("Name", "As"))
    rows_ = _add(table, "tbody")
    for recipient in facts["recipients"]:
        _row(rows_, "td", (recipient["name"], recipient["role"]))
    last = _add(body, "p", class_="note", id="document")
    last.text = f"Document {facts['setId']}, version id {facts['versionId']}"


def _add(parent: Any, tag: str, text: str | None = None, **attributes: str) -> Any:
    """A new last child. Its text may come from anybody: it is never markup."""
    child = etree.SubElement(parent, f"{{{XHTML}}}{tag}", {k.rstrip("_"): v for k, v in attributes.items()})
    child.text = text
    return child


def _section(body: Any, name: str, title: str) -> Any:
    box = _add(body, "section", id=name)
    _add(box, "h2", title)
    return box


def _paragraphs(parent: Any, text: str) -> None:
    """A paragraph a block, each in the direction of its own first letter."""
    for block in text.split("\n\n"):
        lines = block.split("\n")
        paragraph = _add(parent, "p", lines[0], dir="auto")
        for line in lines[1:]:
            _add(paragraph, "br").tail = line


def _pairs(parent: Any, rows: Iterable[tuple[str, str]], kind: str) -> None:
    listed = _add(parent, "dl", class_=kind)
    for label, value in rows:
        _add(listed, "dt", label)
        # What is written from right to left must not turn its neighbours round.
        _add(_add(listed, "dd"), "bdi", value)


def _list(parent: Any, lines: Iterable[str], **attributes: str) -> None:
    listed = _add(parent, "ul", **attributes)
    for line in lines:
        _add(listed, "li", line, dir="auto")


def _row(parent: Any, tag: str, cells: Iterable[str]) -> None:
    row = _add(parent, "tr")
    for cell in cells:
        if tag == "th":
            _add(row, "th", cell, scope="col")
        else:
            _add(_add(row, "td"), "bdi", cell)
