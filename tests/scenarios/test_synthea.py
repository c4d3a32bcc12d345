"""Cancer patients of Synthea from request to aligned, with the whole of their records gathered over paging."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import requests

from fhir_secondop.ehr import plan
from fhir_secondop.sandbox import demo
from fhir_secondop.sandbox.story import Story

pytestmark = pytest.mark.shared

Plain = dict[str, Any]
PATIENTS = ("Chiquita_Little", "Evan_Hagenes", "Nina_Legros", "Seth_Lakin")
CANCER = re.compile("malignant|carcinoma|cancer|neoplasm", re.IGNORECASE)
NPI = "http://hl7.org/fhir/sid/us-npi"
HOSPITAL_SYSTEM, PRACTICE_SYSTEM = "http://hospital.smarthealthit.org", "https://practice.example/mrn"


def bundle_of(path: Path) -> list[Plain]:
    """The resources of a bundle; numbers with a fraction as their text."""
    bundle = json.loads(gzip.decompress(path.read_bytes()), parse_float=str)
    return [entry["resource"] for entry in bundle["entry"]]


def cancers(record: list[Plain]) -> list[Plain]:
    """Its Conditions that name a cancer."""
    return [
        r
        for r in record
        if r["resourceType"] == "Condition"
        and CANCER.search(" ".join(c.get("display", "") for c in r["code"].get("coding", [])))
    ]


def path_of(shared_data: Path, name: str) -> Path:
    (path,) = (shared_data / "synthea-r4-bundles").glob(f"{name}_*.json.gz")
    return path


def test_these_are_the_patients_with_cancer(shared_data: Path) -> None:
    folder = shared_data / "synthea-r4-bundles"
    found = {path.name for path in folder.glob("*.json.gz") if cancers(bundle_of(path))}
    assert found == {path_of(shared_data, name).name for name in PATIENTS}


def practice_record(patient: Plain) -> Plain:
    """The practice's small record of the same patient: one ambulatory visit to the primary care physician."""
    resources: list[Plain] = [
        {"resourceType": "Practitioner", "id": "1", "identifier": [{"system": NPI, "value": "9000000211"}],
         "name": [{"family": "Placeholder"}]},
        {"resourceType": "Patient", "id": "1", "birthDate": patient["birthDate"], "gender": patient["gender"],
         "identifier": [{"system": PRACTICE_SYSTEM, "value": "P-1"}], "name": patient["name"]},
        {"resourceType": "Encounter", "id": "1", "status": "finished",
         "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
         "subject": {"reference": "Patient/1"}, "period": {"start": "2026-10-01", "end": "2026-10-01"},
         "participant": [{"individual": {"reference": "Practitioner/1"}}]},
    ]  # fmt: skip
    entries = [
        {"resource": r, "request": {"method": "PUT", "url": f"{r['resourceType']}/{r['id']}"}} for r in resources
    ]
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


def case_of(folder: Path, bundle: Path, record: list[Plain]) -> Path:
    """A case folder about the patient's newest cancer."""
    (patient,) = [r for r in record if r["resourceType"] == "Patient"]
    condition = max(cancers(record), key=lambda r: str(r.get("onsetDateTime", "")))
    coding = condition["code"]["coding"][0]
    value = next(i["value"] for i in patient["identifier"] if i["system"] == HOSPITAL_SYSTEM)
    name = next(n for n in patient["name"] if n["use"] == "official")
    nucc = "http://nucc.org/provider-taxonomy"
    oncology = {"system": nucc, "code": "207RX0202X", "display": "Medical Oncology Physician"}
    files: dict[str, Plain] = {
        "request.json": {
            "placer": {"system": "https://practice.example/orders", "value": f"SYN-{value}"},
            "patient": {
                "identifier": [{"system": HOSPITAL_SYSTEM, "value": value},
                               {"system": PRACTICE_SYSTEM, "value": "P-1"}],
                "family": name["family"], "given": name["given"],
                "birthDate": patient["birthDate"], "gender": patient["gender"],
            },
            "reasons": [{"code": "doubt-treatment-plan"}],
            "pathway": "pcp-referral",
            "underReview": [
                {"kind": "diagnosis", "code": coding, "text": coding["display"], "author": "specialist"},
                {"kind": "plan", "text": "Treatment as planned by the hospital", "author": "specialist"},
            ],
            "decision": {"text": "Go ahead as planned, or not", "owner": "specialist"},
            "questions": ["Is the plan right?"],
            "organizations": {
                "hospital": {"name": "Synthetic Hospital", "identifier": {"system": NPI, "value": "9000000201"}},
                "practice": {"name": "Synthetic Practice", "identifier": {"system": NPI, "value": "9000000202"}},
            },
            "providers": {
                "pcp": {"family": "Placeholder", "npi": "9000000211", "organization": "practice",
                        "specialty": {"system": nucc, "code": "207Q00000X", "display": "Family Medicine Physician"}},
                "specialist": {"family": "Mockridge", "npi": "9000000212", "organization": "hospital",
                               "specialty": oncology},
            },
            "pcp": "pcp", "requester": "pcp", "sources": ["hospital", "practice"],
        },
        "ehrs.json": {
            "hospital": {"shape": "full", "patientSystem": HOSPITAL_SYSTEM, "records": "hospital.json.gz"},
            "practice": {"shape": "epic", "patientSystem": PRACTICE_SYSTEM, "records": "practice.json"},
        },
        "review.json": {
            "reviewer": {"family": "Standin", "npi": "9000000290", "specialty": oncology,
                         "organization": {"name": "Elsewhere", "identifier": {"system": NPI, "value": "9000000209"}}},
            "declaration": {"interests": "none", "participated": []},
            "attestation": "Asked: no common parent organization, suite or earlier treatment.",
            "draft": {
                "conclusion": "Diagnosis and plan are agreed with.",
                "items": [
                    {"item": 0, "axis": "diagnosis", "concordance": "confirmed", "significance": "none",
                     "basis": "The record.", "confidence": "moderate", "wouldChange": "Other histology."},
                    {"item": 1, "axis": "treatment", "concordance": "agreed", "significance": "none",
                     "basis": "The record.", "confidence": "moderate", "wouldChange": "Other stage."},
                ],
                "history": "As in the record.", "findings": "As in the record.", "assessment": "As in the record.",
                "answers": [{"question": 0, "text": "Yes."}],
                "recommendations": [{"text": "Go ahead.", "strength": "strong", "kind": "plan"}],
            },
        },
        "responses.json": {
            "acknowledgements": [{"provider": "pcp", "by": "signed-in"}, {"provider": "specialist", "by": "signed-in"}],
            "decisions": [{"provider": "specialist", "decision": "keep-current"}],
            "planOfRecord": {"by": "specialist", "decision": "keep-current", "text": "As planned."},
        },
        "practice.json": practice_record(patient),
    }  # fmt: skip
    folder.mkdir()
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content), "utf-8")
    shutil.copy(bundle, folder / "hospital.json.gz")
    return folder


def content(value: Any) -> Any:
    """A resource without what a copy may change: its own id and meta, and where references point."""
    if isinstance(value, dict):
        return {k: content(v) for k, v in value.items() if k not in ("reference", "meta")}
    return [content(v) for v in value] if isinstance(value, list) else value


def comparable(resources: list[Plain]) -> Counter[str]:
    stripped = [{k: v for k, v in r.items() if k != "id"} for r in resources]
    return Counter(json.dumps(content(r), sort_keys=True) for r in stripped)


def gathered_from(story: Story, base: str, kind: str) -> list[Plain]:
    """The service's copies of one type from one EHR, read over FHIR."""
    desk = story.people["coordinator"]
    url, found = f"{desk.url}/fhir/{kind}?_count=100", []
    while url:
        answer = requests.get(url, headers={"Authorization": f"Bearer {desk.token}"}, timeout=60)
        assert answer.status_code == 200, answer.text
        bundle = json.loads(answer.text, parse_float=str)
        found += [e["resource"] for e in bundle.get("entry", [])]
        url = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), "")
    return [r for r in found if r.get("meta", {}).get("source", "").startswith(base)]


@pytest.mark.parametrize("name", PATIENTS)
def test_a_synthea_patient_with_cancer_ends_aligned_with_the_whole_record(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    path = path_of(shared_data, name)
    record = bundle_of(path)
    held = Counter(r["resourceType"] for r in record)
    assert held["Observation"] > 6 * 50  # the EHR's pages hold 50
    case = case_of(tmp_path / "case", path, record)
    layout = demo.lay_out(tmp_path / "demo", case)
    story = Story(case, demo.people(layout), lambda _: None)

    with demo.running(layout):
        board = story.run()

        # everybody is aligned, each on the rung of its EHR
        assert board["case"]["aligned"] is True
        assert sorted(row["rung"] for row in board["providers"]) == ["1", "5"]
        assert {row["copy"] for row in board["providers"]} == {"verified"}
        # the manifest says that everything arrived
        sources = story.people["coordinator"].get(f"/{story.case_id}/manifest")["sources"]
        (source,) = [s for s in sources if s["source"] == "Synthetic Hospital"]
        answers = {a["type"]: a for a in source["types"]}
        said = {k: (a["outcome"], a["received"], a["strangers"] + a["unresolved"]) for k, a in answers.items()}
        assert {k: said[k] for k in plan.TYPES} == {k: ("answered", held[k], 0) for k in plan.TYPES}
        # and it did, content and all
        base = f"http://127.0.0.1:{layout.ports['hospital']}/fhir"
        for kind in {*plan.TYPES, "Patient", "Practitioner", "Organization"} & set(held):
            mine = comparable(gathered_from(story, base, kind))
            theirs = comparable([r for r in record if r["resourceType"] == kind])
            assert mine == theirs, f"{kind}: {sum(mine.values())} of {sum(theirs.values())}"
