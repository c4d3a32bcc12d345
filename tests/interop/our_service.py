"""Starts the service as an operator starts it: a process of its own, with a configuration file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import free_port, wait_for


@contextmanager
def serving(folder: Path, *settings: str) -> Iterator[str]:
    """The FHIR base of a service on loopback that needs no sign-in; `settings` are further lines of its file."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    (folder / "secondop.toml").write_text("\n".join([f"port = {port}", 'auth = "none"', *settings]))
    command = [sys.executable, "-m", "fhir_secondop.cli", "serve", "--config", str(folder / "secondop.toml")]
    with open(folder / "service.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        wait_for(f"http://127.0.0.1:{port}/healthz", process)
        yield f"http://127.0.0.1:{port}/fhir"
    finally:
        process.terminate()
        process.wait()
