"""Each form of a report read back into facts, by what stands in the form alone: nothing here knows what was said.

White space is left out of every text: where a line ends is the form's own business.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

import pypdfium2
from lxml import etree

from fhir_secondop.model import Resource

Facts = dict[str, Any]
CODES = "https://secondop.example/fhir/CodeSystem"
ITEM_LABELS = {
    "Instead": "proposed", "Basis": "basis", "Would change it": "wouldChange", "Missing": "missing",
    "Significance": "significance", "Confidence": "confidence",
}  # fmt: skip
OPTION_LABELS = {"For whom": "forWhom", "For it": "advantages", "Against it": "disadvantages"}
DECISION_LABELS = {"Decision in question": "text", "To be decided by": "owner", "Until": "deadline"}
STANDING_LABELS = {"Result": "result", "Attestation": "attestation", "Override": "override"}
GENDER = "(male|female|other|unknown)"
PROSE = ("History", "Findings", "Assessment")
CONCORDANCES = (
    "confirmed", "refined", "additional", "changed", "refuted", "indeterminate", "not-assessed", "agreed",
    "agreed-modified", "deescalate", "alternative", "not-recommended", "defer",
)  # fmt: skip


def squeezed(value: Any) -> Any:
    """The same without white space in any text, composed as Unicode composes it."""
    if isinstance(value, dict):
        return {key: squeezed(child) for key, child in value.items()}
    if isinstance(value, list):
        return [squeezed(child) for child in value]
    return re.sub(r"[\s\u200e]+", "", unicodedata.normalize("NFC", value)) if isinstance(value, str) else value


def _labelled(lines: Iterable[str], labels: dict[str, str]) -> tuple[list[str], Facts]:
    """The lines before the first "Label: …", and what stands behind each label, over as many lines as it takes."""
    first: list[str] = []
    found = dict.fromkeys(labels.values(), "")
    name = ""
    for line in lines:
        label, colon, rest = line.strip().partition(":")
        if colon and label in labels:
            name, line = labels[label], rest
        if name:
            found[name] += line + "\n"
        else:
            first.append(line)
    return first, found


def _marked(lines: Iterable[str], mark: str) -> Iterator[str]:
    """What stands behind each mark (a regular expression), over as many lines as it takes."""
    held: list[str] = []
    for line in lines:
        if re.match(mark, line):
            if held:
                yield "\n".join(held)
            held = [re.sub(f"^{mark}", "", line)]
        elif held:
            held.append(line)
    if held:
        yield "\n".join(held)


def _until(lines: list[str], start: str) -> tuple[list[str], list[str]]:
    place = next((n for n, line in enumerate(lines) if re.match(start, line)), len(lines))
    return lines[:place], lines[place + 1 :]


def _named(text: str) -> tuple[str, str]:
    """ "name (what)" taken apart."""
    found = re.fullmatch(r"(.*)\((.*?)\)", squeezed(text))
    assert found, text
    return found[1], found[2]


def _recommendation(text: str) -> Facts:
    body, *said = re.fullmatch(r"(.*?)((?:\[[a-z,]+\])*)", squeezed(text), re.DOTALL).groups()  # type: ignore[union-attr]
    words = re.findall("[a-z]+", "".join(said))
    return {
        "text": body,
        "strength": next((w for w in words if w in ("strong", "conditional")), ""),
        "kind": next((w for w in words if w not in ("strong", "conditional")), ""),
    }


def _option(text: str) -> Facts:
    """ "What [preference]", and what stands behind each label."""
    first, labelled = _labelled(text.split("\n"), OPTION_LABELS)
    found = re.fullmatch(r"(.*)\[(preferred|acceptable|notadvised|not-advised)\]", squeezed("".join(first)))
    assert found, text
    return {"text": found[1], "preference": found[2].replace("notadvised", "not-advised"), **labelled}


def _answer(text: str) -> Facts:
    question, label, said = re.split(r"\s(Answer|Cannot be answered):", text, maxsplit=1)
    answer = {"question": question, "text": "", "cannotAnswer": ""}
    return {**answer, "text" if label == "Answer" else "cannotAnswer": said}


def _source(first: str, gaps: list[str]) -> Facts:
    found = re.fullmatch(r"(.*):(\d+)resources,asof(.*?)", squeezed(first))
    assert found, first
    return {"name": found[1], "received": int(found[2]), "asOf": found[3], "gaps": gaps}


def _side(text: str, parting: str) -> Facts:
    source, _, said = squeezed(text).partition(parting)
    dated = re.fullmatch(r"(.*)\((\d{4}-\d\d-\d\d)\)", said)
    return {"source": source, "text": dated[1] if dated else said, "date": dated[2] if dated else ""}


def _conflict(first: str, sides: Iterable[str], parting: str) -> Facts:
    about, kind = _named(first)
    return {"about": about, "kind": kind, "sides": [_side(side, parting) for side in sides]}


def _amendment(text: str) -> Facts | None:
    found = re.match(r"(.*?):replacesversion(\d+)of(\d{4}-\d\d-\d\d\d\d:\d\dUTC)(?:Reason:(.*))?", squeezed(text), re.I)
    if not found:
        return None
    return {"kind": found[1].lower(), "replaces": int(found[2]), "issued": found[3], "reason": found[4] or ""}


def _reads(lines: Iterable[str]) -> tuple[str, list[Facts]]:
    said: list[str] = []
    reads: list[Facts] = []
    for line in lines:
        if re.fullmatch(r"First read, (locked|changed) .* UTC:", line):
            reads.append({"title": line.rstrip(":"), "text": ""})
        elif reads:
            reads[-1]["text"] += line + "\n"
        else:
            said.append(line)
    return "\n".join(said), reads


# --- plain text -------------------------------------------------------------------------------------------------


def of_text(text: str) -> Facts:
    """The facts of the plain text."""
    parts: dict[str, list[str]] = {"": []}
    lines, title = text.split("\n"), ""
    for place, line in enumerate(lines):
        if (
            line
            and place + 1 < len(lines)
            and re.fullmatch("-+", lines[place + 1])
            and len(lines[place + 1]) == len(line)
        ):
            title = re.sub(r" \((proposals|weighed).*", "", line)
            parts[title] = []
        elif not (re.fullmatch("-+", line) and not parts[title]):
            parts[title].append(line)
    return {**_text_head(parts[""]), **_text_said(parts), **_text_standing(parts)}


def _text_head(lines: list[str]) -> Facts:
    fields: dict[str, str] = {}
    label = ""
    stars: list[str] = []
    said, reason = [], ""
    for line in lines[2:]:
        field = re.match(r"(\w[\w ]*):\s+(.*)", line)
        is_open = bool(stars) and not stars[-1].endswith("***")
        if is_open or line.startswith("***"):
            stars = [*stars[:-1], f"{stars[-1]} {line}"] if is_open else [*stars, line]
            label = "Reason" if "REPLACES" in line else ""
        elif field and (label != "Reason" or field[1] in ("Reason", "Status")):
            label = field[1]
            fields[label] = field[2]
        elif label:
            fields[label] += "\n" + line
    said = [star.strip("* ") for star in stars]
    amended = next((one for one in said if ": REPLACES VERSION" in one), "")
    reason = fields.get("Reason", "")
    patient = re.fullmatch(rf"(.*),born(\d{{4}}-\d\d-\d\d),{GENDER}(.*)", squeezed(fields["Patient"]))
    reviewer = re.fullmatch(r"(.*),(.*),identifier(\d+)", squeezed(fields["Reviewer"]))
    version = re.fullmatch(r"(\d+)\((.*)\)", squeezed(fields["Version"]))
    assert patient, fields
    assert reviewer, fields
    assert version, fields
    return {
        "patient": {"name": patient[1], "birthDate": patient[2], "gender": patient[3],
                    "identifiers": patient[4].split(",") if patient[4] else []},
        "reviewer": {"name": reviewer[1], "organization": reviewer[2], "identifier": reviewer[3]},
        "caseId": fields["Case"], "version": int(version[1]), "versionId": version[2], "issued": fields["Issued"],
        "status": fields["Status"], "requester": fields["Asked by"], "consultation": fields["Consulted"],
        "amendment": _amendment(f"{amended} Reason:{reason}" if reason else amended),
        "notices": [one for one in said if one != amended],
    }  # fmt: skip


def _text_said(parts: dict[str, list[str]]) -> Facts:
    conclusion, rest = _until(parts["CONCLUSION"], "Overall concordance:")
    place = len(conclusion)
    total = re.match(r"Overallconcordance:(.*?)\.Significance:(\w+)\.", squeezed("".join(parts["CONCLUSION"][place:])))
    assert total
    items = []
    for one in _marked(parts.get("ITEM BY ITEM", []), r"\d+\. "):
        title, more = re.split(r"\n  (?=(?:diagnosis|treatment):)", one, maxsplit=1)
        first, labelled = _labelled(more.split("\n"), ITEM_LABELS)
        judged = re.fullmatch(r"(\w+):(.*);significance(.*);confidence(.*)", squeezed("".join(first)))
        assert judged, one
        said = [value.replace("notstated", "") for value in judged.groups()]
        items.append({**labelled, "title": title, "axis": said[0], "concordance": said[1], "significance": said[2],
                      "confidence": said[3]})  # fmt: skip
    return {
        "conclusion": "\n".join(conclusion), "overall": total[1], "significance": total[2], "items": items,
        "decision": _labelled(rest, DECISION_LABELS)[1],
        "reasons": list(_marked(parts.get("WHY IT WAS ASKED", []), "- ")),
        "answers": [_answer(one) for one in _marked(parts.get("QUESTIONS AND ANSWERS", []), r"\d+\. ")],
        "options": [_option(one) for one in _marked(parts.get("OPTIONS", []), r"\d+\. ")],
        "recommendations": [_recommendation(one) for one in _marked(parts.get("RECOMMENDATIONS", []), "- ")],
        "prose": [{"title": t, "text": "\n".join(parts[t.upper()])} for t in PROSE if t.upper() in parts],
    }  # fmt: skip


def _text_standing(parts: dict[str, list[str]]) -> Facts:
    records, _ = _until(parts["RECORDS REVIEWED"], "What the sources say differently")
    _, differing = _until(parts["RECORDS REVIEWED"], "What the sources say differently")
    records, lacking = _until(records, "Missing from the record:")
    records = [line for line in records if line != "Nothing on the checklist is missing."]
    sources = [one.split("\n    - ") for one in _marked(records, "- ")]
    conflicts = [one.split("\n    - ") for one in _marked(differing, "- ")]
    before, standing = _labelled(parts["INDEPENDENCE"], STANDING_LABELS)
    result, *findings = _bulleted(standing["result"].split("\n"), "- ")
    said, reads = _reads(parts["BLINDNESS"])
    sent, _ = _until(parts["SENT TO"], "Document ")
    assert before == []
    return {
        "records": [_source(first, gaps) for first, *gaps in sources],
        "missing": list(_marked(lacking, "- ")),
        "conflicts": [_conflict(first, sides, ":") for first, *sides in conflicts],
        "independence": {**standing, "result": result, "findings": findings},
        "blindness": {"said": said, "reads": reads},
        "recipients": [dict(zip(("name", "role"), _named(one), strict=True)) for one in _marked(sent, "- ")],
        "setId": parts["SENT TO"][len(sent)].removeprefix("Document "),
    }  # fmt: skip


def _bulleted(lines: list[str], mark: str) -> list[str]:
    """What stands before the first bullet, then each bullet."""
    before, _ = _until(lines, mark)
    return ["\n".join(before), *_marked(lines, mark)]


# --- PDF --------------------------------------------------------------------------------------------------------

_HEADINGS = (
    "The decision in question", "What was reviewed", "What was weighed", "Recommendations", "Options", "Item by item",
    "Questions and answers", *PROSE, "Why it was asked", "Records reviewed", "Independence", "Blindness", "Sent to",
)  # fmt: skip


def of_pdf(pdf: bytes) -> Facts:
    """The facts of the PDF: its text as a reader would select and copy it, page by page."""
    lines: list[str] = []
    document = pypdfium2.PdfDocument(pdf)
    for number, page in enumerate(document, 1):
        text = page.get_textpage().get_text_range().replace("\r\n", "\n").replace("\r", "\n")
        text = text.replace("\ufffe", "-\n")  # PDFium's way of saying that a line ends in a hyphen
        text = "\n".join(map(_left_to_right, text.split("\n")))
        body, _, footer = text.rpartition("\nCase ")
        assert footer.endswith(f" page {number} / {len(document)}"), text
        lines += body.split("\n")
    parts: dict[str, list[str]] = {"": []}
    title = ""
    for line in lines:
        if line.strip() in _HEADINGS:
            title = line.strip()
            parts[title] = []
        elif re.match(r"The record is not complete\.|The sources disagree", line):
            title = "shown once more below"
            parts[title] = []
        else:
            parts[title].append(line)
    case_id = re.match(r"([0-9a-f-]+)", footer)
    assert case_id
    return {"caseId": case_id[1], **_pdf_head(parts[""]), **_pdf_said(parts), **_pdf_standing(parts)}


_DIRECTIONS = {"L": "left", "EN": "left", "AN": "left", "R": "right", "AL": "right"}
_MIRRORED = str.maketrans("()[]<>“”", ")(][><”“")


def _left_to_right(line: str) -> str:
    """A line of PDFium as it is read in a text that goes from left to right.

    PDFium takes a line with more runs of Hebrew or Arabic than of others for one that goes from right to left, and
    turns what stands between by what came before. Undone, that is the line as it is drawn; then each stretch of those
    scripts is turned, as a reader does.
    """
    runs = _runs(line)
    kinds = [kind for kind, _ in runs]
    if "right" not in kinds:
        return line
    whole = "right" if kinds.count("right") > kinds.count("left") else "left"
    now, drawn = whole, []
    for kind, text in runs:
        now = "right" if "right" in (kind, now if kind == "neutral" else "") else "left"
        drawn.append(_turned(text) if now == "right" else text)
    return "".join(
        _turned(text) if kind == "right" else text
        for kind, text in _runs("".join(drawn[::-1] if whole == "right" else drawn), joined=True)
    )


def _turned(text: str) -> str:
    return text[::-1].translate(_MIRRORED)


def _runs(line: str, *, joined: bool = False) -> list[tuple[str, str]]:
    """The stretches of one direction; `joined` takes what stands between two from right to left for one with them."""
    runs: list[tuple[str, str]] = []
    for character in line:
        kind = _DIRECTIONS.get(unicodedata.bidirectional(character), "neutral")
        if joined and kind == "right" and [k for k, _ in runs[-2:]] == ["right", "neutral"]:
            runs[-2:] = [("right", runs[-2][1] + runs[-1][1])]
        if runs and runs[-1][0] == kind:
            runs[-1] = (kind, runs[-1][1] + character)
        else:
            runs.append((kind, character))
    return runs


def _pdf_head(lines: list[str]) -> Facts:
    told = "\n".join(lines)
    found = re.search(
        r"Second opinion\nPatient\n(?P<patient>.*)\nReviewer\n(?P<reviewer>.*)\nVersion (?P<version>\d+), "
        r"(?P<status>[a-z-]+)\n(?P<issued>[^\n]*UTC)\nAsked by\n(?P<asked>.*)\nConsultation\n(?P<rest>.*)\n"
        r"Overall concordance: (?P<overall>.*?)\ssignificance: (?P<significance>\w+)\n(?P<conclusion>.*)",
        told, re.DOTALL,
    )  # fmt: skip
    assert found, told
    said = squeezed(found.groupdict())
    patient = re.fullmatch(rf"(.*?){GENDER},born(\d{{4}}-\d\d-\d\d)(.*)", said["patient"])
    reviewer = re.fullmatch(r"([^\n]*)\n(.*)\nidentifier (\d+)", found["reviewer"], re.DOTALL)
    assert patient, said
    assert reviewer, said
    consultation, notices, amendment = found["rest"], [], None
    consultation, *more = re.split(r"\nNotice: ", consultation)
    notices = more
    amended = re.split(r"\n(?=[A-Z-]+: replaces version )", consultation, maxsplit=1)
    if len(amended) == 2:
        consultation, amendment = amended[0], _amendment(amended[1])
    return {
        "patient": {"name": patient[1], "gender": patient[2], "birthDate": patient[3],
                    "identifiers": patient[4].split(",") if patient[4] else []},
        "reviewer": {"name": reviewer[1], "organization": reviewer[2], "identifier": reviewer[3]},
        "version": int(said["version"]), "status": said["status"], "issued": said["issued"],
        "requester": said["asked"], "consultation": consultation, "amendment": amendment, "notices": notices,
        "overall": said["overall"], "significance": said["significance"], "conclusion": said["conclusion"],
    }  # fmt: skip


def _pdf_said(parts: dict[str, list[str]]) -> Facts:
    decided = parts.get("The decision in question", [])
    first, decision = _labelled(decided, {k: v for k, v in DECISION_LABELS.items() if v != "text"})
    items = []
    for one in _marked(parts.get("Item by item", []), r"\d+\. "):
        title, more = re.split(r"\n(?=(?:diagnosis|treatment):)", one, maxsplit=1)
        told, labelled = _labelled(more.split("\n"), ITEM_LABELS)
        judged = re.fullmatch(r"(\w+):(\w+)(?:·significance(\w+))?(?:·confidence(\w+))?", squeezed("".join(told)))
        assert judged, one
        axis, concordance, significance, confidence = judged.groups(default="")
        code = next(code for code in CONCORDANCES if code.replace("-", "") == concordance)
        items.append({**labelled, "title": title, "axis": axis, "concordance": code, "significance": significance,
                      "confidence": confidence})  # fmt: skip
    return {
        "items": items, "decision": {**decision, "text": "\n".join(first)},
        "reasons": list(_marked(parts.get("Why it was asked", []), "• ?")),
        "answers": [_answer(one) for one in _marked(parts.get("Questions and answers", []), r"\d+\. ")],
        "options": [_option(one) for one in _marked(parts.get("Options", []), r"\d+\. ")],
        "recommendations": [_recommendation(one) for one in _marked(parts.get("Recommendations", []), r"\d+\. ")],
        "prose": [{"title": title, "text": "\n".join(parts[title])} for title in PROSE if title in parts],
    }  # fmt: skip


def _pdf_standing(parts: dict[str, list[str]]) -> Facts:
    records, differing = _until(parts["Records reviewed"], "What the sources say differently")
    records, lacking = _until(records, "Missing from the record:")
    records = [line for line in records if line.strip() != "Nothing on the checklist is missing."]
    sources = [_bulleted(one.split("\n"), "‣ ?") for one in _marked(records, "• ?")]
    conflicts = [_bulleted(one.split("\n"), "‣ ?") for one in _marked(differing, "• ?")]
    _, standing = _labelled(parts["Independence"], STANDING_LABELS)
    result, *findings = _bulleted(standing["result"].split("\n"), "• ?")
    said, reads = _reads(parts["Blindness"])
    sent, _ = _until(parts["Sent to"], "Document ")
    last = squeezed("".join(parts["Sent to"][len(sent) :]))
    ids = re.fullmatch(r"Document(.*),versionid(.*)", last)
    assert ids, last
    return {
        "records": [_source(first, gaps) for first, *gaps in sources],
        "missing": list(_marked(lacking, "• ?")),
        "conflicts": [_conflict(first, sides, ":") for first, *sides in conflicts],
        "independence": {**standing, "result": result, "findings": findings},
        "blindness": {"said": said, "reads": reads},
        "recipients": [dict(zip(("name", "role"), _named(one), strict=True)) for one in _marked(sent, "• ?")],
        "setId": ids[1], "versionId": ids[2],
    }  # fmt: skip


# --- XHTML ------------------------------------------------------------------------------------------------------

_X = {"x": "http://www.w3.org/1999/xhtml"}


def of_xhtml(page: str) -> Facts:
    """The facts of the page, by its elements."""
    root = etree.fromstring(page.encode())
    pairs = _pairs(root.find(".//x:dl", _X))
    head = {key: values[0] for key, values in pairs.items()}
    total = {key: values[0] for key, values in _pairs(_one(root, "conclusion").find("x:dl", _X)).items()}
    notices = [_said(p) for p in root.iterfind(".//x:p[@class='notice']", _X)]
    decision = {key: values[0] for key, values in _pairs(root.find(".//x:section[@id='decision']/x:dl", _X)).items()}
    standing = _one(root, "independence")
    result = {key: values[0] for key, values in _pairs(standing.find("x:dl", _X)).items()}
    ids = re.fullmatch(r"Document(.*),versionid(.*)", squeezed(_said(_one(root, "document"))))
    amended = root.find(".//x:div[@id='amendment']", _X)
    assert ids
    return {
        "patient": {"name": head["Patient"], "birthDate": head["Born"], "gender": head["Gender"],
                    "identifiers": pairs.get("Identifier of the patient", [])},
        "reviewer": {"name": head["Reviewer"], "organization": head["Organization of the reviewer"],
                     "identifier": head["Identifier of the reviewer"]},
        "requester": head["Asked by"], "consultation": head["Consultation"], "caseId": head["Case"],
        "version": int(head["Version"]), "status": head["Status"], "issued": head["Issued"],
        "amendment": _amendment(_said(amended)) if amended is not None else None, "notices": notices,
        "conclusion": "".join(_said(p) for p in _one(root, "conclusion").iterfind("x:p", _X)),
        "overall": total["Overall concordance"], "significance": total["Significance"],
        "decision": {"text": decision.get("In question", ""), "owner": decision.get("To be decided by", ""),
                     "deadline": decision.get("Until", "")},
        "reasons": [_said(li) for li in root.iterfind(".//x:section[@id='reasons']//x:li", _X)],
        "items": list(_xhtml_items(root)), "answers": list(_xhtml_answers(root)),
        "options": list(_xhtml_options(root)),
        "recommendations": [
            dict(zip(("text", "strength", "kind"), row, strict=True)) for row in _rows(root, "recommendations")
        ],
        "prose": [
            {"title": t, "text": "".join(_said(p) for p in _one(root, t.lower()).iterfind("x:p", _X))}
            for t in PROSE if root.find(f".//x:section[@id='{t.lower()}']", _X) is not None
        ],
        **_xhtml_records(root),
        "independence": {
            "result": result["Result"], "findings": [_said(li) for li in standing.iterfind("x:ul/x:li", _X)],
            "attestation": result.get("Attestation", ""), "override": result.get("Override", ""),
        },
        "blindness": _xhtml_blindness(root),
        "recipients": [dict(zip(("name", "role"), row, strict=True)) for row in _rows(root, "recipients")],
        "setId": ids[1], "versionId": ids[2],
    }  # fmt: skip


def _one(root: Any, name: str) -> Any:
    (found,) = root.iterfind(f".//*[@id='{name}']")
    return found


def _said(element: Any) -> str:
    return "".join(element.itertext())


def _tag(element: Any) -> str:
    return str(etree.QName(element).localname)


def _pairs(listed: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    children = list(listed) if listed is not None else []
    for term, value in zip(children[::2], children[1::2], strict=True):
        assert (_tag(term), _tag(value)) == ("dt", "dd")
        found.setdefault(_said(term), []).append(_said(value))
    return found


def _rows(root: Any, name: str) -> list[list[str]]:
    return [[_said(td) for td in tr] for tr in root.iterfind(f".//x:section[@id='{name}']//x:tbody/x:tr", _X)]


def _xhtml_items(root: Any) -> Iterator[Facts]:
    names = {**ITEM_LABELS, "On the": "axis", "Opinion": "concordance"}
    for heading in root.iterfind(".//x:section[@id='items']/x:h3", _X):
        said = {names[label]: values[0] for label, values in _pairs(heading.getnext()).items()}
        yield {**dict.fromkeys(names.values(), ""), "title": _said(heading), **said}


def _xhtml_options(root: Any) -> Iterator[Facts]:
    names = {**OPTION_LABELS, "Opinion": "preference"}
    for heading in root.iterfind(".//x:section[@id='options']/x:h3", _X):
        said = {names[label]: values[0] for label, values in _pairs(heading.getnext()).items()}
        yield {**dict.fromkeys(names.values(), ""), "text": _said(heading), **said}


def _xhtml_answers(root: Any) -> Iterator[Facts]:
    for point in root.iterfind(".//x:section[@id='answers']/x:ol/x:li", _X):
        paragraphs = [_said(p) for p in point.iterfind("x:p", _X)]
        cannot = paragraphs[0] == "Cannot be answered:"
        said = "".join(paragraphs[cannot:])
        yield {"question": _said(point[0]), "text": "" if cannot else said, "cannotAnswer": said if cannot else ""}


def _xhtml_records(root: Any) -> Facts:
    sources, missing = [], []
    for heading in _one(root, "records").iterfind("x:h3", _X):
        after = heading.getnext()
        if _said(heading) == "Missing from the record":
            missing = [_said(li) for li in after.iterfind("x:li", _X)]
            continue
        said, listed = _pairs(after), after.getnext()
        gaps = [_said(li) for li in listed] if listed is not None and _tag(listed) == "ul" else []
        sources.append({"name": _said(heading), "received": int(said["Resources"][0]), "asOf": said["As of"][0],
                        "gaps": gaps})  # fmt: skip
    conflicts = []
    for table in root.iterfind(".//x:section[@id='conflicts']/x:table", _X):
        about, kind = _named(_said(table[0]))
        rows = [[_said(td) for td in tr] for tr in table.iterfind("x:tbody/x:tr", _X)]
        sides = [dict(zip(("source", "text", "date"), row, strict=True)) for row in rows]
        conflicts.append({"about": about, "kind": kind, "sides": sides})
    return {"records": sources, "missing": missing, "conflicts": conflicts}


def _xhtml_blindness(root: Any) -> Facts:
    reads: list[Facts] = []
    _, said, *rest = _one(root, "blindness")
    for element in rest:
        if _tag(element) == "h3":
            reads.append({"title": _said(element), "text": ""})
        else:
            reads[-1]["text"] += _said(element)
    return {"said": _said(said), "reads": reads}


# --- the document Bundle ----------------------------------------------------------------------------------------


def of_bundle(bundle: Resource) -> Facts:
    """The facts of the document: what is structured from its resources, the rest from the Composition's narrative."""
    by_reference = {entry["fullUrl"].split("/fhir/")[1]: entry["resource"] for entry in bundle["entry"]}
    composition = bundle["entry"][0]["resource"]
    (report,) = (r for r in by_reference.values() if r["resourceType"] == "DiagnosticReport")
    told = {section["title"]: _narrative(section["text"]["div"]) for section in composition["section"]}
    role = by_reference[composition["author"][0]["reference"]]
    practitioner = by_reference[role["practitioner"]["reference"]]
    patient = by_reference[composition["subject"]["reference"]]
    return {
        **of_diagnostic_report(report, by_reference),
        "versionId": bundle["identifier"]["value"],
        "patient": {"name": _name(patient), "birthDate": patient.get("birthDate", ""),
                    "gender": patient.get("gender", ""), "identifiers": [i["value"] for i in patient["identifier"]]},
        "reviewer": {"name": _name(practitioner),
                     "organization": by_reference[role["organization"]["reference"]]["name"],
                     "identifier": practitioner["identifier"][0]["value"]},
        **_sections(told),
    }  # fmt: skip


def of_diagnostic_report(report: Resource, by_reference: dict[str, Resource]) -> Facts:
    """What a DiagnosticReport and the Observations of its result say as codes and elements."""
    observations = [by_reference[result["reference"]] for result in report["result"]]
    overall = [o for o in observations if _code(o["code"]) == "overall-concordance"]
    items = [_judged(o, by_reference) for o in observations if o not in overall]
    assessed = [item for item in items if item["concordance"] != "not-assessed"]
    ranks = ["", "none", "minor", "major", "critical"]
    extension = {e["url"].rpartition("/")[2]: e for e in report["extension"]}
    return {
        "caseId": report["identifier"][1]["value"], "setId": report["identifier"][0]["value"],
        "version": extension["report-version"]["valuePositiveInt"], "status": report["status"],
        "issued": f"{report['issued'][:16].replace('T', ' ')} UTC", "conclusion": report["conclusion"],
        "overall": overall[0]["valueCodeableConcept"]["text"] if overall else "not assessed",
        "significance": max((item["significance"] or "none" for item in assessed), key=ranks.index, default="none"),
        "items": items, "independence": _stated(extension["independence"]),
    }  # fmt: skip


def _judged(observation: Resource, by_reference: dict[str, Resource]) -> Facts:
    item = by_reference[observation["focus"][0]["reference"]]
    said = dict.fromkeys(ITEM_LABELS.values(), "")
    names = {"would-change": "wouldChange"}
    for component in observation.get("component", []):
        code = _code(component["code"])
        value = component.get("valueCodeableConcept", {})
        said[names.get(code, code)] = (
            component.get("valueString") or value.get("text") or next(iter(value.get("coding", [])), {}).get("code", "")
        )
    return {
        **said, "title": item.get("description") or item["code"]["text"],
        "axis": _code(observation["code"]).removesuffix("-concordance"),
        "concordance": _code(observation["valueCodeableConcept"]),
        "basis": next((note["text"] for note in observation.get("note", [])), ""),
    }  # fmt: skip


def _stated(extension: Resource) -> Facts:
    parts: dict[str, list[str]] = {}
    for part in extension["extension"]:
        parts.setdefault(part["url"], []).append(next(str(v) for k, v in part.items() if k != "url"))
    return {
        "result": parts["result"][0], "findings": parts.get("finding", []),
        "attestation": "".join(parts.get("attestation", [])), "override": "".join(parts.get("override", [])),
    }  # fmt: skip


def _code(concept: Resource) -> str:
    return next(str(c["code"]) for c in concept["coding"] if c["system"].startswith(CODES))


def _name(resource: Resource) -> str:
    name = resource["name"][0]
    return " ".join([*name.get("prefix", []), *name.get("given", []), name.get("family", "")])


def _narrative(div: str) -> list[list[str]]:
    """Each paragraph or item of the list, as its lines."""
    root = etree.fromstring(div)
    blocks = [li for ul in root for li in ul] if len(root) and _tag(root[0]) == "ul" else list(root)
    return [[block.text or "", *(br.tail or "" for br in block)] for block in blocks]


def _sections(told: dict[str, list[list[str]]]) -> Facts:
    asked = _by_label(told["Reason for referral"])
    judged = [_labelled(lines[2:], ITEM_LABELS)[1] | _head_of(lines) for lines in told["Concordance"][2:]]
    records, conflicts = [], []
    listed = _by_label(told["Records reviewed"])
    for first, *more in told["Records reviewed"]:
        if first.startswith("Differs between sources: "):
            conflicts.append(_conflict(first.removeprefix("Differs between sources: "), more, "says:"))
        elif re.search(r": \d+ resources, as of ", first):
            records.append(_source(first, [line.removeprefix("Not there: ") for line in more]))
    standing = [line for (line, *_) in told["Independence"]]
    labelled = _by_label(told["Independence"])
    (said, *_), *reads = told["Blindness"]
    return {
        "amendment": _amendment("\n".join(line for lines in told.get("Amendment", []) for line in lines)),
        "conclusion": "".join(line for lines in told["Conclusion"] for line in lines),
        "overall": _by_label(told["Concordance"])["Overall concordance"][0],
        "significance": _by_label(told["Concordance"])["Significance"][0], "items": judged,
        "options": [
            {"text": lines[0].split(". ", 1)[1], "preference": lines[1].removeprefix("Opinion: "),
             **_labelled(lines[2:], OPTION_LABELS)[1]}
            for lines in told.get("Options", [])
        ],
        "recommendations": [_recommendation("".join(lines)) for lines in told.get("Recommendations", [])],
        "answers": [_answer("\n".join(lines).split(". ", 1)[1]) for lines in told.get("Questions and answers", [])],
        "prose": [{"title": t, "text": "".join(x for lines in told[t] for x in lines)} for t in PROSE if t in told],
        "requester": asked["Asked by"][0], "reasons": asked.get("Reason", []),
        "decision": {name: "".join(asked.get(label, [])) for label, name in DECISION_LABELS.items()},
        "notices": listed.get("Notice", []), "consultation": listed["Consultation"][0],
        "missing": listed.get("Missing", []), "records": records, "conflicts": conflicts,
        "independence": {
            "result": labelled["Result"][0], "attestation": "".join(labelled.get("Attestation", [])),
            "override": "".join(labelled.get("Override", [])),
            "findings": [line for line in standing if not re.match("(Result|Attestation|Override): ", line)],
        },
        "blindness": {"said": said, "reads": [{"title": r[0], "text": "".join(r[1:])} for r in reads]},
        "recipients": [dict(zip(("name", "role"), _named(line), strict=True)) for (line,) in told["Sent to"]],
    }  # fmt: skip


def _head_of(lines: list[str]) -> Facts:
    axis, _, concordance = lines[1].removeprefix("On the ").partition(": ")
    return {"title": lines[0].split(". ", 1)[1], "axis": axis, "concordance": concordance}


def _by_label(blocks: list[list[str]]) -> dict[str, list[str]]:
    """What stands behind "Label: " in the blocks that begin with one."""
    found: dict[str, list[str]] = {}
    for lines in blocks:
        label, colon, value = "\n".join(lines).partition(": ")
        if colon:
            found.setdefault(label, []).append(value)
    return found
