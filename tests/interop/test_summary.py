"""$summary, examined by HL7's own validator with the guide itself, IPS 1.1.0. It has no terminology server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from fhir_secondop import fhir
from fhir_secondop.ehr.second_stage import SecondStage
from fhir_secondop.errors import Issue
from fhir_secondop.fhir import codec
from fhir_secondop.model import Resource
from fhir_secondop.opinion import ips
from fhir_secondop.store.database import now_ms
from tests.ehr.test_second_stage import validator
from tests.interop.hl7_server import guide, hl7_server, vital_signs
from tests.interop.our_service import serving

pytestmark = pytest.mark.shared

FHIR = {"Content-Type": "application/fhir+json"}
TERMS = "http://terminology.hl7.org/CodeSystem"
SNOMED = "http://snomed.info/sct"


@pytest.fixture(scope="module")
def hl7(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecondStage]:
    """HL7's program, with IPS."""
    folder = tmp_path_factory.mktemp("hl7")
    with hl7_server(shared_data, folder, [guide(shared_data, "ips-1.1.0", folder), vital_signs(folder)]) as running:
        asked = validator(running.base, "http://hl7.org/fhir/uv/ips/", name="hl7", protocol="hl7", timeout_s=60.0)
        yield SecondStage([asked], now=now_ms)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("service")) as base:
        yield base


def create(base: str, kind: str, **elements: Any) -> str:
    answer = requests.post(f"{base}/{kind}", json={"resourceType": kind, **elements}, headers=FHIR, timeout=60)
    assert answer.status_code == 201, answer.text
    return f"{kind}/{answer.json()['id']}"


def concept(code: str, display: str, system: str = SNOMED) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code, "display": display}]}


def summary(base: str, patient: str) -> Resource:
    answer = requests.get(f"{base}/{patient}/$summary", timeout=60)
    assert answer.status_code == 200, answer.text
    found = codec.parse(answer.text)
    assert errors(fhir.check(found)) == []
    return found


def errors(issues: list[Issue]) -> list[Issue]:
    return [issue for issue in issues if issue.severity in ("error", "fatal")]


def examined(hl7: SecondStage, document: Resource) -> list[Issue]:
    issues = hl7.examine(document, codec.dumps(document), [ips.PROFILE])
    assert [issue for issue in issues if issue.code == "transient" or "was not checked" in issue.diagnostics] == []
    return errors(issues)


def test_of_a_patient_of_whom_nothing_is_stored(hl7: SecondStage, base: str) -> None:
    document = summary(base, create(base, "Patient"))
    assert examined(hl7, document) == []
    # And they would have said so, had a section or what it holds been left out.
    sections = document["entry"][0]["resource"]["section"]
    document["entry"][0]["resource"]["section"] = [s for s in sections if s["title"] != "Problems"]
    document["entry"] = [e for e in document["entry"] if e["resource"]["resourceType"] != "Condition"]
    assert examined(hl7, document) != []


def test_of_a_patient_with_a_record(hl7: SecondStage, base: str) -> None:
    patient = create(base, "Patient", name=[{"family": "Sampleton", "given": ["Ada"]}], gender="female")
    about = {"reference": patient}
    active = concept("active", "Active", f"{TERMS}/condition-clinical")
    tumour = concept("254837009", "Malignant neoplasm of breast")
    create(base, "Condition", subject=about, code=tumour, clinicalStatus=active, onsetDateTime="2025-11")
    create(base, "Condition", subject=about, code={"text": "Pneumonia"},
           clinicalStatus=concept("resolved", "Resolved", f"{TERMS}/condition-clinical"))  # fmt: skip
    create(base, "AllergyIntolerance", patient=about, code={"text": "Latex"},
           clinicalStatus=concept("active", "Active", f"{TERMS}/allergyintolerance-clinical"))  # fmt: skip
    medication = create(base, "Medication", code={"text": "Letrozole 2.5 mg tablet"})
    create(base, "MedicationStatement", subject=about, status="active", medicationReference={"reference": medication})
    create(base, "MedicationRequest", subject=about, status="active", intent="order",
           medicationCodeableConcept={"text": "Calcium"})  # fmt: skip
    create(base, "Immunization", patient=about, status="completed", vaccineCode={"text": "Influenza"},
           occurrenceDateTime="2025-10-01")  # fmt: skip
    create(
        base, "Procedure", subject=about, status="completed", code={"text": "Lumpectomy"}, performedDateTime="2025-12"
    )
    create(base, "Procedure", subject=about, status="stopped", code={"text": "Biopsy"})
    ucum = {"system": "http://unitsofmeasure.org", "unit": "kg", "code": "kg"}
    create(base, "Observation", subject=about, status="final", code={"text": "Weight"}, effectiveDateTime="2026-01-02",
           category=[concept("vital-signs", "Vital Signs", f"{TERMS}/observation-category")],
           valueQuantity={"value": 64, **ucum})  # fmt: skip
    for category, status, when in (("laboratory", "final", {"effectiveDateTime": "2026-01-02"}),
                                   ("laboratory", "amended", {}), ("imaging", "final", {})):  # fmt: skip
        create(base, "Observation", subject=about, status=status, code={"text": f"{category} {status}"}, **when,
               category=[concept(category, category.title(), f"{TERMS}/observation-category")],
               valueString="x")  # fmt: skip
    create(base, "DiagnosticReport", subject=about, status="final", code={"text": "Pathology"}, conclusion="Grade 2",
           category=[concept("PAT", "Pathology (gross & histopath, not surgical)", f"{TERMS}/v2-0074")],
           effectiveDateTime="2025-12")  # fmt: skip
    create(base, "DiagnosticReport", subject=about, status="corrected", code={"text": "Imaging"})
    document = summary(base, patient)
    assert len(document["entry"][0]["resource"]["section"]) == 8
    assert examined(hl7, document) == []


# Of LOINC and UCUM they have no codes here: a binding to them is not found, and by it slices are told apart.
_WITHOUT_CODES = ("could not be found, so the code cannot be validated", "matches more than one slice")


def test_of_results_with_codes_all_is_kept_but_what_takes_the_codes_to_tell(hl7: SecondStage, base: str) -> None:
    patient = create(base, "Patient", name=[{"family": "Sampleton"}], birthDate="1970-01-01")
    loinc, ucum = "http://loinc.org", {"system": "http://unitsofmeasure.org", "unit": "mmHg", "code": "mm[Hg]"}
    for category, code, more in (
        ("vital-signs", "85354-9", {"component": [
            {"code": concept(code, "x", loinc), "valueQuantity": {"value": value, **ucum}}
            for code, value in (("8480-6", 140), ("8462-4", 90))]}),
        ("laboratory", "718-7", {"valueQuantity": {"value": 12, "unit": "g/dL"}}),
    ):  # fmt: skip
        kind = {"coding": [{"system": f"{TERMS}/observation-category", "code": category}]}
        create(base, "Observation", subject={"reference": patient}, status="final", code=concept(code, "x", loinc),
               effectiveDateTime="2026-01-02", category=[kind], **more)  # fmt: skip
    found = examined(hl7, summary(base, patient))
    assert [issue for issue in found if not any(part in issue.diagnostics for part in _WITHOUT_CODES)] == []
