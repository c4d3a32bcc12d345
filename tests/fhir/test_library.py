"""The four functions for other programs."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal

import pytest

from fhir_secondop import fhir
from fhir_secondop.errors import Invalid, Malformed, Unsupported

JSON = b"""{
  "resourceType": "Observation",
  "status": "final",
  "code": {"text": "x"},
  "valueQuantity": {"value": 1.10}
}"""
XML = b"""<?xml version="1.0" encoding="UTF-8"?>
<Observation xmlns="http://hl7.org/fhir">
  <status value="final"/>
  <code><text value="x"/></code>
  <valueQuantity>
    <value value="1.10"/>
    <code value="mg"/>
  </valueQuantity>
</Observation>"""


def test_either_form_is_parsed_and_serialised() -> None:
    resource = fhir.parse(JSON)
    assert resource["valueQuantity"]["value"] == Decimal("1.10")
    assert fhir.parse(fhir.serialise(resource, xml=True)) == resource
    assert fhir.parse(fhir.serialise(resource)) == resource
    assert b"1e2" in fhir.serialise(b'{"resourceType":"Basic","extension":[{"url":"x:y","valueDecimal":1e2}]}')
    assert b'value="1e2"' in fhir.serialise(
        b'{"resourceType":"Basic","extension":[{"url":"x:y","valueDecimal":1e2}]}', xml=True
    )
    assert json.loads(fhir.serialise(XML))["valueQuantity"]["code"] == "mg"


def test_a_fault_is_named_with_its_line_in_either_form() -> None:
    (in_json,) = fhir.check(JSON.replace(b'"final"', b'"over"'))
    assert (in_json.expression, in_json.line, in_json.column) == ("Observation.status", 3, 13)
    (in_xml,) = fhir.check(XML)
    assert (in_xml.diagnostics[:5], in_xml.expression, in_xml.line) == ("qty-3", "Observation.value", 5)
    (lacking,) = fhir.check(XML.replace(b'    <code value="mg"/>\n', b"").replace(b'<status value="final"/>', b""))
    assert (lacking.expression, lacking.line) == ("Observation.status", 2)
    assert fhir.check(fhir.parse(JSON)) == []


@pytest.mark.parametrize("data", [b"", b"x", b"<", b"<x/>", b'{"a":1,"a":2}', "\ud800", b"\xff", b"[]", b"{}"])
def test_what_can_not_be_parsed_is_a_fault_and_no_exception(data: bytes | str) -> None:
    assert [issue.severity for issue in fhir.check(data)] == ["error"]


def test_a_profile_can_be_demanded() -> None:
    profile = "https://secondop.example/fhir/StructureDefinition/concordance-observation"
    assert fhir.check(JSON) == []
    assert "Observation.basedOn" in {issue.expression for issue in fhir.check(JSON, profiles=[profile])}


def test_a_resource_is_read_by_attribute() -> None:
    assert fhir.typed(JSON).valueQuantity.value == Decimal("1.1")
    assert fhir.typed(XML).code.text == "x"
    with pytest.raises(Unsupported):
        fhir.typed(b'{"resourceType": "Citation"}')
    with pytest.raises(Unsupported):
        fhir.typed(b'{"resourceType": "EffectEvidenceSynthesis"}')
    with pytest.raises(Invalid, match="status"):
        fhir.typed(b'{"resourceType": "Observation", "code": {"text": "x"}}')
    with pytest.raises(Malformed):
        fhir.typed(b"{")


def test_it_needs_neither_database_nor_network() -> None:
    """Whoever wants the format alone loads no more."""
    program = (
        'import sys; from fhir_secondop import fhir; fhir.check(b\'{"resourceType":"Patient"}\');'
        "print([m for m in ('sqlalchemy', 'flask', 'dbos', 'requests', 'fhir.resources', 'fhirpathpy') "
        "if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"
