from __future__ import annotations

from typing import Any

import pytest

from fhir_secondop.errors import Unsupported
from fhir_secondop.fhir import definitions

URGENCIES: dict[str, Any] = {
    "url": "http://example.org/ValueSet/urgency",
    "compose": {
        "include": [
            {"system": "http://example.org/urgency"},
            {"system": "http://hl7.org/fhir/request-priority", "concept": [{"code": "stat"}]},
        ]
    },
}
URGENCY: dict[str, Any] = {
    "url": "http://example.org/urgency",
    "concept": [{"code": "soon", "concept": [{"code": "this-week"}]}, {"code": "whenever"}],
}


def test_r4_has_146_resource_types_and_none_of_r4b() -> None:
    types = definitions.resource_types()
    assert len(types) == 146
    assert {"Patient", "Bundle", "MedicinalProduct"} <= types
    assert not types & {"Citation", "Ingredient", "SubscriptionTopic", "DomainResource", "Resource"}


def test_type_has_inherited_elements_first_and_in_order() -> None:
    assert list(definitions.structure("Period").elements) == ["id", "extension", "start", "end"]
    assert list(definitions.structure("Patient").elements)[:9] == [
        "id",
        "meta",
        "implicitRules",
        "language",
        "text",
        "contained",
        "extension",
        "modifierExtension",
        "identifier",
    ]


def test_backbone_is_a_type_named_by_its_path() -> None:
    contact = definitions.structure("Patient.contact")
    assert contact.kind == "backbone"
    assert contact.elements["name"].types == ("HumanName",)
    assert definitions.structure("Patient").elements["contact"].types == ("Patient.contact",)


def test_element_that_repeats_another_names_that_ones_type() -> None:
    link = definitions.structure("Observation.component").elements["referenceRange"]
    assert link.types == ("Observation.referenceRange",)


def test_choice_has_a_json_key_for_each_type() -> None:
    structure = definitions.structure("Patient")
    element, of_type = structure.fields["deceasedDateTime"]
    assert (element.name, of_type, element.is_choice) == ("deceased", "dateTime", True)
    assert "deceased" not in structure.fields


def test_element_knows_its_count_binding_and_targets() -> None:
    structure = definitions.structure("Observation")
    assert structure.elements["code"].min == 1
    assert structure.elements["performer"].max is None
    assert structure.elements["status"].binding == "http://hl7.org/fhir/ValueSet/observation-status"
    assert structure.elements["status"].is_modifier
    assert structure.elements["status"].is_summary
    assert structure.elements["specimen"].targets == {"Reference": {"Specimen"}}


def test_type_that_r4_does_not_have_is_unsupported() -> None:
    for name in ("Citation", "Patient.nickname", ""):
        with pytest.raises(Unsupported):
            definitions.structure(name)


def test_age_is_a_quantity() -> None:
    assert definitions.ancestors("Age") == ("Age", "Quantity", "Element")


def test_required_value_set_lists_codes_by_system() -> None:
    codes = definitions.value_set("http://hl7.org/fhir/ValueSet/administrative-gender|4.0.1")
    genders = frozenset({"male", "female", "other", "unknown"})
    assert codes == {"http://hl7.org/fhir/administrative-gender": genders}


def test_value_set_that_is_a_grammar_is_not_checkable() -> None:
    for name in ("mimetypes", "ucum-units", "no-such-set"):
        assert definitions.value_set(f"http://hl7.org/fhir/ValueSet/{name}") is None


def test_search_parameters_of_a_type_include_those_of_every_resource() -> None:
    found = definitions.search_parameters("Patient")
    assert {"_id", "_lastUpdated", "_tag", "_profile", "_security", "_source", "birthdate"} <= set(found)
    assert "_content" not in found  # no expression: nothing to index
    assert found["general-practitioner"].targets == ("Practitioner", "Organization", "PractitionerRole")


def test_components_of_composites_exist() -> None:
    for resource_type in definitions.resource_types():
        for parameter in definitions.search_parameters(resource_type).values():
            for url, _ in parameter.components:
                assert definitions.search_parameter_by_url(url) is not None


def test_compartment_names_the_parameters_that_lead_into_it() -> None:
    patient = definitions.compartment("Patient")
    assert patient["Observation"] == ("performer", "subject")
    assert patient["Patient"] == ("link",)
    assert definitions.compartment("Practitioner")["Practitioner"] == ("{def}",)
    with pytest.raises(Unsupported):
        definitions.compartment("Group")


def test_own_value_set_takes_codes_from_own_systems_and_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    own: dict[str, Any] = {"valuesets": {URGENCIES["url"]: URGENCIES}, "codesystems": {URGENCY["url"]: URGENCY}}
    monkeypatch.setattr(definitions, "_own", lambda folder: own.get(folder, {}))
    definitions.value_set.cache_clear()
    codes = definitions.value_set("http://example.org/ValueSet/urgency")
    definitions.value_set.cache_clear()
    assert codes == {
        "http://example.org/urgency": frozenset({"soon", "this-week", "whenever"}),
        "http://hl7.org/fhir/request-priority": frozenset({"stat"}),
    }
