"""`hl7 listen`, `hl7 poll` and `sandbox hl7` as they are run: processes, beside a service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hl7
import pytest
from click.testing import CliRunner
from hl7.client import MLLPClient

from fhir_secondop.cli import main
from tests.conftest import free_port, wait_for

EXAMPLES = Path(__file__).parent.parent.parent / "examples/hl7v2"
CONFIG = """
database = "{database}"
port = {port}
auth = "none"

[hl7_senders.riverside]
facility = "RIVERSIDE"
title = "Riverside Sample Clinic"
organization = "http://hl7.org/fhir/sid/us-npi|9000000101"
order_system = "https://riverside.example/orders"
order_codes = ["2NDOP"]

[hl7_senders.riverside.systems]
RSMRN = "https://riverside.example/mrn"
"""


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    """The configuration of a service that runs."""
    port = free_port()
    file = tmp_path / "secondop.toml"
    file.write_text(CONFIG.format(database=tmp_path / "service.sqlite", port=port))
    with open(tmp_path / "serve.log", "wb") as log:
        process = subprocess.Popen([*COMMAND, "serve", "--config", str(file)], stdout=log, stderr=log)
    wait_for(f"http://127.0.0.1:{port}/healthz", process)
    yield file
    process.terminate()
    process.wait()


COMMAND = [sys.executable, "-m", "fhir_secondop.cli"]


def code(text: str) -> str:
    return str(hl7.parse(text.strip("\x0b\x1c\r")).segment("MSA")[1])


def test_messages_are_taken_by_mllp_and_from_a_folder(config: Path, tmp_path: Path) -> None:
    port = free_port()
    command = [*COMMAND, "hl7", "listen", "--port", str(port), "--config", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"HL7 v2 is taken at mllp://127.0.0.1:{port}\n"
        referral = (EXAMPLES / "ref-i12.hl7").read_text("utf-8").replace("\n", "\r")
        with MLLPClient("127.0.0.1", port) as client:
            assert code(client.send_message(referral).decode()) == "AA"
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0  # though somebody is connected
    finally:
        process.kill()
        process.wait()
    (tmp_path / "in").mkdir()
    order = tmp_path / "in/order.hl7"
    order.write_bytes((EXAMPLES / "omg-o19.hl7").read_bytes())
    os.utime(order, (0, 0))
    done = subprocess.run([*COMMAND, "hl7", "poll", str(tmp_path / "in"), "--config", str(config), "--json"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert json.loads(done.stdout) == {"done": 1, "failed": 0, "left": 0}
    assert code((tmp_path / "in/done/order.ack").read_bytes().decode()) == "AA"


def test_other_machines_are_only_listened_to_with_tls(tmp_path: Path) -> None:
    file = tmp_path / "secondop.toml"
    file.write_text(CONFIG.format(database=tmp_path / "service.sqlite", port=8100))
    said = CliRunner().invoke(main, ["hl7", "listen", "--port", "2575", "--host", "0.0.0.0", "--config", str(file)])
    assert said.exit_code == 1
    assert "--certificate" in said.output


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('facility = "RIVERSIDE"\n', "", "hl7_senders.riverside.facility is needed"),
        ('order_codes = ["2NDOP"]', "order_codes = [2]", "order_codes must be a list, of text"),
        ('order_codes = ["2NDOP"]', 'colour = "red"', "colour is unknown"),
        ('order_codes = ["2NDOP"]', 'networks = ["0.0.0.0/0"]', "no network"),
        ("us-npi|9000000101", "us-npi", "written system|value"),
    ],
)
def test_a_sender_that_is_not_configured_right_is_named(old: str, new: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "secondop.toml"
    file.write_text(CONFIG.format(database=tmp_path / "service.sqlite", port=8100).replace(old, new))
    said = CliRunner().invoke(main, ["config", "--config", str(file)])
    assert said.exit_code == 1
    assert says in said.output


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ('hl7 = "http://a:1"', "written mllp://host:port"),
        ('hl7 = "mllp://engine.example"', "written mllp://host:port"),
        ('hl7 = "mllp://127.0.0.1:2575"\nhl7_folder = "out"', "not both"),
        ('hl7 = "mllp://127.0.0.1:2575"', "hl7_receiver is needed"),
        ('hl7 = "mllp://127.0.0.1:2575"\nhl7_kind = "adt"', "use one of mdm, oru"),
        ('hl7 = "mllp://127.0.0.1:2575"\nhl7_receiver = "LAB"', "APPLICATION|FACILITY"),
        ("", "base must be an http(s) URL"),
    ],
)
def test_a_connection_that_is_not_configured_right_is_named(more: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "secondop.toml"
    file.write_text(f'[connections.lakeside]\norganization = "a|b"\n{more}\n')
    said = CliRunner().invoke(main, ["config", "--config", str(file)])
    assert said.exit_code == 1
    assert says in said.output


def test_the_receiver_of_the_sandbox_keeps_what_it_hears(tmp_path: Path) -> None:
    port, keep = free_port(), tmp_path / "heard"
    command = [
        *COMMAND,
        "sandbox",
        "hl7",
        "--port",
        str(port),
        "--keep",
        str(keep),
        "--quirk",
        "ae=101",
        "--times",
        "1",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"HL7 v2 receiver at mllp://127.0.0.1:{port}\n"
        with MLLPClient("127.0.0.1", port) as client:
            said = [code(client.send_message("MSH|^~\\&|A|B|C|D|1||MDM^T02|7|P|2.5.1\r").decode()) for _ in range(2)]
    finally:
        process.kill()
        process.wait()
    assert said == ["AE", "AA"]
    assert sorted(p.name for p in keep.iterdir()) == ["000001.hl7", "000002.hl7"]
    wrong = CliRunner().invoke(main, ["sandbox", "hl7", "--port", str(port), "--quirk", "polite"])
    assert (wrong.exit_code, "known are ae, ar" in wrong.output) == (1, True)
