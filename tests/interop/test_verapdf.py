"""veraPDF, an industry validator, finds every PDF that we make sound PDF/UA-1: tags, fonts, language, order."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from fhir_secondop.opinion import facts, render
from tests.interop.hapi_server import maven
from tests.opinion.generated import generate

pytestmark = pytest.mark.shared
ARTIFACT = ("org.verapdf.apps", "greenfield-apps", "1.28.1")
PRINTED = Path(__file__).parent.parent.parent / "docs" / "reports"
FIFTY = 50
PATIENT = {"name": "Maren Sampleton", "birthDate": "1971-04-17", "gender": "female", "identifiers": ["LSM-1"]}
VERSION = {
    "caseId": "1", "version": 1, "setId": "urn:uuid:1", "versionId": "urn:uuid:2", "issued": "2026-11-28 09:30 UTC",
    "patient": PATIENT, "author": "Dr. Clara Standin", "notices": ["A notice."],
}  # fmt: skip
OTHERS: dict[str, facts.Facts] = {
    "plan": {**VERSION, "decision": "adopt", "cites": "report version 1", "text": "As proposed.", "items": ["A test."]},
    "proposal": {**VERSION, "number": 1, "kind": "further test", "text": "MRI.", "why": "x", "until": "2027-01-31",
                 "withdrawn": "No more."},
    "notice": {"caseId": "1", "version": 2, "versionId": "urn:uuid:2", "issued": "2026-11-28 09:30 UTC",
               "text": "Gone."},
    "cover": {"task": "1", "caseId": "1", "what": "report", "version": 1, "recipient": "Dr. Ines Placeholder",
              "url": "http://127.0.0.1/ack/x", "issued": "2026-11-28T09:30:00Z", "days": 90},
}  # fmt: skip


@pytest.fixture(scope="module")
def jar() -> Path:
    """veraPDF with all that it needs; skips where Java or Maven is missing."""
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} absent; veraPDF needs Java and Maven")
    group, name, version = ARTIFACT
    command = ["mvn", "-q", "-B", "dependency:get", f"-Dartifact={group}:{name}:{version}", "-Dtransitive=false"]
    with maven():
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    found = Path.home() / ".m2/repository" / group.replace(".", "/") / name / version / f"{name}-{version}.jar"
    assert found.is_file(), done.stdout + done.stderr
    return found


def judged(jar: Path, *documents: Path) -> dict[str, str]:
    """File → PASS, or what the validator says."""
    command = ["java", "-cp", str(jar), "org.verapdf.apps.GreenfieldCliWrapper", "-f", "ua1", "--format", "text", "-v"]
    done = subprocess.run([*command, *map(str, documents)], capture_output=True, text=True, timeout=300)
    said = {document.name: done.stderr[-500:] for document in documents}
    name = ""
    for line in done.stdout.splitlines():
        verdict, _, rest = line.partition(" ")
        if verdict in ("PASS", "FAIL"):
            name = Path(rest.rsplit(" ", 1)[0]).name
            said[name] = verdict
        elif name:
            said[name] += f"\n{line}"
    return said


def test_every_pdf_that_we_make_is_sound_pdf_ua(jar: Path, tmp_path: Path) -> None:
    made = sorted(PRINTED.glob("*.pdf"))
    assert len(made) == 3
    for seed in range(FIFTY):
        made.append(tmp_path / f"generated-{seed}.pdf")
        made[-1].write_bytes(render.pdf("report", generate(seed).said))
    for template, said in OTHERS.items():
        made.append(tmp_path / f"{template}.pdf")
        made[-1].write_bytes(render.pdf(template, said))
    verdicts = judged(jar, *made)
    assert {name: verdict for name, verdict in verdicts.items() if verdict != "PASS"} == {}


def test_it_would_say_when_one_is_not(jar: Path, tmp_path: Path) -> None:
    document = tmp_path / "untagged.pdf"
    document.write_bytes((PRINTED / "short.pdf").read_bytes().replace(b"/MarkInfo", b"/MarkXxxx"))
    assert judged(jar, document)["untagged.pdf"].startswith("FAIL")
