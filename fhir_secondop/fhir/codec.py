"""Bytes ↔ resource.

What was received is the truth: a stored resource keeps its text, without top-level `id` and `meta`, and an answer
is that text with ours put back in (decision 1 of the design). Parsing is for looking inside, not for storing.
Source: https://hl7.org/fhir/R4/json.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

import msgspec

from fhir_secondop.errors import Malformed
from fhir_secondop.model import Resource

MAX_DEPTH = 100
_SPACE = re.compile(r"[ \t\n\r]*")
# A string without an end goes to the end of the text, and is never tried again from a quote inside it.
_NESTING = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_BUNDLE = re.compile(r'\s*\{\s*"resourceType"\s*:\s*"Bundle"')
_SUSPECT_ESCAPE = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")


@dataclass(frozen=True, slots=True)
class Body:
    """A resource's text without its top-level id and meta, and where they go back in."""

    text: str
    cut: int


class Number(str):
    """A number of a JSON text, as it is written there: 1.10, 1e2, -0."""

    __slots__ = ()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Malformed(f"The member {twice!r} stands twice in one JSON object; send it once.")
    return members


def _no_constant(name: str) -> Any:
    raise Malformed(f"{name} is not JSON; leave the element out instead.")


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_float=Decimal, parse_constant=_no_constant)
_exact = json.JSONDecoder(object_pairs_hook=_unique, parse_float=Number, parse_int=Number, parse_constant=_no_constant)
# Without the checks, and in C alone: for what was parsed before.
_trusting = json.JSONDecoder(parse_float=Decimal)
_scan: Any = _trusting.scan_once  # type: ignore[attr-defined]
"""(value, end) of the JSON value at a place."""
_encoder = msgspec.json.Encoder(decimal_format="number")
_quick = msgspec.json.Decoder(float_hook=Decimal)
# How else than by ": a quote may stand before a colon: with space between, or written as escapes.
_SPACED = (" :", "\t:", "\n:", "\r:")
_SPACED_KEY = re.compile(r'"[ \t\n\r]+:')
_MASKED = re.compile(r"\\u00(?:22|3[aA])")


def text_of(data: bytes) -> str:
    """The characters of a JSON body. Raises Malformed unless it is UTF-8 without a byte order mark."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(f"The body is not UTF-8 (byte {error.start}); FHIR JSON is always UTF-8.") from error
    if text.startswith("\ufeff"):
        raise Malformed("The body begins with a byte order mark; leave it out.")
    return text


def parse(data: bytes | str) -> Resource:
    """The resource in a JSON body; numbers with a fraction or exponent as Decimal.

    Raises Malformed on anything that is not one JSON object, on a key that stands twice, on nesting deeper than
    100, on NUL and on half of a surrogate pair.
    """
    resource: Resource = _parse(data, _decoder)
    return resource


def parse_exact(data: bytes | str) -> Resource:
    """The resource in a JSON body, every number a `Number`: its text. Raises Malformed as `parse` does."""
    resource: Resource = _parse(data, _exact)
    return resource


def parse_array(data: bytes | str) -> list[Any]:
    """The values of a JSON body that is one array. Raises Malformed as `parse` does."""
    values: list[Any] = _parse(data, _decoder, list)
    return values


def _parse(data: bytes | str, decoder: json.JSONDecoder, kind: type = dict) -> Any:
    text = text_of(data) if isinstance(data, bytes) else data
    check_depth(text)
    try:
        value = _at_once(text) if decoder is _decoder else None
        if value is None:
            value = decoder.decode(text)
    except json.JSONDecodeError as error:
        raise Malformed(f"Not JSON at line {error.lineno}, column {error.colno}: {error.msg}.") from error
    except ArithmeticError as error:  # of Decimal, whose message says nothing
        raise Malformed("Not readable as JSON: a number has an exponent that is far too large.") from error
    except ValueError as error:
        raise Malformed(f"Not readable as JSON: {error}") from error
    if not isinstance(value, kind):
        raise Malformed(f"The body must be one JSON {'object' if kind is dict else 'array'}.")
    if _SUSPECT_ESCAPE.search(text):
        _check_characters(value)
    return value


def _at_once(text: str) -> Any:
    """The value of a text of which C alone can tell that no member stands twice; None of any other, and of no JSON.

    Written again, a value has as often a quote before a colon as its text, unless a member has been dropped.
    """
    is_spaced = any(sign in text for sign in _SPACED) and _SPACED_KEY.search(text)
    if is_spaced or ("\\u" in text and _MASKED.search(text)):
        return None
    try:
        value = _quick.decode(text)
        written = _encoder.encode(value)
    except (ValueError, ArithmeticError):  # the other decoder says what is wrong, and where
        return None
    return value if written.count(b'":') == text.count('":') else None


def trusted(text: str) -> Resource:
    """The resource in a text that `parse` or `compose` has had before: what the store holds. Faster."""
    value: Resource = _quick.decode(text)
    return value


def check_depth(text: str, limit: int = MAX_DEPTH) -> None:
    """Raises Malformed of what is nested deeper than that."""
    # Counted before decoding: the C decoder recurses, and a hostile body must not decide how deep.
    if text.count("[") + text.count("{") <= limit or _is_shallow(text, limit):
        return
    depth = 0
    for match in _NESTING.finditer(text):
        token = match.group()
        if token in "[{":
            depth += 1
            if depth > limit:
                raise Malformed(f"Nested deeper than {limit} levels (max_depth).")
        elif token in "]}":
            depth -= 1
            if depth < 0:
                return  # the decoder stops here at the latest


_STRING = re.compile(rb'"[^"]*"')
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(set(range(256)) - set(b'"[]{}'))


def _is_shallow(text: str, limit: int) -> bool:
    """Whether the brackets close within so many levels: innermost pairs are taken away level by level, in C.

    False also of what is not balanced: that is looked at one bracket after the other.
    """
    plain = text.replace("\\\\", "").replace('\\"', "") if "\\" in text else text
    # Most strings have no brackets: of these two quotes are left.
    brackets = plain.encode("utf-8", "replace").translate(_BRACKETS, _OTHERS).replace(b'""', b"")
    if b'"' in brackets:
        brackets = _STRING.sub(b"", brackets)
    for _ in range(limit):
        if not brackets:
            return True
        brackets = brackets.replace(b"[]", b"")
    return not brackets


def _check_characters(value: Any) -> None:
    """No NUL and no lone surrogate: neither database can hold them, and FHIR strings may not have them."""
    if isinstance(value, str):
        if "\0" in value or (not value.isascii() and value.encode("utf-8", "replace").decode() != value):
            raise Malformed("A string holds a NUL or half of a surrogate pair.")
    elif isinstance(value, dict):
        for key, child in value.items():
            _check_characters(key)
            _check_characters(child)
    elif isinstance(value, list):
        for child in value:
            _check_characters(child)


def dumps(value: Any) -> str:
    """JSON text of a composed value; Decimals are written as numbers with their own digits."""
    return _encoder.encode(value).decode("utf-8")


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def split(text: str) -> tuple[Body, Resource]:
    """Parts a resource's text into what we keep and its parsed members.

    The returned resource still has `id` and `meta` as sent. Raises Malformed as `parse` does, and when
    `resourceType` is missing.
    """
    resource = parse(text)
    if not isinstance(resource.get("resourceType"), str):
        raise Malformed("There is no resourceType; a FHIR resource names its type.", path="resourceType")
    return body(text, resource), resource


_HEAD = re.compile(r'\s*\{\s*"resourceType"\s*:\s*"[A-Za-z]*"')
_OWN = frozenset({"resourceType", "id", "meta"})


def body(text: str, resource: Resource | None = None) -> Body:
    """What we keep of a resource's text, which was parsed before: to `resource`, which saves looking beyond the last
    member of interest.
    """
    ahead = _OWN if resource is None else _OWN & resource.keys()
    if len(ahead) == 1 and (head := _HEAD.match(text)):
        return Body(text, head.end())
    kept: list[str] = []
    position = 0
    cut = 0
    for member in _members(text, 0):
        if member.key in ("id", "meta"):
            kept.append(text[position : member.start])
            if member.following is not None:
                position = member.following
            else:  # the last member: the comma before it goes too, which may stand before one that was cut already
                whole = "".join(kept).rstrip(" \t\n\r").removesuffix(",")
                kept, position = [whole], member.value_end
        elif member.key == "resourceType":
            kept.append(text[position : member.value_end])
            position = member.value_end
            cut = sum(map(len, kept))
        ahead -= {member.key}
        if not ahead:
            break
    kept.append(text[position:])
    return Body("".join(kept), cut)


def with_member(body: Body, key: str, value: str) -> Body:
    """The body with another string as the value of a top-level member that it has; every other byte stays."""
    member = next(m for m in _members(body.text, 0) if m.key == key)
    put = dumps(value)
    text = body.text[: member.value_start] + put + body.text[member.value_end :]
    moved = len(text) - len(body.text) if member.value_end <= body.cut else 0
    return Body(text, body.cut + moved)


def entry_resources(text: str) -> list[str | None]:
    """The text of each Bundle.entry.resource, byte for byte; None for an entry without one.

    `text` must have been parsed before.
    """
    try:
        entries = _texts.decode(text).entry
    except ValueError:  # what is no Bundle
        return [found and found[0] for found in _entries(text)]
    return [bytes(entry.resource).decode() if entry.resource else None for entry in entries]


class _EntryText(msgspec.Struct):
    resource: msgspec.Raw = msgspec.Raw()  # empty where there is none


class _EntryTexts(msgspec.Struct):
    entry: list[_EntryText] = []


_texts = msgspec.json.Decoder(_EntryTexts)


def bundled(text: str) -> list[tuple[str, Resource]]:
    """Each resource in a Bundle, byte for byte and parsed; of anything else, itself. Read through once.

    `text` must have been parsed before.
    """
    if _BUNDLE.match(text) is None:
        whole = trusted(text)
        if whole.get("resourceType") != "Bundle":
            return [(text, whole)]
    return [found for found in _entries(text) if found is not None]


def _entries(text: str) -> list[tuple[str, Resource] | None]:
    """The resource of each entry, as text and parsed."""
    found: list[tuple[str, Resource] | None] = []
    at = next((at for key, at in keys(text, 0) if key == "entry"), None)
    if at is None or text[at] != "[":
        return found
    at = _skip(text, at + 1)
    while text[at] == "{":
        resource = None
        closing = _skip(text, at + 1)
        for member in _members(text, at):
            if member.key == "resource":
                resource = text[member.value_start : member.value_end], member.value
            closing = _skip(text, member.value_end)
        found.append(resource)
        at = _skip(text, closing + 1)
        if text[at] != ",":
            break
        at = _skip(text, at + 1)
    return found


def items(text: str, at: int) -> Iterator[int]:
    """Where the values of the JSON array that begins at `at` start. `text` must have been parsed before."""
    at = _skip(text, at + 1)
    while text[at] != "]":
        yield at
        at = _skip(text, _scan(text, at)[1])
        if text[at] == ",":
            at = _skip(text, at + 1)


@dataclass(frozen=True, slots=True)
class _Member:
    key: str
    start: int  # of the key
    value_start: int
    value_end: int
    value: Any
    following: int | None  # where the next key starts


def keys(text: str, at: int) -> Iterator[tuple[str, int]]:
    """The keys of the JSON object that begins at `at` (or after space), and where their values start.

    What follows a value is looked for only when the next key is asked for.
    """
    at = _skip(text, _skip(text, at) + 1)
    while text[at] == '"':
        key, at = scanstring(text, at + 1, True)
        value_start = _skip(text, _skip(text, at) + 1)
        yield key, value_start
        at = _skip(text, _scan(text, value_start)[1])
        if text[at] != ",":
            return
        at = _skip(text, at + 1)


def _members(text: str, at: int) -> Iterator[_Member]:
    """The members of the JSON object that begins at `at` (or after space), and where they stand."""
    at = _skip(text, _skip(text, at) + 1)
    while text[at] == '"':
        start = at
        key, at = scanstring(text, at + 1, True)
        value_start = _skip(text, _skip(text, at) + 1)
        value, end = _scan(text, value_start)
        at = _skip(text, end)
        following = _skip(text, at + 1) if text[at] == "," else None
        yield _Member(key, start, value_start, end, value, following)
        if following is None:
            return
        at = following


def splice(body: Body, resource_id: str, meta: Resource) -> str:
    """The resource's text with this id and meta, everything else byte for byte as it was received."""
    return f'{body.text[: body.cut]},"id":{dumps(resource_id)},"meta":{dumps(meta)}{body.text[body.cut :]}'


def compose(resource: Resource) -> Body:
    """The body of a resource that we composed ourselves."""
    rest = {key: value for key, value in resource.items() if key not in ("resourceType", "id", "meta")}
    head = f'{{"resourceType":{dumps(resource["resourceType"])}'
    tail = dumps(rest)[1:]
    return Body(head + ("," if rest else "") + tail, len(head))
