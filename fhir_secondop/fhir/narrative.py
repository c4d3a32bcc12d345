"""Is the XHTML of a narrative well-formed and harmless?

Only formatting, links and images; nothing deprecated (u, s, font), no script, form, frame, object, event handler or
foreign style. An allow-list: what is not named here is refused. There is some text, or an image (invariant txt-2).
Source: https://hl7.org/fhir/R4/narrative.html#xhtml
"""

from __future__ import annotations

import re
from collections.abc import Container

from lxml import etree

XHTML = "{http://www.w3.org/1999/xhtml}"
_ELEMENTS = (
    "a abbr acronym address area b bdo big blockquote br caption cite code col colgroup dd dfn div dl dt em h1 h2 h3 h4"
    " h5 h6 hr i img kbd li map ol p pre q samp small span strong sub sup table tbody td tfoot th thead tr tt ul var"
)
ELEMENTS = frozenset(_ELEMENTS.split())
_ATTRIBUTES = (
    "abbr accesskey align alt axis bgcolor border cellpadding cellspacing char charoff charset cite class clear"
    " colspan compact coords dir frame headers height href hreflang hspace id lang name noshade nowrap rel rev rowspan"
    " rules scope shape size span src start style summary tabindex title type usemap valign value vspace width"
    " {http://www.w3.org/XML/1998/namespace}lang {http://www.w3.org/XML/1998/namespace}space"
    " {http://www.w3.org/XML/1998/namespace}id"
)
ATTRIBUTES = frozenset(_ATTRIBUTES.split())
ADDRESSES = {
    "href": ("http:", "https:", "mailto:", "tel:", "ftp:", "urn:"),
    "src": ("http:", "https:", "cid:", "data:image/png", "data:image/jpeg", "data:image/gif", "data:image/webp"),
    "cite": ("http:", "https:", "urn:"),
}
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
    try:
        # A parser for each: lxml's are not to be shared between threads.
        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
        root = etree.fromstring(div, parser)
    except (etree.XMLSyntaxError, ValueError):
        return "must be well-formed XML, with numeric character references instead of HTML's named ones"
    if root.tag != XHTML + "div":
        return "must be one div element in the namespace http://www.w3.org/1999/xhtml"
    for element in root.iter():
        if element.tag is etree.Comment:
            continue
        if not isinstance(element.tag, str):
            return "must not have processing instructions or entities"
        if reason := _element_fault(element.tag, {str(key): str(value) for key, value in element.items()}):
            return reason
        shown = element.get("src", "") if element.tag == XHTML + "img" else ""
        if shown.startswith("#") and shown[1:] not in contained:
            return "has an image of a contained resource that is not there"
    if root.find(f".//{XHTML}img") is None and not "".join(map(str, root.itertext(XHTML + "*"))).strip():
        return "must have some text, or an image"
    return ""


def _element_fault(tag: str, attributes: dict[str, str]) -> str:
    name = tag.removeprefix(XHTML)
    if name not in ELEMENTS:
        return "has an element that a narrative may not have; only text, lists, tables, links and images"
    for key, value in attributes.items():
        if key not in ATTRIBUTES:
            return f"has an attribute that a narrative may not have, at an element {name}"
        if key in ADDRESSES:
            address = _INVISIBLE.sub("", value).lower()
            if _SCHEME.match(address) and not address.startswith(ADDRESSES[key]):
                return f"has an address of a kind that a narrative may not have, at an element {name}"
        elif key == "style" and _BAD_STYLE.search(value):
            return f"has a style that loads or runs something, at an element {name}"
    return ""
