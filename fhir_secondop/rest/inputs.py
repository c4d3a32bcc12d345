"""What an operation of R4 or of a guide is called with: a query, or the same in Parameters.

Source: https://hl7.org/fhir/R4/operations.html#request
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flask import request

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import codec, query, times
from fhir_secondop.fhir.times import Interval
from fhir_secondop.model import Resource
from fhir_secondop.rest import answers, formats
from fhir_secondop.rest.endpoint import Endpoint

MAX_VALUES = 200


@dataclass(frozen=True, slots=True)
class Input:
    """The values by name, as a query would hold them."""

    values: Mapping[str, tuple[str, ...]]

    def one(self, name: str) -> str:
        """The value of a parameter that may stand once; "" where it was not sent. Raises Invalid."""
        found = self.values.get(name, ())
        if len(found) > 1:
            raise Invalid(f"The parameter {name!r} may stand only once.", path=name)
        return found[0] if found else ""

    def each(self, name: str) -> list[str]:
        """All values of a parameter, commas parting them."""
        return [part for value in self.values.get(name, ()) for part in value.split(",") if part]

    def flag(self, name: str) -> bool | None:
        """A boolean; None where it was not sent. Raises Invalid."""
        text = self.one(name)
        if text not in ("", "true", "false"):
            raise Invalid(f"{name} is true or false.", path=name)
        return None if not text else text == "true"

    def time(self, name: str) -> Interval | None:
        """The time that a date or an instant covers; None where it was not sent. Raises Invalid."""
        text = self.one(name)
        try:
            return times.interval(text) if text else None
        except Invalid as error:
            raise Invalid(f"{name} is no date of FHIR: {error.message}", path=name) from error

    def period(self) -> Interval | None:
        """From the beginning of `start` to the end of `end`; None where neither was sent. Raises Invalid."""
        start, end = self.time("start"), self.time("end")
        if start is None and end is None:
            return None
        found = Interval(start.low if start else times.MIN_MS, end.high if end else times.MAX_MS)
        if found.low >= found.high:
            raise Invalid("start is after end.", path="start")
        return found

    def pairs(self) -> list[tuple[str, str]]:
        """Name and value of all that was sent, but for the place of a page."""
        return [(name, value) for name, found in self.values.items() if name != "_page" for value in found]


def read(endpoint: Endpoint, names: Iterable[str]) -> Input:
    """What was sent, of these names. Raises Invalid, which names every other one."""
    known = frozenset(names)
    found: dict[str, tuple[str, ...]] = {}
    sent = [pair for pair in request.args.items(multi=True) if pair[0] not in query.FORMAT_ONLY]
    if request.method == "POST" and request.get_data():
        sent += _of_parameters(endpoint)
    unknown = sorted({name for name, _ in sent} - known)
    if unknown:
        said = f"It takes {', '.join(sorted(known - {'_page'})) or 'no parameters'}; not {', '.join(unknown)}."
        raise Invalid(said, path=unknown[0])
    if len(sent) > MAX_VALUES:
        raise Invalid(f"More than {MAX_VALUES} values; send fewer.")
    for name, value in sent:
        found[name] = (*found.get(name, ()), value)
    return Input(found)


def _of_parameters(endpoint: Endpoint) -> Iterator[tuple[str, str]]:
    text = formats.body(endpoint.limits, xml=endpoint.xml)
    resource = codec.parse(text)
    answers.valid(resource, text)
    if resource["resourceType"] != "Parameters":
        raise Invalid("Send a Parameters resource.", path="resourceType")
    for place, parameter in enumerate(resource.get("parameter", ())):
        yield parameter["name"], _value(parameter, f"Parameters.parameter[{place}]")


def _value(parameter: Resource, path: str) -> str:
    value: Any = next((value for key, value in parameter.items() if key.startswith("value")), None)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, dict) and ("coding" in value or "code" in value):
        codings = value.get("coding", [value])
        tokens = [f"{c.get('system', '')}|{c['code']}" for c in codings if "code" in c]
        if tokens:
            return ",".join(tokens)
    if isinstance(value, dict) and "value" in value:  # an Identifier
        return f"{value.get('system', '')}|{value['value']}"
    raise Invalid(f"The parameter {parameter['name']!r} has no value that can be used.", path=path)
