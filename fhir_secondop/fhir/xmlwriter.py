"""JSON → XML.

Source: https://hl7.org/fhir/R4/xml.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any, NoReturn

from fhir_secondop.errors import Malformed
from fhir_secondop.fhir import codec, definitions
from fhir_secondop.fhir.faults import Place, child, expression, root
from fhir_secondop.fhir.walk import known_type
from fhir_secondop.fhir.xmlnarrative import Unfit, div_of
from fhir_secondop.fhir.xmlplan import BOOLEAN, FHIR, OBJECT, RESOURCE, STRING, XHTML_DIV, Field, Plan, plan
from fhir_secondop.model import Resource

_HEAD = '<?xml version="1.0" encoding="UTF-8"?>'
_SPECIAL = re.compile('[&<>"\x00-\x1f\ud800-\udfff\ufffe\uffff]').search
_IMPOSSIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]").search
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
# A line end or tab written as itself would be read as a space.
_ESCAPES = {ord(c): f"&#{ord(c)};" for c in "\t\n\r"} | {38: "&amp;", 60: "&lt;", 62: "&gt;", 34: "&quot;"}


def to_xml(resource: Resource | str | bytes) -> bytes:
    """The resource as XML in UTF-8, elements in R4's order, without indentation; `from_xml` gives the same JSON.

    From JSON text numbers are written as they stand there; a dict has them as int and Decimal, so 1e2 may become
    1E+2. Around a narrative's div, space and comments are left out; an array of nulls beside `_name` is not written.
    Whether the resource is valid is not asked.
    Raises Malformed as `codec.parse` does, and with the place where JSON says what XML can't: an element that R4 does
    not have, another JSON type, an empty array, control characters, a div that is no XML.
    Source: https://hl7.org/fhir/R4/xml.html, https://hl7.org/fhir/R4/json.html
    """
    value = resource if isinstance(resource, dict) else codec.parse_exact(resource)
    out = [_HEAD]
    place = root(known_type(value) or "Resource")
    _resource(out, value, place, f' xmlns="{FHIR}"')
    return "".join(out).encode("utf-8")


def bundle_to_xml(head: Resource, entries: Iterable[str], part_bytes: int) -> Iterator[bytes]:
    """What `to_xml` gives of a Bundle with these entries, JSON texts, in parts of that size: of them one is parsed at a
    time. `head` has the elements that stand before them. Raises Malformed as `to_xml` does, on the way.
    """
    of, place = plan("Bundle"), root("Bundle")
    field = of.members["entry"]
    out = [_HEAD, f'<Bundle xmlns="{FHIR}">']
    _members(out, of, head, place)
    size = 0
    for index, text in enumerate(entries):
        _object(out, field, codec.parse_exact(text), child(place, "entry", index))
        size += len(text)
        if size > part_bytes:
            yield "".join(out).encode("utf-8")
            out, size = [], 0
    yield "".join([*out, "</Bundle>"]).encode("utf-8")


def _refuse(place: Place, message: str) -> NoReturn:
    path = expression(place)
    raise Malformed(f"{path} {message}.", path=path)


def _refuse_unknown(of: Plan, value: dict[str, Any], place: Place) -> NoReturn:
    key = next(key for key in value if key not in of.ordinals)
    if type(key) is str and _NAME.fullmatch(key):
        _refuse(child(place, key), f"is no element that R4 (4.0.1) has in {of.name}")
    _refuse(place, f"has a member whose name can't be that of an element of {of.name}")


def _resource(out: list[str], value: Any, place: Place, namespace: str = "") -> None:
    name = value.get("resourceType") if type(value) is dict else None
    if type(name) is not str:
        _refuse(place, "must be a JSON object with a resourceType")
    if name not in definitions.resource_types():
        _refuse(place, "is of a resource type that FHIR R4 (4.0.1) does not have")
    out.append(f"<{name}{namespace}>")
    _members(out, plan(name), value, place)
    out.append(f"</{name}>")


def _members(out: list[str], of: Plan, value: dict[str, Any], place: Place) -> None:
    """The elements of an object, without its own tags and attributes."""
    if place[3] > codec.MAX_DEPTH:
        _refuse(place, f"is nested deeper than {codec.MAX_DEPTH} levels")
    try:
        keys = sorted(value, key=of.ordinals.__getitem__)
    except KeyError:
        _refuse_unknown(of, value, place)
    last = None
    for key in keys:
        if key == "resourceType" and of.is_resource:
            continue
        field = of.members[key]
        if field.is_attribute or field is last:  # `name` and `_name` are written together
            continue
        if last is not None and field.ordinal == last.ordinal:
            _refuse(child(place, field.name), "may be of one type only; there are several")
        last = field
        _write(out, field, value, place)


def _write(out: list[str], field: Field, parent: dict[str, Any], place: Place) -> None:
    if field.kind < XHTML_DIV:
        (_primitives if field.is_many else _primitive)(out, field, parent, place)
        return
    write = _COMPLEX[field.kind]
    value, name, depth = parent[field.key], field.name, place[3] + 1
    if not field.is_many:
        write(out, field, value, (place, name, None, depth))
        return
    for index, item in enumerate(_array(value, child(place, name))):
        write(out, field, item, (place, name, index, depth))


def _array(value: Any, place: Place) -> list[Any]:
    if type(value) is not list:
        _refuse(place, "must be a JSON array: the element may repeat")
    if not value:
        _refuse(place, "must not be an empty array; leave it out instead")
    return value


def _object(out: list[str], field: Field, value: Any, place: Place) -> None:
    if type(value) is not dict:
        _refuse(place, f"must be a JSON object ({field.type})")
    of = plan(field.type)
    out.append(_tag(field, of, value, place))
    _members(out, of, value, place)
    out.append(field.closing)


def _tag(field: Field, of: Plan, value: dict[str, Any], place: Place) -> str:
    """The start tag with the attributes that the value has: an id, and the url of an extension."""
    tag = field.opening
    for name in of.attributes:
        if name in value:
            text = value[name]
            if type(text) is not str:
                _refuse(child(place, name), "must be a JSON string")
            tag = f'{tag[:-1]} {name}="{_escaped(text, child(place, name)) if _SPECIAL(text) else text}">'
    return tag


def _contained(out: list[str], field: Field, value: Any, place: Place) -> None:
    out.append(field.opening)
    _resource(out, value, place)
    out.append(field.closing)


def _div(out: list[str], field: Field, value: Any, place: Place) -> None:
    if type(value) is not str:
        _refuse(place, "must be a JSON string")
    try:
        out.append(div_of(value))
    except Unfit as unfit:
        raise Malformed(f"{expression(place)} {unfit}.", path=expression(place)) from unfit


_COMPLEX = {OBJECT: _object, RESOURCE: _contained, XHTML_DIV: _div}


def _primitive(out: list[str], field: Field, parent: dict[str, Any], place: Place) -> None:
    companion = parent.get("_" + field.key)
    if companion is None and "_" + field.key not in parent:
        value = parent[field.key]
        if type(value) is str and field.kind == STRING and not _SPECIAL(value):
            out.append(f'{field.value}{value}"/>')
        else:
            out.append(f'{field.value}{_text(field.kind, value, child(place, field.name))}"/>')
        return
    here = child(place, field.name)
    if companion is None:
        _refuse(here, "must not be null; leave it out instead")
    if field.key in parent and parent[field.key] is None:
        _refuse(here, "must not be null; leave it out instead")
    _with_companion(out, field, parent.get(field.key), companion, here)


def _primitives(out: list[str], field: Field, parent: dict[str, Any], place: Place) -> None:
    here = child(place, field.name)
    given, beside = field.key in parent, "_" + field.key in parent
    values = _array(parent[field.key], here) if given else []
    companions = _array(parent["_" + field.key], here) if beside else [None] * len(values)
    if given and len(values) != len(companions):
        _refuse(here, f"{field.key} and _{field.key} must be arrays of the same length")
    for index, companion in enumerate(companions):
        value = values[index] if given else None
        where = child(place, field.name, index)
        if companion is not None:
            _with_companion(out, field, value, companion, where)
        elif value is None:
            _refuse(where, "must not be null in both arrays" if beside else "must not be null")
        else:
            out.append(f'{field.value}{_text(field.kind, value, where)}"/>')


def _with_companion(out: list[str], field: Field, value: Any, companion: Any, place: Place) -> None:
    """A primitive with an id or extensions; `value` None if it has none."""
    if type(companion) is not dict:
        _refuse(place, "must have its id and extensions in a JSON object")
    if not companion:
        _refuse(place, "must have an id or extensions in an object that stands for them")
    element = plan("Element")
    tag = _tag(field, element, companion, place)
    if value is not None:
        tag = f'{tag[:-1]} value="{_text(field.kind, value, place)}">'
    if companion.keys() == {"id"}:
        out.append(tag[:-1] + "/>")
        return
    out.append(tag)
    _members(out, element, companion, place)
    out.append(field.closing)


def _text(kind: int, value: Any, place: Place) -> str:
    """A primitive's value as it stands in an attribute."""
    if kind == STRING:
        if type(value) is str:
            return _escaped(value, place) if _SPECIAL(value) else value
        _refuse(place, "must be a JSON string")
    if kind == BOOLEAN:
        if type(value) is bool:
            return "true" if value else "false"
        _refuse(place, "must be true or false, without quotes")
    if type(value) is codec.Number:
        return value
    if (type(value) is int and value.bit_length() < 4096) or (type(value) is Decimal and value.is_finite()):
        return str(value)
    _refuse(place, "must be a JSON number")


def _escaped(text: str, place: Place) -> str:
    if _IMPOSSIBLE(text):
        _refuse(place, "has a character that XML can't hold: a control character, or half of a surrogate pair")
    return text.translate(_ESCAPES)
