"""A service and workers on one database, each a process of its own, with a demo's EHRs behind proxies."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import requests
import sqlalchemy as sa

from fhir_secondop.errors import Unavailable
from fhir_secondop.sandbox import demo
from fhir_secondop.sandbox.story import Story
from fhir_secondop.store.database import normalised
from tests.scenarios.faults import Proxy

Plain = dict[str, Any]
EHRS = ("riverside", "lakeside")
SERVICE = "service"
STARTS_S = 60.0
PATIENCE_S = 240.0


class Cluster:
    """The processes. `workers` are the names of those beside the service; it works itself unless `serves` says no.

    `settings` are lines of the configuration; `code` is where a process finds another build of the program, and
    `program` what Python is told to run, `before` what stands before that. `on_the_way` is called before they start,
    `listens` is where the EHRs' proxies do.
    """

    def __init__(
        self, folder: Path, database: str, workers: tuple[str, ...], *, serves: tuple[str, ...] = ("serve",),
        settings: tuple[str, ...] = (), code: Mapping[str, Path] | None = None, timeout_s: float = 5.0,
        program: tuple[str, ...] = ("-m", "fhir_secondop.cli"), listens: str = "127.0.0.1",
        before: Mapping[str, tuple[str, ...]] | None = None, on_the_way: Callable[[Cluster], None] = lambda _: None,
    ) -> None:  # fmt: skip
        case = folder / "case"
        with demo.case_folder("breast-treatment-plan") as found:
            shutil.copytree(found, case)
        self.layout = demo.lay_out(folder / "demo", case, database)
        self.database = database or str(folder / "demo" / "secondop.sqlite")
        self.config = folder / "demo" / "secondop.toml"
        self.proxies = {name: Proxy(self.layout.ports[name], listens) for name in EHRS}
        text = self.config.read_text()
        for name, proxy in self.proxies.items():
            text = text.replace(f":{self.layout.ports[name]}/", f":{proxy.port}/")
        text = text.replace("timeout_s = 5.0", f"timeout_s = {timeout_s}")
        said = {line.partition("=")[0] for line in settings}
        kept = [line for line in text.splitlines() if line.partition("=")[0] not in said]
        self.config.write_text("\n".join([*settings, *kept, ""]))
        self._serves, self._code, self._program = serves, dict(code or {}), program
        self.before = dict(before or {})
        self.story = Story(case, demo.people(self.layout), lambda _: None)
        self._ehrs = demo.Processes(self.layout)
        self._ehrs.start_ehrs()
        self.lock = threading.RLock()
        self._over = threading.Event()
        self._keeper: threading.Thread | None = None
        on_the_way(self)
        self.processes = {name: self.spawned(name) for name in (SERVICE, *workers)}
        try:
            for name in self.processes:
                self.ready(name)
        except BaseException:
            self.close()
            raise

    def spawned(self, name: str) -> subprocess.Popen[bytes]:
        """A start of one of them, which may not be ready yet."""
        command = list(self._serves) if name == SERVICE else ["work", "--name", name]
        program = [*self.before.get(name, ()), sys.executable, *self._program]
        if name in self._code:
            first = f"import sys; sys.path.insert(0, {str(self._code[name])!r})"
            program = [sys.executable, "-c", f"{first}; from fhir_secondop.cli import main; main()"]
        with open(self.config.parent / f"{name}.log", "ab") as log:
            return subprocess.Popen(
                [*program, *command, "--config", str(self.config)],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def log(self, name: str) -> str:
        """What a process has said, over all its starts."""
        return (self.config.parent / f"{name}.log").read_text("utf-8", "replace")

    def ready(self, name: str) -> None:
        """Waits until the first start of a process takes requests, or works."""
        sign = "FHIR base" if name == SERVICE else f"{name} works"
        ends = time.monotonic() + STARTS_S
        while sign not in self.log(name):
            assert self.processes[name].poll() is None, f"{name} ended: {self.log(name)}"
            assert time.monotonic() < ends, f"{name} did not start: {self.log(name)}"
            time.sleep(0.05)

    def start(self, name: str) -> None:
        """One more process, or another start of one that has ended."""
        with self.lock:
            self.processes[name] = self.spawned(name)

    def signal(self, name: str, number: int) -> None:
        """Sends a signal to a process; one that kills is waited for."""
        self.processes[name].send_signal(number)
        if number == signal.SIGKILL:
            self.processes[name].wait()

    def supervise(self) -> None:
        """From now on whatever ends is started again at once, as an operator's supervisor would."""
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def _keep(self) -> None:
        while not self._over.wait(0.02):
            with self.lock:
                for name, process in self.processes.items():
                    if process.poll() is not None and not self._over.is_set():
                        self.start(name)

    def close(self) -> None:
        """Ends everything."""
        self._over.set()
        if self._keeper is not None:
            self._keeper.join()
        for process in self.processes.values():
            process.kill()
            process.wait()
        self._ehrs.stop()
        for proxy in self.proxies.values():
            proxy.close()

    def another(self, number: int) -> Story:
        """The same story of another request."""
        folder = self.story.folder.with_name(f"case-{number}")
        shutil.copytree(self.story.folder, folder)
        request = json.loads((folder / "request.json").read_text("utf-8"))
        request["placer"]["value"] += f"-{number}"
        (folder / "request.json").write_text(json.dumps(request), "utf-8")
        return Story(folder, self.story.people, lambda _: None)

    # ---- the story, whatever dies meanwhile

    def act(self, what: Callable[[], Any]) -> Any:
        """Does it; while the service is down it is done again."""
        ends = time.monotonic() + PATIENCE_S
        while True:
            try:
                return what()
            except (requests.RequestException, Unavailable):
                if time.monotonic() > ends:
                    raise
                time.sleep(0.1)

    def told(self, other: Story | None = None) -> Plain:
        """The whole story, the cluster's own or another; the board at its end."""
        story = other or self.story
        for act in (story.request, story.gathered, story.review, lambda: story.delivered("report"), story.respond,
                    story.plan_of_record):  # fmt: skip
            self.act(act)
        board: Plain = self.act(story.board)
        return board

    # ---- what is there

    def at(self, name: str, kind: str) -> list[Plain]:
        """The resources of one type at an EHR, asked past the proxy."""
        base = f"http://127.0.0.1:{self.layout.ports[name]}/fhir"
        url, found = f"{base}/{kind}?_count=200", []
        while url:
            bundle = requests.get(url, timeout=30).json()
            found += [e["resource"] for e in bundle.get("entry", [])]
            url = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), "")
        return found

    def copies(self, name: str, case_id: str) -> list[bytes]:
        """The content of each document at an EHR that carries the case's marks."""
        documents = [d for d in self.at(name, "DocumentReference") if f"case {case_id}" in d.get("description", "")]
        return [base64.b64decode(d["content"][0]["attachment"]["data"]) for d in documents]

    def ours(self, path: str) -> Plain:
        """An answer of the service to its coordinator."""
        headers = {"Authorization": f"Bearer {self.story.people['coordinator'].token}"}
        answer = self.act(lambda: requests.get(f"{self.layout.url}/fhir/{path}", headers=headers, timeout=60))
        assert answer.status_code == 200, answer.text
        plain: Plain = answer.json()
        return plain

    def rows(self, query: str) -> list[Any]:
        """Rows of the database; DBOS's tables are called dbos_…"""
        engine = sa.create_engine(normalised(self.database))
        sql = query.replace("dbos_", "" if engine.dialect.name == "sqlite" else "dbos.")
        try:
            with engine.connect() as connection:
                return list(connection.execute(sa.text(sql)))
        finally:
            engine.dispose()
