"""Messages that others write: read by position, as tolerant as one may be and as strict as one must.

Segments that we don't know, and fields beyond those that we know, are others' business. A place is written
"PID[1]-3[2].4": the first PID, field 3, its second repetition, component 4.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import hl7

from fhir_secondop.errors import Invalid, Malformed
from fhir_secondop.hl7v2.er7 import Delimiters, unescape

_CHARSETS = {
    "": "utf-8",  # ASCII by the standard, and UTF-8 where somebody forgot to say so: what is neither is refused
    "ASCII": "ascii", "UNICODE UTF-8": "utf-8", "UTF-8": "utf-8", "8859/1": "iso8859-1", "8859/2": "iso8859-2",
    "8859/5": "iso8859-5", "8859/7": "iso8859-7", "8859/9": "iso8859-9", "8859/15": "iso8859-15",
}  # fmt: skip
_NAME = re.compile(r"[A-Z][A-Z0-9]{2}")
_ENDS = re.compile(rb"\r\n?|\n")
_AROUND = b"\r\n \t"
MAX_SEGMENTS = 5_000
MAX_PARTS = 50_000  # fields, repetitions, components and subcomponents: each takes some 700 bytes while it is parsed
MOST_OF_HEAD = 4_000  # bytes: a first segment that nobody ended is looked at no further
NULL = '""'  # "delete it", in HL7


@dataclass(frozen=True, slots=True)
class Value:
    """One repetition of a field: its components, each a list of subcomponents, unescaped. Asked beyond its end: "", and
    the same where it is NULL.
    """

    components: tuple[tuple[str, ...], ...]
    place: str

    def text(self, component: int = 1, subcomponent: int = 1) -> str:
        """A component, counted from 1."""
        parts = self.components[component - 1] if component <= len(self.components) else ()
        said = parts[subcomponent - 1].strip() if subcomponent <= len(parts) else ""
        return "" if said == NULL else said

    @property
    def parts(self) -> tuple[str, ...]:
        """The subcomponents of the first component."""
        return self.components[0] if self.components else ()

    def authority(self, component: int) -> tuple[str, str, str]:
        """A component as the HD that it is: namespace, universal id and its type. What follows is nothing to us."""
        return self.text(component, 1), self.text(component, 2), self.text(component, 3)

    def at(self, component: int) -> str:
        """The place of a component."""
        return f"{self.place}.{component}"


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment; `number` counts those of its name from 1."""

    name: str
    number: int
    fields: tuple[tuple[Value, ...], ...]  # from field 1

    def place(self, field: int, repetition: int = 1) -> str:
        """Where a field stands."""
        again = f"[{repetition}]" if repetition > 1 else ""
        return f"{self.name}[{self.number}]-{field}{again}"

    def all(self, field: int) -> tuple[Value, ...]:
        """The repetitions of a field that say anything: NULL says nothing to us."""
        found = self.fields[field - 1] if field <= len(self.fields) else ()
        return tuple(v for v in found if any(p not in ("", NULL) for c in v.components for p in c))

    def value(self, field: int) -> Value:
        """The first repetition of a field, empty where there is none."""
        return next(iter(self.all(field)), Value((), self.place(field)))

    def text(self, field: int, component: int = 1, subcomponent: int = 1) -> str:
        """A component of the first repetition of a field."""
        return self.value(field).text(component, subcomponent)


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it was sent."""

    segments: tuple[Segment, ...]
    delimiters: Delimiters

    def named(self, name: str) -> tuple[Segment, ...]:
        """The segments of that name, in their order."""
        return tuple(s for s in self.segments if s.name == name)

    def first(self, name: str) -> Segment:
        """The first segment of that name. Raises Invalid."""
        for segment in self.segments:
            if segment.name == name:
                return segment
        raise Invalid(f"The segment {name} is missing.", path=f"{name}[1]")

    @property
    def head(self) -> Segment:
        """MSH."""
        return self.segments[0]

    @property
    def control_id(self) -> str:
        """MSH-10."""
        return self.head.text(10)

    @property
    def kind(self) -> tuple[str, str]:
        """Message code and event: ("REF", "I12")."""
        return self.head.text(9, 1), self.head.text(9, 2)


def head(data: bytes) -> Message:
    """Its first segment alone, so far as one can tell: who sends it, and what an answer needs.

    Where its delimiters or its character set are at fault (which `read` says) what is usual is taken for them. Raises
    Malformed where there is none.
    """
    line = _ENDS.split(data.strip(_AROUND), 1)[0][:MOST_OF_HEAD]
    _require_head(line)
    text = line.decode(_CHARSETS.get(_said_charset(line), "latin-1"), errors="replace")
    try:
        delimiters = _delimiters(text)
    except Invalid:
        delimiters = Delimiters(text[3])
        text = delimiters.field.join(["MSH", "^~\\&", *text.split(delimiters.field)[2:]])
    return _message(text, delimiters)


def read(data: bytes) -> Message:
    """The message in these bytes. Raises Malformed of what is none, and Invalid, with the place, of what can't be read.

    Source: HL7 v2.5.1, chapter 2.6, and table 0211 for MSH-18
    """
    # Some end segments as text files end lines.
    data = _ENDS.sub(b"\r", data.strip(_AROUND))
    _require_head(data)
    if data.count(b"\r") >= MAX_SEGMENTS:
        raise Malformed(f"It has more than {MAX_SEGMENTS} segments.")
    text = _decoded(data)
    delimiters = _delimiters(text)
    if sum(map(text.count, delimiters.parting)) > MAX_PARTS:
        raise Malformed(f"It has more than {MAX_PARTS} fields and parts of fields.")
    return _message(text, delimiters)


def _require_head(data: bytes) -> None:
    if not data.startswith(b"MSH") or len(data) < 9:
        raise Malformed("It is no HL7 v2 message: it does not begin with MSH.", path="MSH[1]")
    field = data[3:4].decode("latin-1")
    if field.isalnum() or field.isspace() or not field.isprintable():
        raise Malformed("It is no HL7 v2 message: MSH is followed by what parts no fields.", path="MSH[1]-1")


def _message(text: str, delimiters: Delimiters) -> Message:
    try:
        parsed = hl7.parse(text)
    except (hl7.HL7Exception, ValueError, IndexError) as error:
        raise Malformed(f"It is no HL7 v2 message ({type(error).__name__}).", path="MSH[1]") from None
    return Message(tuple(_segments(parsed, delimiters)), delimiters)


def _said_charset(data: bytes) -> str:
    head = data.partition(b"\r")[0].decode("latin-1")
    fields = head.split(head[3])
    return fields[17].partition(fields[1][1:2] or "~")[0].strip().upper() if len(fields) > 17 else ""


def _decoded(data: bytes) -> str:
    said = _said_charset(data)
    codec = _CHARSETS.get(said)
    if codec is None:
        raise Invalid("This character set is not read; send UNICODE UTF-8.", path="MSH[1]-18")
    try:
        return data.decode(codec)
    except UnicodeDecodeError:
        named = said or "nothing, so UTF-8"
        raise Invalid(f"The bytes are not in the character set that it names ({named}).", path="MSH[1]-18") from None


def _delimiters(text: str) -> Delimiters:
    field = text[3]
    others = text[4:].partition(field)[0]
    chosen = (field, *others[:4])
    if not 4 <= len(others) <= 5 or len(set(chosen)) < 5 or any(c.isalnum() or c.isspace() for c in chosen):
        raise Invalid("Name four delimiters that differ: ^~\\& is usual.", path="MSH[1]-2")
    component, repetition, escape, subcomponent = chosen[1:]
    return Delimiters(field, component, repetition, escape, subcomponent)


def _segments(parsed: hl7.Message, delimiters: Delimiters) -> Iterator[Segment]:
    counts: dict[str, int] = {}
    for number, segment in enumerate(parsed, 1):
        name = str(segment[0])
        if not name and len(segment) == 1:
            continue  # an empty line
        if not _NAME.fullmatch(name):
            # What stands there may be anything: it is not repeated.
            raise Invalid(f"Line {number} does not begin with the name of a segment.", path="MSH[1]")
        counts[name] = counts.get(name, 0) + 1
        start = f"{name}[{counts[name]}]"
        fields = tuple(
            tuple(_values(field, f"{start}-{place}", delimiters)) for place, field in enumerate(segment[1:], 1)
        )
        if name == "MSH":  # MSH-1 and MSH-2 are the delimiters themselves: no text
            fields = ((), (), *fields[2:])
        yield Segment(name, counts[name], fields)


def _values(field: hl7.Field, place: str, delimiters: Delimiters) -> Iterator[Value]:
    for number, repetition in enumerate(_parts(field), 1):
        components = tuple(
            tuple(unescape(str(part), delimiters) for part in _parts(component)) for component in _parts(repetition)
        )
        yield Value(components, f"{place}[{number}]" if number > 1 else place)


def _parts(node: object) -> list[object]:
    """What a field, a repetition or a component is made of; python-hl7 leaves a lone part as text."""
    return list(node) if isinstance(node, hl7.Container) else [node]
