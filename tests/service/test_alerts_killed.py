"""SIGKILL while people are being told: whoever goes on tells them, with the same id. And that somebody does go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer

from fhir_secondop.store import alerts
from fhir_secondop.store.database import now_ms
from tests.conftest import free_port
from tests.service.alerting import Hook, hooked
from tests.service.hospitals import hospital
from tests.service.world import World, opened

# A turn of a worker in a process of its own, that ends itself at a point; its clock is so many seconds ahead.
TURN = """
import os, signal, sys
from fhir_secondop import bootstrap, config
from fhir_secondop.service.alerts import channels, sending, watch
from fhir_secondop.store.database import now_ms

file, point, ahead_s = sys.argv[1], sys.argv[2], int(sys.argv[3])
bootstrap.now_ms = lambda: now_ms() + 1000 * ahead_s

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

send = channels.send
if point == "committed":
    sending.send_due = die
elif point == "taken":
    channels.send = die
elif point == "sent":
    channels.send = lambda settings, message, now: (send(settings, message, now_ms()), die())
else:
    channels.send = lambda settings, message, now: send(settings, message, now_ms())
watch.act(bootstrap.assembled(config.load(file)).context)
"""


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Where a delivery has been waiting for two hours."""
    with opened(tmp_path, database_url, monkeypatch) as made:
        made.clock.ahead_ms = -7_200_000
        hospital(made)
        made.signed()
        yield made


@pytest.fixture
def hook(world: World, httpserver: HTTPServer) -> Hook:
    """Who is told of it, and of nothing else."""
    made, connection = hooked(httpserver, world.folder)
    lakeside = world.connections["lakeside"]
    (world.folder / "secondop.toml").write_text(f"""
port = {free_port()}
database = "{world.database_url}"
auth = "tokens"
token_file = "tokens.toml"
link_secret_file = "link-secret"
document_keys_file = "document-keys.json"

[connections.lakeside]
base = "{lakeside.base}"
organization = "{lakeside.organization}"

[alerts]
no_worker_minutes = 0
oldest_undelivered_minutes = 0
hold_down_s = 0

[alerts.connections.lakeside]
oldest_undelivered_minutes = 60

[alerts.webhooks.pager]
url = "{connection.base}"
secret_file = "hook.secret"

[[alerts.levels]]
webhooks = ["pager"]
""")
    return made


def turn(world: World, point: str, ahead_s: int = 0) -> int:
    command = [sys.executable, "-c", TURN, str(world.folder / "secondop.toml"), point, str(ahead_s)]
    return subprocess.run(command, timeout=60).returncode


@pytest.mark.parametrize(("point", "arrivals"), [("committed", 1), ("taken", 1), ("sent", 2)])
def test_who_is_killed_leaves_the_message_to_the_next_one(world: World, hook: Hook, point: str, arrivals: int) -> None:
    assert turn(world, point) == -signal.SIGKILL
    assert len(hook.got) == (point == "sent")
    with world.context.database.reading() as connection:
        due = alerts.due(connection, now_ms() + 170_000, 10)
    assert len(due) == (point == "committed"), "while somebody may still be sending it nobody else does"
    assert turn(world, "none", ahead_s=181) == 0
    with world.context.database.reading() as connection:
        assert alerts.due(connection, now_ms() + 86_400_000, 10) == [], "it is never sent again"
    assert len(hook.got) == arrivals
    assert len({message_id for message_id, _ in hook.got}) == 1
    assert {json.dumps(body) for _, body in hook.got} == {json.dumps(hook.got[0][1])}
    assert hook.got[0][1]["type"] == "alert.began"


def test_a_server_without_a_worker_tells_that_nobody_works(world: World, hook: Hook) -> None:
    file = world.folder / "secondop.toml"
    text = file.read_text().replace("no_worker_minutes = 0", "no_worker_minutes = 1")
    file.write_text(text.replace("oldest_undelivered_minutes = 60", "oldest_undelivered_minutes = 0"))
    command = [sys.executable, "-m", "fhir_secondop.cli", "serve", "--no-work", "--config", str(file)]
    with open(world.folder / "service.log", "ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        ends = time.monotonic() + 60
        while not hook.got:
            assert process.poll() is None, (world.folder / "service.log").read_text()
            assert time.monotonic() < ends, (world.folder / "service.log").read_text()
            time.sleep(0.1)
        assert [(b["type"], b["data"]["kind"]) for _, b in hook.got] == [("alert.began", "no-worker")]
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(30) == 0
