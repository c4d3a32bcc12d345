"""The whole loop with an EHR that we did not write: SEKMET (PyPI sekmet-fhir), as a process of its own on loopback.

Where it deviates from R4 (0.1.1): `DocumentReference?identifier=` leaves masterIdentifier out.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from fhir_secondop.fhir import refs
from fhir_secondop.sandbox import demo
from fhir_secondop.sandbox.story import Story
from tests.conftest import free_port, wait_for

pytestmark = pytest.mark.shared

CASE = Path(__file__).parent.parent.parent / "examples/breast-treatment-plan"
PATIENT = "1"
Plain = dict[str, Any]


@pytest.fixture
def sekmet(tmp_path: Path) -> Iterator[str]:
    """SEKMET's FHIR base, empty; it talks to nobody and simulates nothing."""
    # Asked for here: a skip at collection would show in the first suite, which skips nothing.
    pytest.importorskip("sekmet")
    port, folder = free_port(), tmp_path / "sekmet"
    folder.mkdir()
    base = f"http://127.0.0.1:{port}/fhir"
    settings = {"base_url": base, "host": "127.0.0.1", "port": port, "data_dir": str(folder),
                "simulator": {"enabled": False}}  # fmt: skip
    (folder / "settings.yaml").write_text(json.dumps(settings))  # JSON is YAML
    command = [sys.executable, "-c", "from sekmet.cli import app; app()", "serve",
               "--config", str(folder / "settings.yaml"), "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        wait_for(f"{base}/metadata", process)
        yield base
    finally:
        process.terminate()
        process.wait()


def count(base: str, kind: str, **criteria: str) -> int:
    bundle = requests.get(f"{base}/{kind}", params={**criteria, "_count": "500"}, timeout=20).json()
    assert not any(link["relation"] == "next" for link in bundle["link"])
    return sum(1 for e in bundle.get("entry", []) if e["resource"]["resourceType"] == kind)


def copies(base: str, title: str) -> list[Plain]:
    """The DocumentReferences of the patient there that are ours, whatever their status."""
    bundle = requests.get(f"{base}/DocumentReference", params={"patient": PATIENT, "_count": "500"}, timeout=20).json()
    found = [e["resource"] for e in bundle.get("entry", [])]
    return [r for r in found if title in r.get("description", "")]


def test_the_whole_loop_with_sekmet_as_the_hospitals_ehr(sekmet: str, tmp_path: Path) -> None:
    # given the hospital's record in SEKMET
    loaded = requests.post(sekmet, data=(CASE / "records/lakeside.json").read_bytes(), timeout=60,
                           headers={"Content-Type": "application/fhir+json"})  # fmt: skip
    assert loaded.status_code == 200, loaded.text[:500]
    held = {k: count(sekmet, k, patient=PATIENT) for k in ("Condition", "Observation", "DiagnosticReport", "Encounter")}
    assert held["Observation"] == 23
    # and the case, with that hospital there
    case = tmp_path / "case"
    shutil.copytree(CASE, case)
    ehrs = json.loads((case / "ehrs.json").read_text())
    ehrs["lakeside"]["base"] = sekmet
    (case / "ehrs.json").write_text(json.dumps(ehrs))
    layout = demo.lay_out(tmp_path / "demo", case)
    story = Story(case, demo.people(layout), lambda _: None)

    with demo.running(layout):
        # when the story is told
        board = story.run()

        # then everything was gathered, and nothing more
        desk = story.people["coordinator"]
        (source,) = [s for s in desk.get(f"/{story.case_id}/manifest")["sources"] if s["source"].startswith("Lakeside")]
        answers = {a["type"]: a for a in source["types"]}
        assert source["received"] > 0
        assert {k: answers[k]["received"] for k in held} == held
        statement = requests.get(f"{sekmet}/metadata", timeout=20).json()
        offered = {r["type"] for r in statement["rest"][0]["resource"]}
        outcomes = {kind: a["outcome"] for kind, a in answers.items() if kind != "Attachment"}
        assert outcomes == {k: "answered" if k in offered else "not-offered" for k in outcomes}
        assert sum(a["strangers"] for a in answers.values()) == 0

        # and what was delivered stands there once, as we say it does
        hospital = [d for d in desk.get(f"/{story.case_id}")["deliveries"]
                    if d["to"] in ("Dr. Harlan Mockridge", "Dr. Priya Examplar")]  # fmt: skip
        assert {(d["what"], d["businessStatus"], d["evidence"]["rung"]) for d in hospital} == {
            ("report", "verified", "1"),
            ("plan", "verified", "1"),
        }
        assert {d["evidence"]["rung-why"] for d in hospital} == {"transaction with conditional creates"}
        (report,) = copies(sekmet, "Second opinion")
        (plan,) = copies(sekmet, "Plan of record")
        assert {d["evidence"]["location"] for d in hospital} == {f"DocumentReference/{r['id']}" for r in (report, plan)}
        assert base64.b64decode(report["content"][0]["attachment"]["data"]).startswith(b"%PDF")
        assert count(sekmet, "DiagnosticReport", patient=PATIENT) == held["DiagnosticReport"] + 1
        for text in refs.find(report):
            assert text == "#author" or text in (f"Patient/{PATIENT}", f"{sekmet}/Patient/{PATIENT}")
        assert board["case"]["aligned"] is True
        states = {row["name"]: row["state"] for row in board["providers"]}
        assert [states[name] for name in ("Dr. Harlan Mockridge", "Dr. Priya Examplar")] == ["aligned"] * 2

        # when the report is amended
        story.amend()

        # then the old copy gave way to the new one, and the report was updated where it stood
        old, new = sorted(copies(sekmet, "Second opinion"), key=lambda r: r["date"])
        assert (old["id"], old["status"], new["status"]) == (report["id"], "superseded", "current")
        assert [r["target"]["reference"].removeprefix(f"{sekmet}/") for r in new["relatesTo"]] == [
            f"DocumentReference/{old['id']}"
        ]
        assert count(sekmet, "DiagnosticReport", patient=PATIENT) == held["DiagnosticReport"] + 1
