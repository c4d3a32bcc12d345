"""The format: JSON ↔ XML and validation of resources of 1 to 2 KB and of a Bundle of 500, against others.

  json-xml   a JSON text to XML          ours; fhir.resources R4B (model_validate_json, model_dump_xml)
  xml-json   XML to a JSON text          ours; fhir.resources R4B (model_validate_xml, model_dump_json)
  validate   a parsed resource           ours, ours without R4's invariants; fhir.resources R4B (model_validate);
                                         fhirkit-rs and pyrofile-validator where --peers names a Python that has them
  profile    an example of our profiles  ours; pyrofile-validator with our package

Each stands in a process of its own; they take turns, and the medians of the rounds are compared. Also: what the R4
tables of all types take of memory, and how long the first use in a new process takes.

python benchmarks/format.py [--rounds 9] [--seconds 0.1] [--entries 500] [--peers .peers/bin/python] [--json]
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Plain = dict[str, Any]
Call = Callable[[], Any]
XHTML = 'xmlns="http://www.w3.org/1999/xhtml"'


def narrative(text: str) -> Plain:
    return {"status": "generated", "div": f"<div {XHTML}><p><b>{text}</b></p><table><tr><td>1</td></tr></table></div>"}


def coded(system: str, code: str, text: str) -> Plain:
    return {"coding": [{"system": system, "code": code, "display": text}], "text": text}


LOINC, SNOMED = "http://loinc.org", "http://snomed.info/sct"
DOCTOR = {"reference": "Practitioner/p1", "display": "Dr. Clara Standin"}
SUBJECT = {"reference": "Patient/1", "display": "Pat Benchley"}
RESOURCES: dict[str, Plain] = {
    "Patient": {
        "resourceType": "Patient", "id": "1",
        "meta": {"versionId": "2", "lastUpdated": "2024-03-01T10:00:00Z"}, "text": narrative("Pat Benchley"),
        "extension": [{"url": "http://hl7.org/fhir/StructureDefinition/patient-birthPlace",
                       "valueAddress": {"city": "Springfield"}}],
        "identifier": [
            {"use": "usual", "type": coded("http://terminology.hl7.org/CodeSystem/v2-0203", "MR", "Record number"),
             "system": "urn:oid:1.2.36.146.595.217.0.1", "value": "12345", "period": {"start": "2001-05-06"}},
        ],
        "active": True,
        "name": [{"use": "official", "family": "Benchley", "given": ["Pat", "Jo"]}, {"use": "usual", "given": ["Pat"]}],
        "telecom": [{"system": "phone", "value": "(03) 5555 6473", "use": "work", "rank": 1},
                    {"system": "email", "value": "pat@example.org"}],
        "gender": "female", "birthDate": "1970-01-01",
        "_birthDate": {"extension": [{"url": "http://hl7.org/fhir/StructureDefinition/patient-birthTime",
                                      "valueDateTime": "1970-01-01T14:35:45-05:00"}]},
        "address": [{"use": "home", "line": ["534 Example St"], "city": "Springfield", "postalCode": "3999"}],
        "contact": [{"relationship": [coded("http://terminology.hl7.org/CodeSystem/v2-0131", "N", "Next of kin")],
                     "name": {"family": "Benchley"}, "telecom": [{"system": "phone", "value": "+1 555 0100"}]}],
        "managingOrganization": {"reference": "Organization/1"},
    },
    "Observation": {
        "resourceType": "Observation", "id": "o1", "text": narrative("Blood pressure 107/60"), "status": "final",
        "category": [coded("http://terminology.hl7.org/CodeSystem/observation-category", "vital-signs", "Vital Signs")],
        "code": coded(LOINC, "85354-9", "Blood pressure"), "subject": SUBJECT,
        "effectiveDateTime": "2024-03-01T09:30:10+01:00", "issued": "2024-03-01T10:30:10.123Z", "performer": [DOCTOR],
        "interpretation": [
            coded("http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation", "L", "below low normal")],
        "bodySite": coded(SNOMED, "368209003", "Right arm"),
        "component": [
            {"code": coded(LOINC, code, text),
             "valueQuantity": {"value": value, "unit": "mmHg", "system": "http://unitsofmeasure.org", "code": "mm[Hg]"}}
            for code, text, value in (("8480-6", "Systolic", 107), ("8462-4", "Diastolic", 60))
        ],
    },
    "DiagnosticReport": {
        "resourceType": "DiagnosticReport", "id": "d1", "text": narrative("Core biopsy"), "status": "final",
        "identifier": [{"system": "http://example.org/reports", "value": "5234342"}],
        "category": [coded("http://terminology.hl7.org/CodeSystem/v2-0074", "SP", "Surgical Pathology")],
        "code": coded(LOINC, "60568-3", "Pathology Synoptic report"), "subject": SUBJECT,
        "effectivePeriod": {"start": "2024-02-01", "end": "2024-02-03T11:00:00Z"}, "issued": "2024-02-04T11:45:33Z",
        "performer": [DOCTOR], "resultsInterpreter": [DOCTOR],
        "result": [{"reference": f"Observation/o{n}", "display": f"Finding {n}"} for n in range(6)],
        "media": [{"comment": "Slide 1", "link": {"reference": "Media/m1"}}],
        "conclusion": "Invasive carcinoma, grade 2; \"margins\" < 1 mm & involved.",
        "conclusionCode": [coded(SNOMED, "413448000", "Invasive carcinoma")],
        "presentedForm": [{"contentType": "text/plain", "language": "en", "data": "aGVsbG8h" * 20}],
    },
    "ServiceRequest": {
        "resourceType": "ServiceRequest", "id": "s1", "text": narrative("Second opinion"),
        "identifier": [{"system": "http://example.org/requests", "value": "77"}],
        "status": "active", "intent": "order", "priority": "urgent",
        "category": [coded(SNOMED, "11429006", "Consultation")], "code": coded(SNOMED, "306206005", "Referral"),
        "subject": SUBJECT, "encounter": {"reference": "Encounter/e1"}, "occurrenceDateTime": "2024-03-08",
        "authoredOn": "2024-03-01T16:25:34+11:00", "requester": DOCTOR,
        "performer": [{"reference": "PractitionerRole/r1"}],
        "reasonCode": [coded(SNOMED, "254837009", "Malignant neoplasm of breast")],
        "reasonReference": [{"reference": "Condition/c1"}],
        "supportingInfo": [{"reference": f"DocumentReference/{n}"} for n in range(4)],
        "note": [{"authorReference": DOCTOR, "time": "2024-03-01T16:25:34+11:00", "text": "Lumpectomy or mastectomy?"}],
        "bodySite": [coded(SNOMED, "80248007", "Left breast")], "patientInstruction": "Bring your images.",
    },
}  # fmt: skip


def bundle(entries: int) -> Plain:
    kinds = list(RESOURCES.values())
    made: Plain = {"resourceType": "Bundle", "type": "collection", "entry": []}
    for number in range(entries):
        resource = copy.deepcopy(kinds[number % len(kinds)]) | {"id": f"n{number}"}
        kind = resource["resourceType"]
        made["entry"].append({"fullUrl": f"http://example.org/fhir/{kind}/n{number}", "resource": resource})
    return made


EXAMPLES = Path(__file__).parents[1] / "profiles" / "examples"
PROFILED = ("second-opinion-request", "second-opinion-report", "coordination-task")


def sample(name: str, entries: int) -> Plain:
    if name in PROFILED:
        example: Plain = json.loads((EXAMPLES / f"{name}.json").read_bytes())
        return example
    return bundle(entries) if name == "Bundle" else RESOURCES[name]


SAMPLES = (*RESOURCES, "Bundle")
TASKS = {"json-xml": SAMPLES, "xml-json": SAMPLES, "validate": SAMPLES, "profile": PROFILED}


# ---- the contestants: each a process that is told what to run


def ours(task: str, text: str) -> Call:
    from fhir_secondop.fhir import codec
    from fhir_secondop.fhir.validate import validate
    from fhir_secondop.fhir.xml import from_xml, to_xml

    if task == "json-xml":
        return lambda: to_xml(text)
    if task == "xml-json":
        sent = to_xml(text)
        return lambda: from_xml(sent)
    resource = codec.parse(text)
    faults = [issue for issue in validate(resource) if issue.severity in ("error", "fatal")]
    assert not faults, faults
    return lambda: validate(resource)


def without_invariants(task: str, text: str) -> Call:
    from fhir_secondop.fhir import invariants

    invariants.written = lambda at: ()  # before any type is compiled
    return ours(task, text)


def fhir_resources(task: str, text: str) -> Call:
    from fhir.resources.R4B import get_fhir_model_class

    resource = json.loads(text)
    model = get_fhir_model_class(resource["resourceType"])
    if task == "json-xml":
        return lambda: model.model_validate_json(text).model_dump_xml()
    if task == "xml-json":
        sent = model.model_validate_json(text).model_dump_xml()
        return lambda: model.model_validate_xml(sent).model_dump_json()
    return lambda: model.model_validate(resource)


def fhirkit(task: str, text: str) -> Call:
    import fhirkit

    resource = json.loads(text)
    assert not [issue for issue in fhirkit.validate(resource) if "error" in str(issue)]
    return lambda: fhirkit.validate(resource)


def pyrofile(task: str, text: str) -> Call:
    from pyrofile_validator import Validator
    from pyrofile_validator.config import ValidatorConfig

    # Given to a process of its own as it is started: where our package has been unpacked.
    folders = [sys.argv[3]] if task == "profile" else []
    validator, resource = Validator(ValidatorConfig(local_package_paths=folders)), json.loads(text)
    if folders:
        assert validator.loaded_structure_definitions, "it has read no definition of ours"
    return lambda: validator.validate_resource(resource)


CONTESTANTS: dict[str, tuple[Callable[[str, str], Call], tuple[str, ...]]] = {
    "ours": (ours, ("json-xml", "xml-json", "validate", "profile")),
    "ours, no invariants": (without_invariants, ("validate",)),
    "fhir.resources": (fhir_resources, ("json-xml", "xml-json", "validate")),
    "fhirkit-rs": (fhirkit, ("validate",)),
    "pyrofile-validator": (pyrofile, ("validate", "profile")),
}
OF_PEERS = ("fhirkit-rs", "pyrofile-validator")


def work(name: str) -> None:
    """Answers each line (task, sample, entries, seconds) with the microseconds of the processor that one call takes."""
    make, calls = CONTESTANTS[name][0], {}
    for line in sys.stdin:
        task, of, entries, seconds = json.loads(line)
        if (task, of) not in calls:
            calls[task, of] = make(task, json.dumps(sample(of, entries), ensure_ascii=False))
            calls[task, of]()
        call, done, began = calls[task, of], 0, time.process_time()
        while (took := time.process_time() - began) < seconds or not done:
            call()
            done += 1
        print(round(1e6 * took / done, 2), flush=True)


# ---- tables


TABLES = """
import sys, time
def rss():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]) / 1024
import lxml.etree, msgspec, fhirpathpy.models, fhir_secondop.fhir.validate
from fhir_secondop.fhir import codec, xml, definitions, invariants, walk, xmlplan
text = sys.stdin.read()
resource, before, began = codec.parse(text), rss(), time.perf_counter()
fhir_secondop.fhir.validate.validate(resource)
first = time.perf_counter() - began
began = time.perf_counter()
xml.to_xml(text)
converted = time.perf_counter() - began
names = [*sorted(definitions.resource_types()), *sorted(definitions.data_types())]
for name in names:  # grows by the backbones
    names += {of for _, of in definitions.structure(name).fields.values()} - set(names)
    xmlplan.plan(name)
    definitions.search_parameters(name)
    for key in definitions.structure(name).fields:
        walk.shape(name)[key]
    invariants.of_type(name)
print(1000 * first, 1000 * converted, rss() - before)
"""


def tables() -> Plain:
    """Medians of five new processes: the first validation and the first XML after it in ms, the tables in MB."""
    text = json.dumps(RESOURCES["Patient"])
    runs = [
        [float(n) for n in subprocess.run([sys.executable, "-c", TABLES], input=text, capture_output=True, text=True,
                                          check=True).stdout.split()]
        for _ in range(5)
    ]  # fmt: skip
    first, converted, memory = (statistics.median(column) for column in zip(*runs, strict=True))
    return {"first_validation_ms": round(first), "first_xml_ms": round(converted), "tables_mb": round(memory, 1)}


def measure(rounds: int, seconds: float, entries: int, peers: str) -> Plain:
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "ours.tgz"
        subprocess.run([Path(sys.executable).with_name("fhir-secondop"), "package", packed], check=True,
                       stdout=sys.stderr)  # fmt: skip
        with tarfile.open(packed) as archive:
            archive.extractall(folder, filter="data")
        return taking_turns(rounds, seconds, entries, peers, f"{folder}/package")


def taking_turns(rounds: int, seconds: float, entries: int, peers: str, package: str) -> Plain:
    names = [name for name in CONTESTANTS if peers or name not in OF_PEERS]
    running = {
        name: subprocess.Popen([peers if name in OF_PEERS else sys.executable, __file__, "--work", name, package],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in names
    }  # fmt: skip
    found: Plain = {}
    try:
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            for task, samples in TASKS.items():
                for of in samples:
                    takers = [name for name in names if task in CONTESTANTS[name][1]]
                    for name in takers if number % 2 else reversed(takers):
                        process = running[name]
                        assert process.stdin is not None
                        assert process.stdout is not None
                        process.stdin.write(json.dumps([task, of, entries, seconds]) + "\n")
                        process.stdin.flush()
                        row = found.setdefault(task, {}).setdefault(of, {}).setdefault(name, [])
                        # pyrofile-validator says what a conversion has not found, on its standard output.
                        while (answer := process.stdout.readline()).startswith("TRACE:"):
                            pass
                        row.append(float(answer))
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    return {task: {of: _compared(row) for of, row in by.items()} for task, by in found.items()}


def _compared(row: dict[str, list[float]]) -> Plain:
    """Median microseconds, and the median over the rounds of how many times our time each takes."""
    ratios = {name: [a / b for a, b in zip(times, row["ours"], strict=True)] for name, times in row.items()}
    return {
        name: {"us": round(statistics.median(times), 1), "times_ours": round(statistics.median(ratios[name]), 2)}
        for name, times in row.items()
    }


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.1, help="of each measurement")
    parser.add_argument("--entries", type=int, default=500, help="of the Bundle")
    parser.add_argument("--peers", default="", help="a Python that has fhirkit-rs and pyrofile-validator")
    parser.add_argument("--json", action="store_true")
    said = parser.parse_args()
    if said.peers and not Path(said.peers).exists():
        parser.error(f"{said.peers} is not there")
    found = measure(said.rounds, said.seconds, said.entries, said.peers) | {"tables": tables()}
    if said.json:
        print(json.dumps(found))
        return
    sizes = {of: len(json.dumps(sample(of, said.entries), ensure_ascii=False, separators=(",", ":")))
             for of in (*SAMPLES, *PROFILED)}  # fmt: skip
    for task in TASKS:
        for of, row in found[task].items():
            print(f"{task:10}{of:18}{sizes[of]:8} bytes")
            for name, one in row.items():
                print(f"{'':12}{name:22}{one['us']:12.1f} µs {one['times_ours']:8.2f} times ours")
    print(found["tables"])


if __name__ == "__main__":
    main()
