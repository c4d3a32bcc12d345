"""Plain text ↔ XHTML narrative: paragraphs and lists, nothing active.

Source: https://hl7.org/fhir/R4/narrative.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from lxml import etree

from fhir_secondop.errors import Invalid
from fhir_secondop.model import Resource

XHTML = "http://www.w3.org/1999/xhtml"
# What XML, and so a narrative, can't hold. Source: https://hl7.org/fhir/R4/datatypes.html#string
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_NAMESPACES: Any = {None: XHTML}  # lxml takes None for the default namespace, its stubs don't know


def div(text: str) -> str:
    """The XHTML div of plain text: a paragraph for each block, lines of a block kept apart."""
    root = etree.Element(f"{{{XHTML}}}div", nsmap=_NAMESPACES)
    _check(text)
    for block in text.strip().split("\n\n"):
        _lines(etree.SubElement(root, f"{{{XHTML}}}p"), block)
    return etree.tostring(root, encoding="unicode")


def _lines(element: Any, text: str) -> None:
    element.text, *more = text.split("\n")
    for line in more:
        etree.SubElement(element, f"{{{XHTML}}}br").tail = line


def _check(text: str) -> None:
    if _UNPRINTABLE.search(text):
        raise Invalid("A text holds a control character; only tab and line end may stand in one.")


def bullets(lines: Iterable[str]) -> str:
    """The XHTML div of a list; the lines of an item of several are kept apart."""
    root = etree.Element(f"{{{XHTML}}}div", nsmap=_NAMESPACES)
    listed = etree.SubElement(root, f"{{{XHTML}}}ul")
    for line in lines:
        _check(line)
        _lines(etree.SubElement(listed, f"{{{XHTML}}}li"), line)
    return etree.tostring(root, encoding="unicode")


def text(narrative_div: str) -> str:
    """The plain text of a div: paragraphs by an empty line, breaks and items of a list by a line end."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    root = etree.fromstring(narrative_div.encode(), parser)
    blocks = [_block(block) for block in root]
    return "\n\n".join(blocks) if blocks else _all_text(root)


def _block(block: Any) -> str:
    if etree.QName(block).localname == "ul":
        return "\n".join(map(_block, block))
    parts = [block.text or ""]
    for child in block:
        parts.append("\n" if etree.QName(child).localname == "br" else _all_text(child))
        parts.append(child.tail or "")
    return "".join(parts)


def _all_text(element: Any) -> str:
    return "".join(map(str, element.itertext()))


def section(title: str, code: Resource, body: str, entries: Iterable[str] = ()) -> Resource:
    """A Composition section; `body` is a div, `entries` are references. Raises Invalid when there is no text."""
    if not text(body).strip():
        raise Invalid(f"{title}: there is nothing but space; write something, or leave it out.")
    listed = [{"reference": entry} for entry in entries]
    return {
        "title": title,
        "code": code,
        "text": {"status": "generated", "div": body},
        **({"entry": listed} if listed else {}),
    }
