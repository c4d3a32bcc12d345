"""References: find, parse and rewrite them.

Rewriting replaces only those string tokens and leaves every other byte (decision 1 of the design).
Source: https://hl7.org/fhir/R4/references.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fhir_secondop.fhir.codec import Body, dumps

# In valid JSON a quote inside a string is escaped, so a quote after one of these characters begins a token.
# A key may be written with escapes ("\\u0072eference" is "reference"): those are decoded before they are compared.
_REFERENCE_TOKEN = re.compile(r'(?<=[{,\s])"(reference|url|[^"\\]*\\(?:[^"\\]|\\.)*)"(\s*:\s*)"((?:[^"\\]|\\.)*)"')
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


def rewrite(body: Body, replacement: Callable[[str], str | None]) -> Body:
    """The body with each reference and url for which `replacement` gives a new text put in its place.

    Attachment.url and the like are looked at too: a transaction's `urn:uuid:` may stand there.
    Source: https://hl7.org/fhir/R4/http.html#trules
    """
    before_cut = 0

    def put(match: re.Match[str]) -> str:
        nonlocal before_cut
        if match[1] not in ("reference", "url") and json.loads(f'"{match[1]}"') not in ("reference", "url"):
            return match[0]
        old = json.loads(f'"{match[3]}"')
        new = replacement(old)
        if new is None or new == old:
            return match[0]
        text = f'"{match[1]}"{match[2]}{dumps(new)}'
        if match.start() < body.cut:
            before_cut += len(text) - len(match[0])
        return text

    text = _REFERENCE_TOKEN.sub(put, body.text)
    return Body(text, body.cut + before_cut)


def rewritten(value: Any, replacement: Callable[[str], str | None]) -> Any:
    """A copy of a parsed resource with its references and urls replaced, as `rewrite` does with text."""
    if isinstance(value, dict):
        return {
            key: (replacement(child) or child)
            if key in ("reference", "url") and isinstance(child, str)
            else rewritten(child, replacement)
            for key, child in value.items()
        }
    if isinstance(value, list):
        return [rewritten(child, replacement) for child in value]
    return value
