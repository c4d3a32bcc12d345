"""The whole loop with HAPI FHIR's JPA server, which we did not write: as the hospital's EHR, and as a repository."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from fhir_secondop.fhir import refs
from fhir_secondop.sandbox import demo
from fhir_secondop.sandbox.actors import wait
from fhir_secondop.sandbox.story import Story
from tests.interop.hapi_server import hapi_server

pytestmark = pytest.mark.shared

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
Plain = dict[str, Any]
FHIR = {"Content-Type": "application/fhir+json", "Cache-Control": "no-cache"}


@pytest.fixture(scope="module")
def hapi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HAPI's FHIR base; one server for this module, each test with a case of its own."""
    with hapi_server(tmp_path_factory.mktemp("hapi")) as base:
        yield base


def held(base: str, kind: str, **criteria: str) -> list[Plain]:
    """What HAPI holds, asked past our own client and past its cache."""
    url, found = f"{base}/{kind}", []
    params: dict[str, str] | None = {**criteria, "_count": "50"}
    while url:
        bundle = requests.get(url, params=params, headers=FHIR, timeout=30).json()
        found += [e["resource"] for e in bundle.get("entry", []) if e["resource"]["resourceType"] == kind]
        url = next((link["url"] for link in bundle.get("link", []) if link["relation"] == "next"), "")
        params = None
    return found


@contextmanager
def told(folder: Path, name: str, change: Any = None, more: str = "") -> Iterator[Story]:
    """The story of an example, its EHRs as `change` edits them, with `more` in the configuration."""
    case = folder / "case"
    shutil.copytree(EXAMPLES / name, case)
    ehrs = json.loads((case / "ehrs.json").read_text())
    if change:
        change(ehrs)
    (case / "ehrs.json").write_text(json.dumps(ehrs))
    layout = demo.lay_out(folder / "demo", case)
    with open(folder / "demo/secondop.toml", "a", encoding="utf-8") as config:
        config.write(more)
    with demo.running(layout):
        yield Story(case, demo.people(layout), lambda _: None)


def test_hapi_as_the_hospitals_ehr(hapi: str, tmp_path: Path) -> None:
    # given the hospital's record in HAPI
    loaded = requests.post(
        hapi, data=(EXAMPLES / "breast-treatment-plan/records/lakeside.json").read_bytes(), headers=FHIR, timeout=120
    )
    assert loaded.status_code == 200, loaded.text[:500]
    kinds = ("Condition", "Observation", "DiagnosticReport", "Encounter", "MedicationRequest", "Procedure")
    before = {kind: len(held(hapi, kind, patient="1")) for kind in kinds}

    with told(tmp_path, "breast-treatment-plan", lambda ehrs: ehrs["lakeside"].update(base=hapi)) as story:
        board = story.run()

        # then everything was gathered, and nothing more
        desk = story.people["coordinator"]
        (source,) = [s for s in desk.get(f"/{story.case_id}/manifest")["sources"] if s["source"].startswith("Lakeside")]
        answers = {a["type"]: a for a in source["types"]}
        assert {kind: answers[kind]["received"] for kind in kinds} == before
        assert {a["outcome"] for a in answers.values()} == {"answered"}
        assert sum(a["strangers"] + a["unresolved"] for a in answers.values()) == 0

        # and what was delivered stands there once, on the highest rung, as we say it does
        hospital = [d for d in desk.get(f"/{story.case_id}")["deliveries"]
                    if d["to"] in ("Dr. Harlan Mockridge", "Dr. Priya Examplar")]  # fmt: skip
        assert {(d["what"], d["businessStatus"], d["evidence"]["rung"]) for d in hospital} == {
            ("report", "verified", "1"),
            ("plan", "verified", "1"),
        }
        ours = [r for r in held(hapi, "DocumentReference", patient="1") if story.case_id in r.get("description", "")]
        (report,) = [r for r in ours if "Second opinion" in r["description"]]
        assert base64.b64decode(report["content"][0]["attachment"]["data"]).startswith(b"%PDF")
        assert set(refs.find(report)) <= {"#author", "Patient/1"}
        assert len(held(hapi, "DiagnosticReport", patient="1")) == before["DiagnosticReport"] + 1
        assert board["case"]["aligned"] is True

        # when the report is amended
        story.amend()
        reports = [r for r in held(hapi, "DocumentReference", patient="1")
                   if story.case_id in r.get("description", "") and "Second opinion" in r["description"]]  # fmt: skip
        old, new = sorted(reports, key=lambda r: r["date"])
        assert (old["id"], old["status"], new["status"]) == (report["id"], "superseded", "current")
        assert [r["target"]["reference"] for r in new["relatesTo"]] == [f"DocumentReference/{old['id']}"]
        amended = [
            r
            for r in held(hapi, "DiagnosticReport", patient="1")
            if r["status"] in ("amended", "corrected", "appended")
        ]
        assert len(amended) == 1
        assert len(held(hapi, "DiagnosticReport", patient="1")) == before["DiagnosticReport"] + 1


def test_hapi_as_a_repository_has_every_version(hapi: str, tmp_path: Path) -> None:
    more = (
        f'\n[connections.archive]\nbase = "{hapi}"\nrole = "repository"\nvendor = "hapi"\n'
        "rate_per_s = 0.0\nsettle_s = 0.0\n"
    )
    with told(tmp_path, "spine-surgery", more=more) as story:
        story.run()
        desk = story.people["coordinator"]

        def kept() -> list[Plain] | None:
            rows = [d for d in desk.get(f"/{story.case_id}")["deliveries"] if d["to"] == "Repository archive"]
            return rows if rows and all(d["status"] == "completed" for d in rows) else None

        assert {(d["what"], d["businessStatus"], d["evidence"]["rung"]) for d in wait("the repository", kept)} == {
            ("report", "verified", "1"),
            ("plan", "verified", "1"),
        }
        story.amend()
        wait("the repository", lambda: (rows := kept()) and len(rows) == 3 and rows)
    ours = [r for r in held(hapi, "DocumentReference") if story.case_id in r.get("description", "")]
    assert sorted((r["description"].partition(",")[0], r["status"]) for r in ours) == [
        ("Plan of record", "current"),
        ("Second opinion", "current"),
        ("Second opinion", "superseded"),
    ]
    assert len({r["subject"]["reference"] for r in ours}) == 1
