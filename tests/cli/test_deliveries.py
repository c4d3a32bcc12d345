"""`deliveries` and `connect pause|resume|status`, as an operator calls them, against a service with cases."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from werkzeug.serving import make_server

from fhir_secondop.cli import deliveries, main
from tests.service.hospitals import hospital
from tests.service.test_circuits import another
from tests.service.world import World, opened, refusal

Run = Callable[..., Any]


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        yield made


@pytest.fixture
def run(world: World, tmp_path: Path) -> Iterator[Run]:
    """Calls a command as the desk: what it prints with --json; its text where `text` says so, or when it fails."""
    server = make_server("127.0.0.1", 0, world.client.application, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "desk.token").write_text("desk")

    def call(*words: str, ends: int = 0, text: bool = False) -> Any:
        where = ["--url", f"http://127.0.0.1:{server.port}", "--token-file", str(tmp_path / "desk.token")]
        done = CliRunner().invoke(main, [*words, *where, *([] if text or ends else ["--json"])])
        assert done.exit_code == ends, done.output
        return done.output if text or ends else json.loads(done.stdout)

    yield call
    server.shutdown()
    server.server_close()


@pytest.fixture
def held(world: World) -> list[str]:
    """The Tasks of six deliveries to Lakeside, of three cases, on hold because it does not let us in."""
    ehr = hospital(world)
    ehr.instead = lambda a: refusal(401, "login") if a.writes else None
    for number in range(3):
        another(world, number)
    world.work(patience_s=60)
    found = world.call("GET", "/api/deliveries?state=on-hold").get_json()["deliveries"]
    assert len(found) == 6
    ehr.instead = lambda a: None
    return [row["task"] for row in found]


def test_each_that_is_named_is_rehearsed_and_tried_again(
    held: list[str], world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(held) > deliveries._REHEARSED, "more than one call does"
    rehearsed = run("deliveries", "replay", *held, held[0], "--dry-run")
    assert [row["task"] for row in rehearsed["deliveries"]] == held
    monkeypatch.setattr(deliveries, "_AT_ONCE", 4)
    done = run("deliveries", "replay", *held, held[0], "--changed", "Mended.")
    assert done == {"replayed": held, "refused": []}
    world.work(patience_s=60)
    assert "6 of 6" in run("deliveries", "list", "--ehr", "lakeside", "--state", "done", text=True)
    again = run("deliveries", "replay", *held, "--changed", "Mended.", text=True)
    assert again.count("on hold") == 6
    assert "nothing waits for a person" in again


def test_all_that_the_options_leave_is_rehearsed_and_tried_again(
    held: list[str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = run("deliveries", "list", "--dead", "--count", "4", text=True)
    assert "4 of 6" in text
    page = text.strip().rpartition("--after ")[2]
    assert [one["task"] for one in run("deliveries", "list", "--dead", "--after", page)["deliveries"]] == held[4:]
    rehearsed = run("deliveries", "replay", "--ehr", "lakeside", "--reason", "auth", "--dry-run", text=True)
    assert [line.split()[0] for line in rehearsed.splitlines() if line[0] != " "] == held
    assert "now: rung 1" in rehearsed
    monkeypatch.setattr(deliveries, "_AT_ONCE", 4)
    assert "6 tried again" in run("deliveries", "replay", "--all", "--changed", "Mended.", text=True)
    shown = run("deliveries", "show", held[0])
    assert shown["state"] != "on-hold"
    assert [one["failure"] for one in shown["attempts"]] == ["auth"]


def test_what_can_not_be_meant_is_refused(run: Run) -> None:
    for words, said in (
        (("--changed", "x"), "Name deliveries"), (("a", "--all", "--changed", "x"), "Name deliveries"),
        (("--all",), "--changed"),
    ):  # fmt: skip
        assert said in run("deliveries", "replay", *words, ends=2)
    assert "not" in run("deliveries", "show", "nothing", ends=1)


def test_an_ehr_is_paused_and_resumed(world: World, run: Run) -> None:
    hospital(world)
    assert "lakeside is paused since" in run("connect", "pause", "lakeside", "--reason", "They move.", text=True)
    [row] = run("connect", "status")["connections"]
    assert (row["state"], row["why"], row["by"]) == ("paused", "They move.", "Desk")
    assert "lakeside  paused, since" in run("connect", "status", text=True)
    assert run("connect", "resume", "lakeside")["state"] == "closed"
    assert "There is no connection nowhere" in run("connect", "pause", "nowhere", "--reason", "x", ends=1)
