"""Messages from a folder: each file taken once, moved, and none lost whatever comes meanwhile."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hl7
import pytest

from fhir_secondop import durable
from fhir_secondop.bootstrap import Service
from fhir_secondop.ehr import hl7_files
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.web import hl7_folder
from tests.service.conftest import RIVERSIDE, Bench
from tests.service.test_hl7_intake import cases, code, example


def taking(bench: Bench) -> Service:
    """The service, which takes the messages of that sender."""
    return replace(bench.service, settings=replace(bench.service.settings, hl7_senders={"riverside": RIVERSIDE}))


@pytest.fixture
def private() -> Iterator[None]:
    """What is written is for ourselves alone, as by the commands."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def of_group(folder: Path, mode: int) -> int:
    """The group that the folder has now: another than ours, where we may give it away."""
    if os.geteuid() == 0:
        os.chown(folder, -1, 54321)
    folder.chmod(mode)
    return folder.stat().st_gid


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


@pytest.mark.parametrize(
    ("mode", "file", "inner"), [(0o2770, 0o640, 0o2770), (0o755, 0o640, 0o750), (0o700, 0o600, 0o700)]
)
def test_the_answers_are_for_the_group_that_has_the_folder(
    mode: int, file: int, inner: int, bench: Bench, tmp_path: Path, private: None
) -> None:
    inbox = tmp_path / "in"
    inbox.mkdir()
    group = of_group(inbox, mode)
    put(inbox / "a.hl7", example())
    put(inbox / "b.hl7", "no message")
    assert hl7_folder.poll(taking(bench), inbox) == hl7_folder.Polled(done=1, failed=1)
    for path, wanted in (("done", inner), ("failed", inner), ("done/a.ack", file), ("failed/b.reason", file)):
        found = (inbox / path).stat()
        assert oct(stat.S_IMODE(found.st_mode)) == oct(wanted)
        assert found.st_gid == group or not mode & stat.S_IRGRP


@pytest.mark.parametrize(("mode", "file"), [(0o2770, 0o640), (0o755, 0o640), (0o700, 0o600)])
def test_a_message_in_a_folder_is_for_the_group_that_has_it(
    mode: int, file: int, tmp_path: Path, private: None
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    group = of_group(folder, mode)
    assert hl7_files.usable(str(folder)) == ""
    assert hl7_files.put(str(folder), "ONE", b"MSH|")
    found = (folder / "ONE.hl7").stat()
    assert oct(stat.S_IMODE(found.st_mode)) == oct(file)
    assert found.st_gid == group or not mode & stat.S_IRGRP


def test_where_the_group_can_not_be_let_in_nothing_is_said_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError

    with monkeypatch.context() as broken:
        broken.setattr(durable, "share", refused)
        with pytest.raises(EhrFailure) as caught:
            hl7_files.put(str(tmp_path), "ONE", b"MSH|")
    assert (caught.value.kind, list(tmp_path.glob("*.hl7"))) == ("unreachable", [])
    assert hl7_files.put(str(tmp_path), "ONE", b"MSH|")
