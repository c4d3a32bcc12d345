"""Starts the service as an operator starts it: a process of its own, with a configuration file."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import free_port, wait_for


@contextmanager
def serving(folder: Path, *settings: str, auth: str = "none") -> Iterator[str]:
    """The FHIR base of a service on loopback, by default one that needs no sign-in; `settings` are further lines of
    its file."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    (folder / "secondop.toml").write_text("\n".join([f"port = {port}", f'auth = "{auth}"', *settings]))
    command = [sys.executable, "-m", "fhir_secondop.cli", "serve", "--config", str(folder / "secondop.toml")]
    with open(folder / "service.log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        wait_for(f"http://127.0.0.1:{port}/healthz", process)
        yield f"http://127.0.0.1:{port}/fhir"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def signed_in(folder: Path) -> Iterator[tuple[str, str]]:
    """The FHIR base of a service that asks who is there, where plain FHIR may write every type; and a token for it."""
    folder.mkdir(exist_ok=True)
    token = secrets.token_urlsafe(32)
    callers = folder / "tokens.toml"
    callers.touch(mode=0o600)
    callers.write_text(
        f'[callers.client]\nname = "A client"\ntoken = "{token}"\n'
        'roles = ["coordinator", "requester"]\nscopes = ["system/*.cruds"]\n'
    )
    settings = ('token_file = "tokens.toml"', 'writable_types = "all"', "requests_per_s = 0.0")
    with serving(folder, *settings, auth="tokens") as base:
        yield base, token
