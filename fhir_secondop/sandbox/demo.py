"""The demo: simulated EHRs, each its own process, the service, and a case of examples/ all the way round.

Everything lives in one folder; started again on the same folder it goes on where it was cut off.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from types import MappingProxyType
from typing import Any

import requests
from werkzeug.security import generate_password_hash

from fhir_secondop.errors import Invalid, Unavailable
from fhir_secondop.sandbox.actors import Person
from fhir_secondop.sandbox.story import COORDINATOR, REVIEWER, Story
from fhir_secondop.web.roster import HASHED
from fhir_secondop.web.signin import DEMO

Plain = dict[str, Any]
CASES = ("breast-treatment-plan", "spine-surgery")
ACCOUNTS = "accounts.toml"
_START_S = 60.0
VENDORS = {"epic": "epic", "oracle": "oracle-health", "athena": "athenahealth", "meditech": "meditech"}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the demo's processes listen and what they know; kept in the folder, so that a restart is the same."""

    folder: Path
    case: Path
    ports: dict[str, int]
    tokens: dict[str, str]

    @property
    def url(self) -> str:
        """The service."""
        return f"http://127.0.0.1:{self.ports['service']}"


@contextmanager
def case_folder(case: str) -> Iterator[Path]:
    """The folder of a case: one of examples/ by name, or any folder of that form by path."""
    if case in CASES:
        with as_file(files("fhir_secondop.examples") / case) as folder:
            yield folder
    elif (Path(case) / "request.json").exists():
        yield Path(case)
    else:
        raise Invalid(f"{case} is no case: name one of {', '.join(CASES)}, or a folder with a request.json.")


def lay_out(folder: Path, case: Path, database: str = "") -> Layout:
    """Makes the demo's folder, or takes up the one that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "demo.json"
    request = json.loads((case / "request.json").read_text("utf-8"))
    ehrs = json.loads((case / "ehrs.json").read_text("utf-8"))
    if kept.exists():
        known = json.loads(kept.read_text("utf-8"))
        if known["placer"] != request["placer"]:
            raise Invalid(f"{folder} holds the demo of another case; choose another --dir.")
        if not (folder / "people.toml").exists():
            raise Invalid(f"{folder} is of an earlier version, without sign-in; choose another --dir.")
        return Layout(folder, case, known["ports"], known["tokens"])
    ports = dict(zip(["service", *ehrs], _free_ports(1 + len(ehrs)), strict=True))
    tokens = {key: secrets.token_urlsafe(24) for key in (COORDINATOR, REVIEWER, *request["providers"])}
    layout = Layout(folder, case, ports, tokens)
    review = json.loads((case / "review.json").read_text("utf-8"))
    _private(folder / "tokens.toml", _token_file(tokens, request, review))
    _private(folder / "people.toml", _people_file(tokens, request, review))
    _private(folder / ACCOUNTS, "[accounts]\n")
    _private(folder / "secondop.toml", _config_file(layout, request, ehrs, database))
    # Last: a folder without it is laid out anew.
    partial = folder / "demo.json.part"
    _private(partial, json.dumps({"placer": request["placer"], "ports": ports, "tokens": tokens}, indent=1))
    partial.replace(kept)
    return layout


def _private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(text)


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def _token_file(tokens: dict[str, str], request: Plain, review: Plain) -> str:
    lines = ["# The demo's callers. Each is somebody; nobody acts without being someone.\n"]
    for key, token in tokens.items():
        user = ["user/*.rs", "user/ServiceRequest.u", "user/Task.u"]
        scopes = ["system/*.crus"] if key == COORDINATOR else user
        lines.append(
            f"[callers.{key}]\ntoken = {json.dumps(token)}\nscopes = {json.dumps(scopes)}\n"
            + _who(key, request, review)
        )
    return "\n".join(lines)


def _people_file(tokens: dict[str, str], request: Plain, review: Plain) -> str:
    lines = ["# Who may sign in to the demo's pages; the passwords are made anew at each start.\n"]
    lines += [f'[people.{key}]\nsubject = "{DEMO}{key}"\n' + _who(key, request, review) for key in tokens]
    return "\n".join(lines)


def _who(key: str, request: Plain, review: Plain) -> str:
    """Name, roles and parties of somebody, in TOML."""
    person = {REVIEWER: review["reviewer"], **request["providers"]}.get(key)
    roles = ["coordinator", "requester"] if person is None else ["reviewer"] if key == REVIEWER else ["provider"]
    name = name_of(person) if person else "Coordinator's desk"
    parties = [f"http://hl7.org/fhir/sid/us-npi|{person['npi']}"] if person and "npi" in person else []
    return f"name = {json.dumps(name)}\nroles = {json.dumps(roles)}\nparties = {json.dumps(parties)}\n"


def new_passwords(layout: Layout) -> dict[str, str]:
    """A new password for everybody of the demo; the file that the service reads gets their hashes only."""
    made = {key: secrets.token_urlsafe(9) for key in layout.tokens}
    hashes = "".join(f"{key} = {json.dumps(generate_password_hash(text, HASHED))}\n" for key, text in made.items())
    partial = layout.folder / f"{ACCOUNTS}.part"
    _private(partial, f"[accounts]\n{hashes}")
    partial.replace(layout.folder / ACCOUNTS)
    return made


def name_of(person: Plain) -> str:
    """The name of a provider of the plain JSON, as the service prints it."""
    return " ".join(part for part in (person.get("prefix", ""), *person.get("given", []), person["family"]) if part)


def _config_file(layout: Layout, request: Plain, ehrs: Plain, database: str) -> str:
    lines = [
        f"port = {layout.ports['service']}",
        f"database = {json.dumps(database or 'secondop.sqlite')}",
        'auth = "tokens"',
        'token_file = "tokens.toml"',
        'people_file = "people.toml"',
        f'demo_people = "{ACCOUNTS}"',
        "polling_s = 0.1",
    ]
    for key, ehr in ehrs.items():
        identifier = request["organizations"][key]["identifier"]
        base = ehr.get("base") or f"http://127.0.0.1:{layout.ports[key]}/fhir"
        lines += [
            "",
            f"[connections.{key}]",
            f"base = {json.dumps(base)}",
            f"organization = {json.dumps(identifier['system'] + '|' + identifier['value'])}",
            f"patient_system = {json.dumps(ehr['patientSystem'])}",
            "timeout_s = 5.0",
            "settle_s = 0.0",
            "rate_per_s = 0.0",
            f'vendor = "{VENDORS.get(ehr["shape"], "generic")}"',
            # The example's encounters stand still while the calendar goes on.
            "encounter_days = 36500",
        ]
    return "\n".join(lines) + "\n"


def people(layout: Layout) -> dict[str, Person]:
    """The scripted people, each with its token."""
    request = json.loads((layout.case / "request.json").read_text("utf-8"))
    review = json.loads((layout.case / "review.json").read_text("utf-8"))
    known = {REVIEWER: review["reviewer"], **request["providers"]}
    return {
        key: Person(name_of(known[key]) if key in known else "Coordinator's desk", layout.url, token)
        for key, token in layout.tokens.items()
    }


class Processes:
    """The demo's processes. `command` is how one of ours is started: by default this Python's own package."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.passwords: dict[str, str] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start_ehrs(self, quirks: Mapping[str, str] = MappingProxyType({})) -> None:
        """Starts every simulated EHR of the case, with one more quirk by name; one with a `base` of its own is
        somebody else's and runs already."""
        names = [name for name, ehr in self._ehrs().items() if "base" not in ehr]
        for name in names:
            self.begin_ehr(name, quirks.get(name, ""))
        for name in names:
            self.await_ehr(name)

    def begin_ehr(self, name: str, quirk: str = "") -> None:
        """Starts one of them; its data is what an earlier start has left."""
        ehr = self._ehrs()[name]
        command = ["sandbox", "ehr", "--shape", ehr["shape"], "--port", str(self._layout.ports[name]),
                   "--database", str(self._layout.folder / f"{name}.sqlite")]  # fmt: skip
        for each in [*ehr.get("quirks", []), *([quirk] if quirk else [])]:
            command += ["--quirk", each]
        for records in [ehr["records"]] if isinstance(ehr["records"], str) else ehr["records"]:
            command += ["--load", str(self._layout.case / records)]
        self._start(name, command)

    def await_ehr(self, name: str) -> None:
        """Waits until it answers."""
        self._ready(name, f"http://127.0.0.1:{self._layout.ports[name]}/healthz")

    def _ehrs(self) -> Plain:
        found: Plain = json.loads((self._layout.case / "ehrs.json").read_text("utf-8"))
        return found

    def kill(self, name: str) -> None:
        """Ends one process as a lost machine ends."""
        self._running[name].kill()
        self._running[name].wait()

    def start_service(self, workers: Sequence[str] = ()) -> None:
        """Starts the service, with new passwords for its pages, and waits until it can write; its worker is inside
        unless there are `workers` beside it."""
        self.passwords = new_passwords(self._layout)
        config = ["--config", str(self._layout.folder / "secondop.toml")]
        self._start("service", ["serve", *(["--no-work"] if workers else []), *config])
        self._ready("service", f"{self._layout.url}/readyz")
        for name in workers:
            self._start(name, ["work", "--name", name, *config])

    def _start(self, name: str, command: list[str]) -> None:
        with open(self._layout.folder / f"{name}.log", "ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", "fhir_secondop.cli", *command], stdout=log, stderr=log,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def _ready(self, name: str, url: str) -> None:
        ends = time.monotonic() + _START_S
        while time.monotonic() < ends:
            if self._running[name].poll() is not None:
                break
            try:
                # Whoever answers must be the process that was started, not one of an earlier start.
                if requests.get(url, timeout=2).json().get("pid") == self._running[name].pid:
                    return
            except requests.RequestException:
                pass
            time.sleep(0.05)
        raise Unavailable(f"{name} did not start; see {self._layout.folder / f'{name}.log'}.")

    def stop(self) -> None:
        """Ends every process, and waits for it."""
        for process in self._running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._running.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def running(
    layout: Layout, workers: Sequence[str] = (), quirks: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Processes]:  # fmt: skip
    """The demo's processes, ended on the way out; with these workers beside the service, and one quirk more by EHR."""
    processes = Processes(layout)
    # A terminal's stop must end the children too.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        processes.start_ehrs(quirks)
        processes.start_service(workers)
        yield processes
    finally:
        processes.stop()
        signal.signal(signal.SIGTERM, before)


def drive(layout: Layout, say: Callable[[str], None]) -> tuple[Plain, list[Plain]]:
    """Drives the whole story through the running processes; the board and the timeline."""
    story = Story(layout.case, people(layout), say)
    board = story.run()
    return board, story.timeline


@contextmanager
def driven(layout: Layout, say: Callable[[str], None]) -> Iterator[tuple[Processes, Plain, list[Plain]]]:
    """The demo after its story, while its processes go on: they, the board and the timeline."""
    with running(layout) as processes:
        yield processes, *drive(layout, say)


def run_to_end(layout: Layout, say: Callable[[str], None]) -> tuple[Plain, list[Plain]]:
    """Starts the processes, drives the story, stops them; the board and the timeline."""
    with driven(layout, say) as (_, board, timeline):
        return board, timeline
