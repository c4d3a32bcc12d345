"""References: find, parse and rewrite them.

Rewriting replaces only those string tokens and leaves every other byte (decision 1 of the design).
Source: https://hl7.org/fhir/R4/references.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from html import escape, unescape
from operator import is_
from typing import Any, NamedTuple

from fhir_secondop.fhir.codec import Body, dumps
from fhir_secondop.model import Resource

# In valid JSON a quote inside a string is escaped, so a quote after one of these characters begins a token.
# A key may be written with escapes ("\\u0072eference" is "reference"): those are decoded before they are compared.
_TOKEN = r'(?<=[{{,\s])"({keys}|[^"\\]*\\.(?:[^"\\]|\\.)*)"(\s*:\s*)"((?:[^"\\]|\\.)*)"'
# Where a link may stand beside Reference.reference: in elements of type uri and url whose names nothing else has, and
# in a narrative. A canonical name is none, nor is a uuid, which can't be an address.
# Source: https://hl7.org/fhir/R4/http.html#trules
_LINKS = (
    "url", "div", "valueUri", "valueUrl", "instantiatesUri", "definitionUri", "derivedFromUri", "sourceUri",
    "targetUri",
)  # fmt: skip
_IN_NARRATIVE = re.compile(r"""(\s(?:href|src)\s*=\s*)(["'])([^"'<>]*)\2""")
_MENTIONED = re.compile(r'"reference"\s*:\s*"([^"]*)"')
_ESCAPED = re.compile(r"\\u00")
_FEW_ESCAPES = 100  # are sooner looked at one by one than the text is gone through
_LITERAL = re.compile(
    r"(?:(?P<base>https?://.+?)/)?(?P<type>[A-Z][A-Za-z]+)/(?P<id>[A-Za-z0-9.\-]{1,64})"
    r"(?:/_history/(?P<version>[A-Za-z0-9.\-]{1,64}))?"
)


@dataclass(frozen=True, slots=True)
class Ref:
    """A literal reference, taken apart. `base` is empty for a relative one."""

    base: str
    type: str
    id: str
    version: str

    @property
    def local(self) -> str:
        """ "Type/id", without base and version."""
        return f"{self.type}/{self.id}"


def parse(text: str) -> Ref | None:
    """The parts of "Type/id", with or without a base and a version; None for urn:, #contained and searches."""
    match = _LITERAL.fullmatch(text)
    if match is None:
        return None
    return Ref(match["base"] or "", match["type"], match["id"], match["version"] or "")


def find(value: Any) -> Iterator[str]:
    """Every Reference.reference string in a resource, contained resources included."""
    found: list[str] = []
    _find(value, found)
    return iter(found)


def _find(value: Any, found: list[str]) -> None:
    # By the types of JSON, and without a generator for each value: every write goes through here.
    if type(value) is dict:
        for key, child in value.items():
            kind = type(child)
            if kind is str:
                if key == "reference":
                    found.append(child)
            elif kind is dict or kind is list:
                _find(child, found)
    elif type(value) is list:
        for child in value:
            _find(child, found)


def mentioned(texts: Iterable[str]) -> set[str]:
    """Every Reference.reference string in the texts of valid resources, without parsing them.

    A record has hundreds of resources: parsed, each would take as long as all the rest of an answer.
    """
    several = list(texts)
    joined = "\n".join(several)
    found = set(_MENTIONED.findall(joined))
    # A key or a value may be written with escapes: those are read as JSON. Most texts have none but \\n and \\".
    if _may_be_escaped(joined) or any("\\" in each for each in found):
        return {text for each in several for text in find(json.loads(each))}
    return found


def _may_be_escaped(text: str) -> bool:
    """Whether a character that needs no escape may have one. Most texts have a few escapes or none."""
    at = text.find("\\")
    for _ in range(_FEW_ESCAPES):
        if at < 0 or text.startswith("u00", at + 1):
            return at >= 0
        at = text.find("\\", at + 2)
    return at >= 0 and _ESCAPED.search(text, at) is not None


Replacement = Callable[[str], str | None]


def rewrite(body: Body, replacement: Replacement, links: Replacement | None = None) -> Body:
    """The body with each reference and url for which `replacement` gives a new text put in its place.

    Attachment.url and the like are looked at too: a transaction's `urn:uuid:` may stand there. With `links` that is
    asked of urls, and of whatever else may hold an address (a uri, a link of the narrative).
    """
    kinds = _kinds(replacement, links)
    before_cut = 0

    def put(match: re.Match[str]) -> str:
        nonlocal before_cut
        key = match[1] if match[1] in kinds else json.loads(f'"{match[1]}"')
        if key not in kinds:
            return match[0]
        old = json.loads(f'"{match[3]}"')
        new = _replaced(key, old, kinds[key])
        if new == old:
            return match[0]
        text = f'"{match[1]}"{match[2]}{dumps(new)}'
        if match.start() < body.cut:
            before_cut += len(text) - len(match[0])
        return text

    text = _tokens(tuple(kinds)).sub(put, body.text)
    return Body(text, body.cut + before_cut)


def rewritten(value: Any, replacement: Replacement, links: Replacement | None = None) -> Any:
    """A copy of a parsed resource with its references and urls replaced, as `rewrite` does with text. What has none
    of these is the original's own.
    """
    made = _Rewriting(_kinds(replacement, links)).of(value)
    return dict(made) if made is value and type(value) is dict else made


class Link(NamedTuple):
    """A text that may be an address, as it has become; the member that it is, and the one that holds it."""

    holder: str
    key: str
    text: str


def resolved(
    body: Body, resource: Resource, replacement: Replacement, links: Replacement | None = None
) -> tuple[Body, Resource, list[Link]]:
    """What `rewrite` and `rewritten` make of a resource's text and of its members, and all the links in it: gone
    through once, and each asked for once. Where there is nothing to replace, they are the originals.
    """
    rewriting = _Rewriting(_kinds(replacement, links))
    made = rewriting.of(resource)
    if made is resource:
        return body, resource, rewriting.links
    return rewriting.in_text(body) or rewrite(body, replacement, links), made, rewriting.links


class _Rewriting:
    """One way through a parsed resource: its links, and what was replaced, by the old text."""

    __slots__ = ("_changed", "_is_plain", "_kinds", "links")

    def __init__(self, kinds: Mapping[str, Replacement]) -> None:
        self._kinds = kinds
        self.links: list[Link] = []
        self._changed: dict[str, tuple[str, int]] = {}
        self._is_plain = True  # each old text has become one new one, as a whole

    def of(self, value: Any, holder: str = "") -> Any:
        """The value with what was replaced; itself where that is nothing."""
        if type(value) is list:
            many = [self.of(each, holder) if type(each) in _NESTING else each for each in value]
            return value if all(map(is_, many, value)) else many
        if type(value) is not dict:
            return value
        made: dict[str, Any] | None = None
        for key, child in value.items():
            kind = type(child)
            if kind is str:
                if key not in self._kinds:
                    continue
                new: Any = self._link(holder, key, child)
            elif kind in _NESTING:
                new = self.of(child, key)
            else:
                continue
            if new is not child:
                made = dict(value) if made is None else made
                made[key] = new
        return value if made is None else made

    def _link(self, holder: str, key: str, old: str) -> str:
        new = _replaced(key, old, self._kinds[key])
        self.links.append(Link(holder, key, new))
        if new == old:
            return old
        before, count = self._changed.get(old, (new, 0))
        self._changed[old] = new, count + 1
        # What begins with a colon or a comma could be taken for what stands between two strings.
        self._is_plain = self._is_plain and before == new and key != "div" and old[:1].isalnum()
        return new

    def in_text(self, body: Body) -> Body | None:
        """The body with the same replaced, where the old texts stand as often as there are links to replace: then each
        of them is one. None where that can't be told so.
        """
        text, changed = body.text, self._changed
        if not self._is_plain or "\\u" in text or "\\/" in text:  # a link may be written in other letters
            return None
        tokens = [(dumps(old), dumps(new), count) for old, (new, count) in changed.items()]
        if any(new in changed for new, _ in changed.values()) or any(text.count(old) != n for old, _, n in tokens):
            return None
        head, tail = text[: body.cut], text[body.cut :]
        for old, new, _ in tokens:
            head, tail = head.replace(old, new), tail.replace(old, new)
        return Body(head + tail, len(head))


_NESTING = (dict, list)


def _kinds(replacement: Replacement, links: Replacement | None) -> dict[str, Replacement]:
    """What is asked by the name of an element."""
    if links is None:
        return {"reference": replacement, "url": replacement}
    return {"reference": replacement, **dict.fromkeys(_LINKS, links)}


@cache
def _tokens(keys: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(_TOKEN.format(keys="|".join(keys)))


def _replaced(key: str, text: str, replacement: Replacement) -> str:
    if key != "div":
        return replacement(text) or text

    def put(match: re.Match[str]) -> str:
        new = replacement(unescape(match[3]))
        return match[0] if new is None else f"{match[1]}{match[2]}{escape(new)}{match[2]}"

    return _IN_NARRATIVE.sub(put, text)
