"""The format: bytes, tables, references, dates and rules of FHIR R4. Pure: no network, no database.

For programs that want no more of fhir_secondop than this, four functions; docs/library.md has examples.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fhir_secondop.errors import Issue
    from fhir_secondop.model import Resource

__all__ = ["check", "parse", "serialise", "typed"]


def parse(data: bytes | str) -> Resource:
    """The resource in JSON or XML (what begins with "<"); numbers with a fraction or exponent as Decimal.

    Raises Malformed, with line and column, on what is not one resource in that form; whether it is valid is not asked.
    """
    from fhir_secondop.fhir import codec

    return codec.parse(_json_of(data))


def serialise(resource: Resource | str | bytes, *, xml: bool = False) -> bytes:
    """A resource as JSON or XML in UTF-8. From JSON text, numbers stay as they are written there (1e2, 1.10).

    Raises Malformed at what the other form can't say.
    """
    from fhir_secondop.fhir import codec
    from fhir_secondop.fhir.xml import to_xml

    if xml:
        return to_xml(resource)
    if isinstance(resource, dict):
        return codec.dumps(resource).encode()
    codec.parse(text := _json_of(resource))
    return text.encode()


def check(data: bytes | str | Resource, *, profiles: Iterable[str] = (), notes: bool = False) -> list[Issue]:
    """Every fault of a resource in JSON, XML or parsed: severity, code, FHIRPath, what to do; line and column of text.

    `profiles` are canonical URLs of ours that it must satisfy, beside those in its meta.profile. With `notes` what was
    not checked is named too, as information: code lists, profiles and extensions that are not here. What can't be
    parsed is one fault; nothing is raised for what somebody sent.
    """
    from fhir_secondop.errors import Malformed
    from fhir_secondop.fhir import codec, locations
    from fhir_secondop.fhir.validate import validate

    if isinstance(data, dict):
        return validate(data, profiles=profiles, notes=notes)
    try:
        text = _json_of(data)
        issues = validate(codec.parse(text), profiles=profiles, notes=notes)
    except Malformed as error:
        return list(error.issues)
    return locations.located_xml(_bytes(data), issues) if is_xml(data) else locations.located(text, issues)


def typed(resource: Resource | bytes | str) -> Any:
    """The resource as a model of fhir.resources (R4B), for access by attribute.

    For reading: the models round decimals, and take what R4 refuses. Raises Unsupported for the 18 types of R4 that R4B
    does not have, and Invalid, with the elements, where the model refuses the resource.
    """
    from fhir_secondop.fhir.models import typed as model

    return model(resource if isinstance(resource, dict) else parse(resource))


def _json_of(data: bytes | str) -> str:
    from fhir_secondop.fhir import codec
    from fhir_secondop.fhir.xml import from_xml

    if is_xml(data):
        return from_xml(_bytes(data))
    return codec.text_of(data) if isinstance(data, bytes) else data


def is_xml(data: bytes | str) -> bool:
    """Whether what is to be read begins as XML does; else it is taken for JSON."""
    return _bytes(data[:64]).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def _bytes(data: bytes | str) -> bytes:
    return data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
