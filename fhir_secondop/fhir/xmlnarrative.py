"""The div of a narrative, which is text in JSON and XML in XML: the same characters in both.

Well-formed, one div in the namespace of XHTML, no DOCTYPE, no processing instruction; whether it is harmless is asked
elsewhere (fhir.narrative). expat says at which byte an element begins and ends, so that nothing is written anew.
Source: https://hl7.org/fhir/R4/narrative.html#xhtml
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.parsers import expat

from lxml import etree

from fhir_secondop.fhir.xmlplan import XHTML

MAX_DEPTH = 100  # elements in each other; the same as the codec's
MAX_NAMESPACE = 256
"""Characters of a namespace. expat repeats it in each name: long ones would make much of few bytes."""

# What may stand before a DOCTYPE. None gets as far as expat, which after a fault reads on and would expand entities.
_PROLOG = re.compile(rb"(?:[ \t\r\n]++|<!--.*?-->|<\?.*?\?>)*+", re.DOTALL)
_ELEMENT = XHTML + " "
_DIV = XHTML + " div"
_DEFAULT: Any = {None: XHTML}


class Unfit(Exception):
    """Why something can't stand in a narrative or document; never quotes it."""


def doctype_at(data: bytes) -> int:
    """The byte at which a DOCTYPE begins; -1 if there is none."""
    match = _PROLOG.match(data)
    at = match.end() if match else 0
    return at if data.startswith(b"<!DOCTYPE", at) else -1


def div_of(text: str) -> str:
    """The div element in a JSON string, as it stands there, without space or comments around it.

    Raises Unfit.
    """
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Unfit("must not have half of a surrogate pair") from error
    if doctype_at(data) >= 0:
        raise Unfit("must not have a DOCTYPE")
    parser = new_parser()
    tree = Div(parser, data)
    parser.StartElementHandler = tree.start
    parser.EndElementHandler = tree.end
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise Unfit(
            "must be well-formed XML, with numeric character references instead of HTML's named ones"
        ) from error
    return tree.text()


def new_parser() -> Any:
    """A parser of expat's that raises Unfit at what no narrative has; its names are "namespace name"."""
    parser = expat.ParserCreate("utf-8", " ")
    parser.XmlDeclHandler = _refuse_declaration
    parser.ProcessingInstructionHandler = _refuse_instruction
    parser.StartNamespaceDeclHandler = _check_namespace
    return parser


def standalone(div: str, scope: Mapping[str, str]) -> str:
    """The same div, able to stand alone: verbatim, or written anew if it uses prefixes declared outside.

    `scope`: prefix → namespace, of what is declared around it ("" is the default).
    """
    try:
        return div_of(div)
    except Unfit:
        pass
    names = "".join(f" xmlns{':' + prefix if prefix else ''}={_quoted(uri)}" for prefix, uri in scope.items() if uri)
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(f"<w{names}>{div}</w>", parser)[0]
    except (etree.XMLSyntaxError, ValueError) as error:
        raise Unfit("must be able to stand alone") from error
    # What is declared where it is used needs no scope; all elements are XHTML (Div has seen to that).
    alone = etree.Element(f"{{{XHTML}}}div", attrib=dict(root.attrib), nsmap=_DEFAULT)
    alone.text = root.text
    alone.extend([_unprefixed(child) for child in list(root)])
    return div_of(etree.tostring(alone, encoding="unicode", with_tail=False))


def _unprefixed(node: Any) -> Any:
    if not isinstance(node.tag, str):
        return node
    made = etree.Element(node.tag, attrib=dict(node.attrib), nsmap=_DEFAULT)
    made.text, made.tail = node.text, node.tail
    made.extend([_unprefixed(child) for child in list(node)])
    return made


def _quoted(text: str) -> str:
    return '"' + text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;") + '"'


class Div:
    """Follows expat's events from a div to its end."""

    __slots__ = ("_begin", "_data", "_depth", "_end", "_parser", "_tag")

    def __init__(self, parser: Any, data: bytes) -> None:
        self._parser, self._data = parser, data
        self._begin = self._end = self._depth = 0
        self._tag = b""

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        if self._depth == 0:
            if name != _DIV:
                raise Unfit(f"must be one div element in the namespace {XHTML}")
            self._begin = self._parser.CurrentByteIndex
            self._tag = b"</" + _name_at(self._data, self._begin + 1)
        elif not name.startswith(_ELEMENT):
            raise Unfit(f"may only have elements in the namespace {XHTML}")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unfit(f"is nested deeper than {MAX_DEPTH} levels")

    def end(self, name: str) -> bool:
        """Whether that was the end of the div itself."""
        self._depth -= 1
        if self._depth:
            return False
        at = self._parser.CurrentByteIndex
        # At an end tag expat stands before it; at <div/> it stands behind.
        self._end = self._data.index(b">", at) + 1 if self._data.startswith(self._tag, at) else at
        return True

    def text(self) -> str:
        return self._data[self._begin : self._end].decode("utf-8")


def _name_at(data: bytes, at: int) -> bytes:
    end = at
    while data[end] not in b" \t\r\n/>":
        end += 1
    return data[at:end]


def _refuse_declaration(*_: Any) -> None:
    raise Unfit("must not begin with an XML declaration")


def _refuse_instruction(*_: Any) -> None:
    raise Unfit("must not have processing instructions")


def _check_namespace(prefix: str | None, uri: str | None) -> None:
    if uri is not None and len(uri) > MAX_NAMESPACE:
        raise Unfit(f"may not declare a namespace of more than {MAX_NAMESPACE} characters")
