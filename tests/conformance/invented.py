"""Resources of types whose official examples HL7's validator finds unsound: their invariants are broken in these."""

from __future__ import annotations

from tests.conformance.nodes import Example
from tests.conformance.notation import dump, parse

TEXTS = {
    "StructureDefinition": """{"resourceType":"StructureDefinition","id":"x","url":"http://x.example/sd","name":"Named",
      "status":"draft","fhirVersion":"4.0.1","kind":"resource","abstract":false,"type":"Patient",
      "baseDefinition":"http://hl7.org/fhir/StructureDefinition/Patient","derivation":"constraint",
      "differential":{"element":[{"id":"Patient","path":"Patient"},
        {"id":"Patient.birthDate","path":"Patient.birthDate","min":1}]}}""",
    "TestScript": """{"resourceType":"TestScript","id":"x","url":"http://x.example/ts","name":"Named","status":"draft",
      "variable":[{"name":"a","expression":"Patient.id","sourceId":"f"}],
      "fixture":[{"id":"f","autocreate":false,"autodelete":false}],
      "setup":{"action":[{"operation":{"encodeRequestUrl":true,"url":"Patient/1"}},
        {"assert":{"warningOnly":false,"response":"okay"}}]},
      "test":[{"action":[{"operation":{"encodeRequestUrl":true,"url":"Patient/1"}},
        {"assert":{"warningOnly":false,"response":"okay"}}]}],
      "teardown":{"action":[{"operation":{"encodeRequestUrl":true,"url":"Patient/1"}}]}}""",
    "TerminologyCapabilities": """{"resourceType":"TerminologyCapabilities","id":"x","url":"http://x.example/tc",
      "name":"Named","status":"draft","date":"2024","kind":"instance","description":"x","software":{"name":"x"},
      "implementation":{"description":"x"}}""",
    "Library": """{"resourceType":"Library","id":"x","url":"http://x.example/library","name":"Named","status":"draft",
      "type":{"text":"x"},"dataRequirement":[{"type":"Observation","dateFilter":[{"path":"effective"}]}]}""",
    "MeasureReport": """{"resourceType":"MeasureReport","id":"x","status":"complete","type":"summary",
      "measure":"http://x.example/measure","period":{"start":"2024","end":"2025"},"group":[{"code":{"text":"x"}}]}""",
    "ImplementationGuide": """{"resourceType":"ImplementationGuide","id":"x","url":"http://x.example/ig","name":"Named",
      "status":"draft","packageId":"example.ig","fhirVersion":["4.0.1"],"definition":{"grouping":[{"id":"g","name":"x"}],
      "resource":[{"reference":{"reference":"Patient/1"},"groupingId":"g"}]}}""",
}  # fmt: skip


def examples() -> list[Example]:
    return [Example(f"invented {name}", dump(parse(text))) for name, text in sorted(TEXTS.items())]
