"""`alerts` as an operator calls it: what stands, who takes care of it, and a test of every channel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from pytest_httpserver import HTTPServer

from fhir_secondop.cli import main
from fhir_secondop.service.context import SERVICE
from fhir_secondop.store import alerts
from fhir_secondop.store.alerts import Alert, Message
from fhir_secondop.store.database import Database
from tests.service.alerting import DESK, Hook, Mailbox, hooked, mail_server

SETTINGS = """
database = "{database}"
auth = "none"

[alerts]
queue_depth = 7

[alerts.email]
host = "127.0.0.1"
port = {port}
sender = "secondop@hospital.example"
security = "none"
timeout_s = 2.0

[alerts.webhooks.pager]
url = "{hook}"
secret_file = "hook.secret"

[[alerts.levels]]
email = ["desk@hospital.example"]
webhooks = ["pager"]
"""


@pytest.fixture
def hook(httpserver: HTTPServer, tmp_path: Path) -> tuple[Hook, str]:
    made, connection = hooked(httpserver, tmp_path)
    return made, connection.base


def run(folder: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["alerts", *words, "--config", str(folder / "secondop.toml")])
    return done.exit_code, done.output


def test_a_test_goes_by_every_channel_and_says_what_became_of_each(tmp_path: Path, hook: tuple[Hook, str]) -> None:
    box = Mailbox()
    file = tmp_path / "secondop.toml"
    with mail_server(box) as port:
        file.write_text(SETTINGS.format(database="test.sqlite", port=port, hook=hook[1]))
        code, said = run(tmp_path, "test", "--json")
        assert (code, json.loads(said)["ok"]) == (0, True)
        hook[0].answers = [500]
        code, said = run(tmp_path, "test")
    assert (code, said) == (1, f"email:{DESK}: sent\nwebhook:pager: webhook pager: HTTP 500.\n")
    assert [m["Subject"] for m in box.got] == ["A test of the alerts"] * 2
    assert [body["type"] for _, body in hook[0].got] == ["alert.test"]
    code, said = run(tmp_path, "test")
    assert (code, said.splitlines()[0]) == (1, f"email:{DESK}: mail server 127.0.0.1: no answer.")


def test_without_anybody_to_tell_a_test_says_so(tmp_path: Path) -> None:
    (tmp_path / "secondop.toml").write_text('auth = "none"\n')
    code, said = run(tmp_path, "test")
    assert code == 1
    assert "[[alerts.levels]]" in said


def test_what_stands_is_listed_and_acknowledged(database_url: str, tmp_path: Path, hook: tuple[Hook, str]) -> None:
    (tmp_path / "secondop.toml").write_text(SETTINGS.format(database=database_url, port=1, hook=hook[1]))
    assert "No alert stands" in run(tmp_path, "list")[1]
    database = Database(database_url)
    alert = Alert("a-1", "queue-depth", "riverside", 1, began=1_900_000_000_000, value=9, bound=7, level=1)
    body = {"type": "alert.began", "data": {}}
    with database.transaction(SERVICE) as tx:
        alerts.keep(tx.connection, alert)
        alerts.put(tx.connection, [Message("msg_1", "a-1", "webhook:pager", body, made=1, why="HTTP 500")])
    database.dispose()
    code, said = run(tmp_path, "list")
    assert code == 0
    assert said.splitlines() == [
        "a-1  STANDS, began 2030-03-17T17:46:40.000Z: riverside: 9 deliveries wait to be made; the limit is "
        "7 deliveries",
        "  began to webhook:pager: waiting: HTTP 500",
    ]
    assert run(tmp_path, "acknowledge", "a-1", "--by", "Night shift") == (0, "acknowledged by Night shift\n")
    (row,) = json.loads(run(tmp_path, "list", "--json")[1])["alerts"]
    assert (row["acknowledgedBy"], row["ehr"], row["value"]) == ("Night shift", "riverside", 9)
    assert run(tmp_path, "acknowledge", "a-2")[0] == 1
