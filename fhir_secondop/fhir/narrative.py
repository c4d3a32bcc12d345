"""Is the XHTML of a narrative well-formed and harmless?

Only formatting, links and images; nothing deprecated (u, s, font), no script, form, frame, object, event handler or
foreign style. An allow-list: what is not named here is refused. There is some text, or an image (invariant txt-2).
Source: https://hl7.org/fhir/R4/narrative.html#xhtml
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from xml.parsers import expat

from fhir_secondop.fhir.xmlnarrative import MAX_DEPTH, Unfit, new_parser
from fhir_secondop.fhir.xmlplan import XHTML

_ELEMENTS = (
    "a abbr acronym address area b bdo big blockquote br caption cite code col colgroup dd dfn div dl dt em h1 h2 h3 h4"
    " h5 h6 hr i img kbd li map ol p pre q samp small span strong sub sup table tbody td tfoot th thead tr tt ul var"
)
ELEMENTS = frozenset(f"{XHTML} {name}" for name in _ELEMENTS.split())
_ATTRIBUTES = (
    "abbr accesskey align alt axis bgcolor border cellpadding cellspacing char charoff charset cite class clear"
    " colspan compact coords dir frame headers height href hreflang hspace id lang name noshade nowrap rel rev rowspan"
    " rules scope shape size span src start style summary tabindex title type usemap valign value vspace width"
)
_XML = "http://www.w3.org/XML/1998/namespace"
ATTRIBUTES = frozenset((*_ATTRIBUTES.split(), f"{_XML} id", f"{_XML} lang", f"{_XML} space"))
ADDRESSES = {
    "href": ("http:", "https:", "mailto:", "tel:", "ftp:", "urn:"),
    # urn:uuid: is what a transaction puts an address for (https://hl7.org/fhir/R4/http.html#trules).
    "src": (
        "http:",
        "https:",
        "cid:",
        "urn:uuid:",
        "data:image/png",
        "data:image/jpeg",
        "data:image/gif",
        "data:image/webp",
    ),
    "cite": ("http:", "https:", "urn:"),
}
_PREFIX = f"{XHTML} "
_DIV, _IMG = f"{XHTML} div", f"{XHTML} img"
_SCHEME = re.compile(r"[a-z][a-z0-9+.\-]*:")
_INVISIBLE = re.compile(r"[\x00-\x20\x7f-\xa0\u200b-\u200f\ufeff]+")
# A backslash could spell any of these in CSS's own escapes. A relative address stays with whoever shows it: HL7's own
# publisher writes "background: white url(tbl_bck1.png)" into the tables of each Questionnaire.
_BAD_STYLE = re.compile(
    r"\\|@import|expression\(|javascript:|behavior:|-moz-binding"
    r"|url\((?!['\"]?(?:#|data:image/|[\w.\-][\w.\-/]*['\"]?\)))",
    re.IGNORECASE,
)


def fault(div: str, contained: Container[str]) -> str:
    """What is wrong with a Narrative.div, or "" if nothing is; `contained` are the ids that an image may show."""
    if "<!DOCTYPE" in div or "<!ENTITY" in div:
        return "must not have a DOCTYPE"
    parser, seen = new_parser(), _Seen(contained)
    parser.CharacterDataHandler = seen.text
    parser.StartElementHandler = seen.start
    if div.count("</") > MAX_DEPTH:
        parser.StartElementHandler, parser.EndElementHandler = seen.deeper, seen.end
    try:
        parser.Parse(div, True)
    except (expat.ExpatError, UnicodeEncodeError):
        return "must be well-formed XML, with numeric character references instead of HTML's named ones"
    except Unfit as reason:
        return str(reason)
    return "" if seen.something else "must have some text, or an image"


class _Seen:
    """What has been seen of a div. Raises Unfit at what it may not have.

    Without its parser, which holds it: together they would wait for the collector of garbage.
    """

    __slots__ = ("_contained", "_depth", "_is_open", "something")

    def __init__(self, contained: Container[str]) -> None:
        self._contained = contained
        self._depth = 0
        self._is_open = self.something = False

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        if not self._is_open:
            if name != _DIV:
                raise Unfit(f"must be one div element in the namespace {XHTML}")
            self._is_open = True
        if name not in ELEMENTS:
            raise Unfit("has an element that a narrative may not have; only text, lists, tables, links and images")
        if attributes:
            _check_attributes(name.removeprefix(_PREFIX), attributes)
        if name == _IMG:
            self.something = True
            shown = attributes.get("src", "")
            if shown.startswith("#") and shown[1:] not in self._contained:
                raise Unfit("has an image of a contained resource that is not there")

    def deeper(self, name: str, attributes: Mapping[str, str]) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unfit(f"is nested deeper than {MAX_DEPTH} levels")
        self.start(name, attributes)

    def end(self, name: str) -> None:
        self._depth -= 1

    def text(self, text: str) -> None:
        if not self.something and not text.isspace():
            self.something = True


def _check_attributes(name: str, attributes: Mapping[str, str]) -> None:
    for key, value in attributes.items():
        if key not in ATTRIBUTES:
            raise Unfit(f"has an attribute that a narrative may not have, at an element {name}")
        if key in ADDRESSES:
            address = _INVISIBLE.sub("", value).lower()
            if _SCHEME.match(address) and not address.startswith(ADDRESSES[key]):
                raise Unfit(f"has an address of a kind that a narrative may not have, at an element {name}")
        elif key == "style" and _BAD_STYLE.search(value):
            raise Unfit(f"has a style that loads or runs something, at an element {name}")
