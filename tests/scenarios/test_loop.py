"""Whole paths through real processes: request to aligned, and what keeps a board from being aligned."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from fhir_secondop.errors import Unavailable
from fhir_secondop.sandbox import demo
from fhir_secondop.sandbox.story import Story

Plain = dict[str, Any]


@contextmanager
def told(
    folder: Path,
    case: str = "breast-treatment-plan",
    *,
    database: str = "",
    silent: tuple[str, ...] = (),
    change: Callable[[Path], None] = lambda case: None,
    log_level: str = "INFO",
) -> Iterator[Story]:
    """A story whose processes run; `change` edits the copied case first."""
    copied = folder / "case"
    with demo.case_folder(case) as found:
        shutil.copytree(found, copied)
    change(copied)
    layout = demo.lay_out(folder / "demo", copied, database)
    with open(folder / "demo" / "secondop.toml", "r+", encoding="utf-8") as config:
        text = config.read()
        config.seek(0)
        config.write(f'log_level = "{log_level}"\n' + text)
    with demo.running(layout):
        yield Story(copied, demo.people(layout), lambda text: None, frozenset(silent))


def edit(name: str, change: Callable[[Plain], None]) -> Callable[[Path], None]:
    """An edit of one JSON file of a case."""

    def apply(case: Path) -> None:
        plain = json.loads((case / name).read_text("utf-8"))
        change(plain)
        (case / name).write_text(json.dumps(plain), "utf-8")

    return apply


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A story as far as its report's deliveries, for tests that are refused all that they try: it stays as it is."""
    with told(tmp_path_factory.mktemp("delivered")) as story:
        story.request()
        story.gathered()
        story.review()
        story.delivered("report")
        yield story


def row(board: Plain, name: str) -> Plain:
    found: Plain = next(r for r in board["providers"] if name in r["name"])
    return found


@pytest.mark.parametrize("case", demo.CASES)
def test_each_example_ends_aligned_with_one_acknowledged_unverified(tmp_path: Path, case: str) -> None:
    with told(tmp_path, case) as story:
        board = story.run()
    assert board["case"] == {**board["case"], "aligned": True, "informed": True, "version": 1}
    assert [r["state"] for r in board["providers"]] == ["aligned"] * 3 + ["aligned (acknowledged, unverified)"]
    assert sorted(r["rung"] for r in board["providers"]) == ["1", "1", "10", "5"]
    assert "aligned" not in board["patient"]


def test_one_missing_acknowledgement_keeps_the_board_from_being_aligned(tmp_path: Path) -> None:
    with told(tmp_path, silent=("pcp",)) as story:
        board = story.run()
    pcp = row(board, "Placeholder")
    assert board["case"]["aligned"] is False
    assert board["case"]["informed"] is True  # the copy was verified: informed is not aligned
    assert (pcp["ack"], pcp["aligned"]) == ("none", False)
    assert "acknowledgement" in pcp["waitingFor"]


def test_a_link_that_nobody_confirmed_leaves_its_recipient_uninformed(tmp_path: Path) -> None:
    with told(tmp_path, silent=("radiation-oncologist",)) as story:
        board = story.run()
    assert row(board, "Standish") == {**row(board, "Standish"), "copy": "unverifiable", "aligned": False}
    assert board["case"]["informed"] is False


def test_an_amendment_sets_everybody_back_and_reaches_all_who_had_any_version(tmp_path: Path) -> None:
    with told(tmp_path) as story:
        assert story.run()["case"]["aligned"] is True
        story.amend()
        board = story.board()
        assert board["case"]["version"] == 2
        assert board["case"]["aligned"] is False
        assert [r["aligned"] for r in board["providers"]] == [False] * 4
        assert row(board, "Mockridge")["copy"] == "verified"  # the new version is there already
        # The older copy at the EHR is marked, and is not found as current any more.
        ports = json.loads((tmp_path / "demo" / "demo.json").read_text())["ports"]
        for name in ("lakeside", "riverside"):
            statuses = [
                (d["docStatus"], d["status"])
                for d in _documents(f"http://127.0.0.1:{ports[name]}/fhir")
                if "Second opinion" in d["description"]
            ]
            assert sorted(statuses) == [("amended", "current"), ("final", "superseded")], name
        old = story.people["pcp"]
        with pytest.raises(Unavailable, match="409"):
            old.post(f"/{story.case_id}/acknowledge", {"version": 1})
        story.respond()
        story.plan_of_record()
        board = story.board()
    assert board["case"]["aligned"] is True
    assert [r["version"] for r in board["providers"]] == [2, 2, 2, 2]


def _documents(base: str) -> list[Plain]:
    found = requests.get(f"{base}/DocumentReference", params={"_count": "200"}, timeout=30).json()
    return [e["resource"] for e in found.get("entry", []) if "case" in e["resource"].get("description", "")]


def test_a_deny_is_asked_neither_for_records_nor_sent_the_report(tmp_path: Path) -> None:
    deny = {"decision": "permit", "date": "2026-11-01", "except": ["lakeside"]}
    with told(tmp_path, change=edit("request.json", lambda r: r.update(consent=deny))) as story:
        story.request()
        story.gathered()
        manifest = story.people["coordinator"].get(f"/{story.case_id}/manifest")
        lakeside = next(s for s in manifest["sources"] if s["source"].startswith("Lakeside"))
        assert lakeside["received"] == 0
        assert "consent" in lakeside["types"][0]["detail"]
        story.review()
        story.delivered("report")
        board = story.board()
        ports = json.loads((tmp_path / "demo" / "demo.json").read_text())["ports"]
        assert _documents(f"http://127.0.0.1:{ports['lakeside']}/fhir") == []
    for name in ("Mockridge", "Examplar"):
        assert row(board, name)["sent"] == "no"
    assert row(board, "Placeholder")["copy"] == "verified"


def test_nobody_acts_without_being_someone_or_for_somebody_else(delivered: Story) -> None:
    story = delivered
    url, case = story.people["pcp"].url, story.case_id
    for path in (
        "/fhir/Task",
        f"/fhir/ServiceRequest/{case}",
        f"/api/second-opinions/{case}",
        "/api/second-opinions",
    ):
        assert requests.get(url + path, timeout=30).status_code == 401
        assert requests.get(url + path, headers={"Authorization": "Bearer wrong"}, timeout=30).status_code == 401
    # A doctor of the case can't review it, sign it, or decide for the owner.
    with pytest.raises(Unavailable, match="403"):
        story.people["pcp"].post(f"/{case}/sign", {})
    with pytest.raises(Unavailable, match="403"):
        story.people["pcp"].post(
            f"/{case}/plan-of-record", {"version": 1, "decision": "adopt", "text": "As the report says."}
        )
    with pytest.raises(Unavailable, match="403"):
        story.people["reviewer"].post(f"/{case}/acknowledge", {"version": 1})


def test_final_exists_only_through_sign_and_tasks_move_only_legally(delivered: Story) -> None:
    story = delivered
    headers = {"Authorization": f"Bearer {story.people['coordinator'].token}"}
    base = f"{story.people['coordinator'].url}/fhir"
    reports = requests.get(f"{base}/DiagnosticReport", params={"based-on": f"ServiceRequest/{story.case_id}"},
                           headers=headers, timeout=30).json()  # fmt: skip
    report = reports["entry"][0]["resource"]
    assert report["status"] == "final"
    report["conclusion"] = "Something else."
    answer = requests.put(f"{base}/DiagnosticReport/{report['id']}", json=report, headers=headers, timeout=30)
    assert answer.status_code == 403
    tasks = requests.get(f"{base}/Task", params={"focus": f"ServiceRequest/{story.case_id}", "_count": "100"},
                         headers=headers, timeout=30).json()  # fmt: skip
    task = next(e["resource"] for e in tasks["entry"] if e["resource"]["status"] == "completed")
    task["status"] = "accepted"
    answer = requests.put(f"{base}/Task/{task['id']}", json=task, headers=headers, timeout=30)
    assert answer.status_code == 409
    said = answer.json()["issue"][0]["diagnostics"]
    assert "completed" in said
    assert "accepted" in said


def test_the_report_can_be_signed_only_with_every_question_answered_and_every_gap_confirmed(tmp_path: Path) -> None:
    with told(tmp_path) as story:
        story.request()
        story.gathered()
        reviewer, script = story.people["reviewer"], story.file("review.json")
        story.people["coordinator"].post(f"/{story.case_id}/ask-reviewer", {"reviewer": script["reviewer"]})
        reviewer.post(f"/{story.case_id}/accept", {"declaration": script["declaration"]})
        draft = {**script["draft"], "answers": script["draft"]["answers"][:-1]}
        reviewer.post(f"/{story.case_id}/submit-report", draft)
        with pytest.raises(Unavailable) as refused:
            reviewer.post(f"/{story.case_id}/sign", {})
        assert "answers[question=3]" in str(refused.value)
        assert "gapsConfirmed" in str(refused.value)
        assert "images" in str(refused.value)
        state = reviewer.get(f"/{story.case_id}")
        assert state["report"] is None
        assert state["deliveries"] == []


def test_a_planted_name_stands_in_no_log_at_debug(tmp_path: Path) -> None:
    canary = "Zanzibarowitz"

    def plant(case: Path) -> None:
        def in_request(request: Plain) -> None:
            request["patient"]["family"] = canary
            request["questions"].append(f"Is {canary} right to worry?")

        edit("request.json", in_request)(case)
        edit("review.json", lambda r: r["draft"]["answers"].append({"question": 4, "text": f"No, {canary}."}))(case)

    with told(tmp_path, change=plant, log_level="DEBUG") as story:
        story.run()
        desk = story.people["coordinator"]
        headers = {"Authorization": f"Bearer {desk.token}"}
        # Wrong turns too: what fails must not quote what was sent.
        patients, cases = f"{desk.url}/fhir/Patient", f"{desk.url}/api/second-opinions"
        requests.get(patients, params={"name": canary, "nonsense": canary}, headers=headers, timeout=30)
        requests.get(f"{patients}/{canary}", headers=headers, timeout=30)
        wrong = {"resourceType": "Patient", "birthDate": canary}
        requests.post(patients, json=wrong, headers=headers, timeout=30)
        requests.post(cases, json={"patient": {"family": canary}}, headers=headers, timeout=30)
        found = requests.get(f"{desk.url}/fhir/Patient", params={"family": canary}, headers=headers, timeout=30)
        assert found.json()["entry"], "the canary must be in the store, or the test shows nothing"
    log = (tmp_path / "demo" / "service.log").read_text("utf-8", "replace")
    assert "POST" in log, "the log must have lines, or the test shows nothing"
    assert canary not in log
    assert canary.encode().hex() not in log
    assert base64.b64encode(canary.encode()).decode().rstrip("=")[:-1] not in log


def test_a_stranger_at_the_same_ehr_never_shows_in_the_case(tmp_path: Path) -> None:
    with told(tmp_path) as story:
        story.request()
        story.gathered()
        desk = story.people["coordinator"]
        package = json.dumps(desk.get(f"/{story.case_id}/package"))
    # Patient/2 of Riverside: a near-twin, one digit of the birth date and one letter of the name away.
    assert "Marena" not in package
    assert "1971-04-11" not in package
    assert "Maren" in package
