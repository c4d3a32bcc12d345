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
from typing import Any

from fhir_secondop.fhir.codec import Body, dumps

# In valid JSON a quote inside a string is escaped, so a quote after one of these characters begins a token.
# A key may be written with escapes ("\\u0072eference" is "reference"): those are decoded before they are compared.
_TOKEN = r'(?<=[{{,\s])"({keys}|[^"\\]*\\(?:[^"\\]|\\.)*)"(\s*:\s*)"((?:[^"\\]|\\.)*)"'
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
    if isinstance(value, dict):
        for key, child in value.items():
            if key == "reference" and isinstance(child, str):
                yield child
            else:
                yield from find(child)
    elif isinstance(value, list):
        for child in value:
            yield from find(child)


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
    """A copy of a parsed resource with its references and urls replaced, as `rewrite` does with text."""
    return _rewritten(value, _kinds(replacement, links))


def _rewritten(value: Any, kinds: Mapping[str, Replacement]) -> Any:
    if isinstance(value, dict):
        return {
            key: _replaced(key, child, kinds[key])
            if key in kinds and isinstance(child, str)
            else _rewritten(child, kinds)
            for key, child in value.items()
        }
    if isinstance(value, list):
        return [_rewritten(child, kinds) for child in value]
    return value


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
