"""Messages from a folder: each file taken once, moved, and none lost whatever comes meanwhile."""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import hl7
import pytest

from fhir_secondop.bootstrap import Service
from fhir_secondop.web import hl7_folder
from tests.service.conftest import RIVERSIDE, Bench
from tests.service.test_hl7_intake import cases, code, example


def taking(bench: Bench) -> Service:
    """The service, which takes the messages of that sender."""
    return replace(bench.service, settings=replace(bench.service.settings, hl7_senders={"riverside": RIVERSIDE}))


def put(path: Path, text: str) -> None:
    """A file that a sender renames to its place: whole, and of long ago."""
    other = path.with_suffix(".tmp")
    other.write_text(text)
    os.utime(other, (0, 0))
    other.rename(path)


def another(number: int) -> str:
    """A referral of that number."""
    return example().replace("RS-MSG-1", f"RS-MSG-{number}").replace("RS-2026-0117", f"RS-{number}")


def test_files_of_a_folder_are_taken_once_and_moved(bench: Bench, tmp_path: Path) -> None:
    service = taking(bench)
    inbox = tmp_path / "in"
    inbox.mkdir()
    (inbox / "a.hl7").write_text(example())
    (inbox / "b.hl7").write_text(example().replace("|19710417|", "||").replace("RS-MSG-1", "RS-MSG-2"))
    (inbox / "c.hl7").write_text("no message")
    (inbox / "d.tmp").write_text(example("omg-o19"))
    assert hl7_folder.poll(service, inbox) == hl7_folder.Polled(left=3)  # they may still be written
    for path in inbox.glob("*.hl7"):
        os.utime(path, (0, 0))
    assert hl7_folder.poll(service, inbox) == hl7_folder.Polled(done=1, failed=2)
    assert sorted(p.name for p in (inbox / "done").iterdir()) == ["a.ack", "a.hl7"]
    assert sorted(p.name for p in (inbox / "failed").iterdir()) == ["b.ack", "b.hl7", "b.reason", "c.hl7", "c.reason"]
    assert (inbox / "failed/b.reason").read_text() == "PID[1]-7: Send the date of birth.\n"
    assert code(hl7.parse((inbox / "done/a.ack").read_bytes().decode())) == "AA"
    assert hl7_folder.poll(service, inbox) == hl7_folder.Polled()
    assert cases(bench) == 1


def test_one_file_that_can_not_be_read_holds_up_no_other(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = taking(bench)
    (tmp_path / "a.hl7").write_text(example().replace("UNICODE UTF-8", "BIG-5"))
    (tmp_path / "b.hl7").mkdir()
    (tmp_path / "c.hl7").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "d.hl7").write_text(example())
    (tmp_path / "e.hl7").write_text("not for us to read")
    real = Path.read_bytes

    def reading(path: Path) -> bytes:
        if path.name == "e.hl7":
            raise PermissionError
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", reading)
    for name in "abde":
        os.utime(tmp_path / f"{name}.hl7", (0, 0))
    assert hl7_folder.poll(service, tmp_path) == hl7_folder.Polled(done=1, failed=1, left=3)
    assert (tmp_path / "failed/a.reason").read_text().startswith("MSH[1]-18: ")
    assert code(hl7.parse((tmp_path / "failed/a.ack").read_bytes().decode())) == "AE"
    assert cases(bench) == 1


def test_a_message_that_comes_under_the_name_of_one_that_is_being_taken_is_taken_too(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, real = taking(bench), hl7_folder.handle
    put(tmp_path / "out.hl7", another(2))
    put(tmp_path / "poor.hl7", "no message")

    def meanwhile(*args: Any) -> Any:
        monkeypatch.setattr(hl7_folder, "handle", real)
        put(tmp_path / "out.hl7", another(3))
        return real(*args)

    monkeypatch.setattr(hl7_folder, "handle", meanwhile)
    assert hl7_folder.poll(service, tmp_path) == hl7_folder.Polled(done=1, failed=1)
    put(tmp_path / "poor.hl7", "no message either")
    assert hl7_folder.poll(service, tmp_path) == hl7_folder.Polled(done=1, failed=1)
    assert cases(bench) == 2
    done, failed = tmp_path / "done", tmp_path / "failed"
    assert sorted(p.name for p in done.iterdir()) == ["out.2.ack", "out.2.hl7", "out.ack", "out.hl7"]
    for stem, number in (("out", 2), ("out.2", 3)):
        assert f"RS-MSG-{number}" in (done / f"{stem}.hl7").read_text()
        assert f"MSA|AA|RS-MSG-{number}" in (done / f"{stem}.ack").read_text()
    assert [(failed / f"{stem}.hl7").read_text() for stem in ("poor", "poor.2")] == ["no message", "no message either"]


def test_what_an_ended_process_was_taking_is_taken_by_the_next_one_alone(bench: Bench, tmp_path: Path) -> None:
    service = taking(bench)
    (tmp_path / "work").mkdir()
    put(tmp_path / "work/a.hl7", another(2))
    put(tmp_path / "a.hl7", another(3))
    with open(tmp_path / "work/.lock", "wb") as lock:  # a process that is still at it
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert hl7_folder.poll(service, tmp_path) == hl7_folder.Polled(left=1)
    assert hl7_folder.poll(service, tmp_path) == hl7_folder.Polled(done=2)
    assert cases(bench) == 2
