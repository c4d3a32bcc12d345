"""HL7's validator as a process of its own: cases go in, its issues come out (see tests/interop/oracle)."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from tests.conformance.cases import Case
from tests.interop.hapi_server import classpath

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "tests/interop/oracle"
OURS = tuple(ROOT / "profiles" / name for name in ("codesystems", "valuesets", "structures"))
MAIN = "secondop.interop.Oracle"
JVM = ("-Xmx2g", "-Xss8m", "-XX:+UseSerialGC")


@dataclass(frozen=True)
class Finding:
    """One issue of HL7's: severity, the id of its message, where (its own form of path), what it says."""

    severity: str
    id: str
    at: str
    text: str

    @property
    def is_error(self) -> bool:
        return self.severity in ("error", "fatal")


class Oracle:
    """A running validator; `version` is what it says it is."""

    def __init__(self, process: subprocess.Popen[str], log: IO[bytes]) -> None:
        self._process = process
        self._log = log
        self.version: str = self._line()["ready"]

    def _line(self) -> dict[str, object]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise AssertionError(f"HL7's validator ended:\n{self._log.read()[-4000:].decode(errors='replace')}")
        found: dict[str, object] = json.loads(line)
        return found

    def ask(self, cases: Iterable[Case]) -> Iterator[tuple[Case, list[Finding]]]:
        """What it finds in each case, in their order."""
        listed = list(cases)
        # Another thread writes: a pipe that is full must not keep us from reading the answers.
        threading.Thread(target=self._send, args=(listed,), daemon=True).start()
        for case in listed:
            answer = self._line()
            assert answer["id"] == case.name
            yield case, [Finding(**issue) for issue in answer["issues"]]  # type: ignore[attr-defined]

    def _send(self, cases: list[Case]) -> None:
        stdin = self._process.stdin
        assert stdin
        for case in cases:
            asked = {"id": case.name, "resource": case.text, "profiles": case.profiles}
            stdin.write(json.dumps(asked) + "\n")
        stdin.flush()


@contextmanager
def running() -> Iterator[Oracle]:
    """HL7's validator, with R4's definitions and ours; skips where Java or Maven is missing."""
    for tool in ("java", "mvn"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} absent; HL7's validator needs Java 17 and Maven")
    command = ["java", *JVM, "-cp", classpath(PROJECT), MAIN, *map(str, OURS)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8"
        )
        try:
            yield Oracle(process, log)
        finally:
            process.kill()
            process.wait()
