"""The service in this process with simulated EHRs behind it: each a real HTTP server in a thread, whose requests are
kept, whose answers can be replaced or cut off, and whose store is looked into past our own client.

Its workflows are the real ones; who runs them is `World.work`, by a clock that a test can set ahead.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pypdf
import pytest
import sqlalchemy as sa
from werkzeug.wrappers import Request, Response

from fhir_secondop import bootstrap
from fhir_secondop.config import Settings
from fhir_secondop.fhir import codec
from fhir_secondop.model import EVERYTHING, Caller, Connection, Resource
from fhir_secondop.rest.transaction import entries_of
from fhir_secondop.sandbox import ehr as ehrs
from fhir_secondop.sandbox.signin import VISITOR
from fhir_secondop.sandbox.traffic import Asked, hang_up
from fhir_secondop.service import clocks, proposing, watches, workflows
from fhir_secondop.store import bundles, resources, tables
from fhir_secondop.store.database import Database, normalised, now_ms
from fhir_secondop.web.app import create
from tests.conftest import free_port, migrated_file
from tests.service.conftest import TOKENS
from tests.service.test_review import example

Plain = dict[str, Any]
JSON = "application/fhir+json"
NPI = "http://hl7.org/fhir/sid/us-npi"
DAY_MS = 86_400_000
EXAMPLES = Path(__file__).parent.parent.parent / "examples"
RECORDS = EXAMPLES / "breast-treatment-plan/records"
SURGEON = """
[callers.surgeon]
name = "Dr. Harlan Mockridge"
token = "surgeon"
roles = ["provider"]
scopes = ["user/*.rs", "user/ServiceRequest.u", "user/Task.u"]
parties = ["http://hl7.org/fhir/sid/us-npi|9000000112"]
"""


def record_of(name: str) -> list[Resource]:
    """The resources of one EHR of the breast example."""
    bundle = json.loads((RECORDS / f"{name}.json").read_text("utf-8"))
    return [entry["resource"] for entry in bundle["entry"]]


def refusal(status: int, code: str = "exception", *, element: str = "", own: str = "", **headers: str) -> Response:
    """An answer that refuses, with an OperationOutcome that names an element, or a vendor's code."""
    issue: Plain = {"severity": "error", "code": code}
    if element:
        issue["expression"] = [element]
    if own:
        issue["details"] = {"coding": [{"code": own}]}
    body = json.dumps({"resourceType": "OperationOutcome", "issue": [issue]})
    return Response(body, status, mimetype=JSON, headers={k.replace("_", "-"): v for k, v in headers.items()})


def nothing_found() -> Response:
    """An empty searchset."""
    return Response(json.dumps({"resourceType": "Bundle", "type": "searchset"}), 200, mimetype=JSON)


class Ehr:
    """One simulated EHR. `seen` are the requests that reached it; `instead` may answer one in its place.

    `cut` says of a request that the EHR has answered whether the answer is lost.
    """

    def __init__(self, name: str, shape: str, quirks: Sequence[str], database: Database) -> None:
        self.name = name
        self.seen: list[Asked] = []
        self.instead: Callable[[Asked], Response | None] = lambda asked: None
        self.cut: Callable[[Asked], bool] = lambda asked: False
        self.database = database
        port = free_port()
        self.base = f"http://127.0.0.1:{port}/fhir"
        app = ehrs.build(shape, database, self.base, quirks)
        app.wsgi_app = self._watched(app.wsgi_app)  # type: ignore[method-assign]
        self._server = ehrs.server(app, port)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def _watched(self, app: Any) -> Any:
        def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            asked = Asked(environ)
            self.seen.append(asked)
            answer = self.instead(asked) or Response.from_app(app, environ, buffered=True)
            if self.cut(asked):
                hang_up(asked)
            return answer(environ, start_response)

        return application

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.database.dispose()

    # ---- what reached it

    def asked(self, kind: str, resource_type: str = "") -> list[Asked]:
        """The requests of that kind ("search", "read", "create", "transaction" …), of that type."""
        return [a for a in self.seen if a.kind == kind and resource_type in ("", a.type)]

    @property
    def written(self) -> list[Asked]:
        """The requests that write."""
        return [a for a in self.seen if a.writes]

    # ---- what it holds, past HTTP and quirks

    def held(self, *kinds: str) -> list[Resource]:
        """Its resources of these types, oldest first; of all types when none is named."""
        with self.database.reading() as connection:
            query = resources.rows().where(tables.resource.c.deleted.is_(False))
            if kinds:
                query = query.where(tables.resource.c.type.in_(kinds))
            return [resources.stored(row).resource for row in connection.execute(query.order_by(tables.resource.c.rid))]

    def rows(self) -> int:
        """How many versions of anything it holds."""
        with self.database.reading() as connection:
            count: int = connection.execute(sa.select(sa.func.count()).select_from(tables.version)).scalar_one()
        return count

    def put(self, resource: Resource) -> None:
        """Somebody over there writes a resource."""
        with self.database.transaction(VISITOR) as tx:
            _store(tx, [resource])

    @property
    def documents(self) -> list[Resource]:
        """The DocumentReferences of a case of ours."""
        return [r for r in self.held("DocumentReference") if "case" in r.get("description", "")]

    @property
    def reports(self) -> list[Resource]:
        """The DiagnosticReports of a case of ours."""
        return [r for r in self.held("DiagnosticReport") if _is_ours(r)]


def _is_ours(report: Resource) -> bool:
    """Whether a DiagnosticReport is a second opinion, and no report of the record."""
    return any(coding.get("code") == "47040-1" for coding in report["code"].get("coding", []))


def _store(tx: Any, found: Iterable[Resource]) -> None:
    entries = [{"resource": r, "request": {"method": "PUT", "url": f"{r['resourceType']}/{r['id']}"}} for r in found]
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    text = json.dumps(bundle)
    parsed = entries_of(codec.parse(text), text)
    bundles.apply(tx, parsed, visibility=EVERYTHING, base_url="http://127.0.0.1/fhir", update_creates=True)


@cache
def _templates() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="secondop-ehrs-")


@cache
def _filled(text: str) -> Path:
    """A database file with that record in it, ten days old: made once, copied for each EHR."""
    path = Path(_templates().name) / f"{abs(hash(text)):x}.sqlite"
    shutil.copy(migrated_file(), path)
    database = Database(str(path))
    with database.transaction(VISITOR) as tx:
        _store(tx, json.loads(text))
    with database.engine.begin() as connection:
        for table in (tables.resource, tables.version):
            connection.execute(sa.update(table).values(updated=table.c.updated - 10 * DAY_MS))
    database.dispose()  # the last connection writes everything into the one file
    return path


@dataclass
class Clock:
    """The service's clock, as far ahead of the real one as a test wants it; somebody has set it wrong by `wrong_ms`."""

    ahead_ms: int = 0
    wrong_ms: int = 0

    def __call__(self) -> int:
        return now_ms() + self.ahead_ms + self.wrong_ms

    def monotonic_s(self) -> float:
        return (now_ms() + self.ahead_ms) / 1000

    def forward(self, seconds: float) -> None:
        self.ahead_ms += int(seconds * 1000)


@dataclass
class Job:
    """A workflow that was enqueued, due at `at` (ms)."""

    workflow: str
    key: str
    partition: str
    args: tuple[Any, ...]
    at: int


class _Registry:
    """Stands in for DBOS where the workflows are registered: each is kept as the plain function that it is."""

    def __init__(self) -> None:
        self.found: dict[str, Callable[..., str]] = {}

    def step(self, name: str, **options: Any) -> Callable[[Any], Any]:
        return lambda function: function

    def workflow(self, name: str) -> Callable[[Any], Any]:
        def keep(function: Any) -> Any:
            self.found[name] = function
            return function

        return keep


class _Unexpected:
    """Where a workflow logs a fault of ours: here it is the test's failure."""

    def error(self, *said: Any) -> None:
        raise


@dataclass
class World:
    """The service and its EHRs by name. `jobs` are the workflows that wait; a key is taken once, as DBOS does."""

    folder: Path
    database_url: str
    monkeypatch: pytest.MonkeyPatch
    clock: Clock = field(default_factory=Clock)
    ehrs: dict[str, Ehr] = field(default_factory=dict)
    connections: dict[str, Connection] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        file = sa.engine.make_url(normalised(self.database_url)).database
        if self.database_url.startswith("sqlite") and file and not Path(file).exists():
            shutil.copy(migrated_file(), file)
        (self.folder / "tokens.toml").write_text(TOKENS + SURGEON)
        self.monkeypatch.setattr(workflows, "enqueuer", lambda database: self._enqueue)
        self.monkeypatch.setattr(bootstrap, "now_ms", self.clock)
        self.monkeypatch.setattr(bootstrap, "monotonic_s", self.clock.monotonic_s)
        self.monkeypatch.setattr(bootstrap, "CLIENT_TRIES", 1)  # its pauses are the client's own tests' business
        self.start()

    def start(self) -> None:
        """Puts the service together; again is a restart on the same database, where the one before has ended."""
        if hasattr(self, "context"):
            self.context.database.dispose()
        settings = Settings(
            database=self.database_url, auth="tokens", token_file=str(self.folder / "tokens.toml"),
            log_level="CRITICAL",
            link_secret_file=str(self.folder / "link-secret"),
            document_keys_file=str(self.folder / "document-keys.json"), connections=self.connections,
        )  # fmt: skip
        self.service = bootstrap.build(settings)
        self.context = self.service.context
        self.client = create(self.service).test_client()
        registry: Any = _Registry()
        self.monkeypatch.setattr(workflows, "log", _Unexpected())
        workflows._register(self.context, registry, workflows.Running())
        self.workflows = registry.found

    def close(self) -> None:
        for one in self.ehrs.values():
            one.close()
        self.context.database.dispose()

    def _enqueue(self, tx: Any, workflow: str, key: str, partition: str, *args: Any, delay_s: float = 0) -> None:
        if key not in self.keys:
            self.keys.add(key)
            self.jobs.append(Job(workflow, key, partition, args, self.clock() + int(delay_s * 1000)))

    @property
    def outgoing(self) -> list[Job]:
        """The jobs that carry something on; a look at clocks or dates asks nobody, one at a chart comes by itself."""
        looks = (clocks.WORKFLOW, proposing.WORKFLOW, watches.WORKFLOW)
        return [job for job in self.jobs if job.workflow not in looks]

    # ---- the parts

    def ehr(
        self, name: str, shape: str = "full", *quirks: str, record: Sequence[Resource] | None = None, **settings: Any
    ) -> Ehr:
        """Starts the EHR of that organization of the example, and connects it. Its record is the example's."""
        text = json.dumps(record_of(name) if record is None else list(record))
        path = self.folder / f"{name}-{len(self.ehrs)}.sqlite"
        shutil.copy(_filled(text), path)
        made = Ehr(name, shape, quirks, Database(str(path), pool_size=4))
        self.ehrs[name] = made
        self.connect(name, made.base, **settings)
        return made

    def connect(self, name: str, base: str, **settings: Any) -> None:
        """A connection to the EHR of that organization of the example, or (with `organization`) of another."""
        organizations = example("request.json")["organizations"]
        if name in organizations:
            settings.setdefault("organization", f"{NPI}|{organizations[name]['identifier']['value']}")
            settings.setdefault("patient_system", f"https://{name}.example/mrn")
        whole = {"rate_per_s": 0.0, "settle_s": 0.0, "timeout_s": 5.0, "encounter_days": 36500, **settings}
        self.connections[name] = Connection(name, base, **whole)

    def work(self, patience_s: float = 0.0, limit: int = 100) -> list[str]:
        """Runs what is due, then sets the clock ahead to what is due within `patience_s`; what came of each."""
        said: list[str] = []
        ends = self.clock() + int(patience_s * 1000)
        while self.jobs and len(said) < limit:
            job = min(self.jobs, key=lambda j: j.at)
            if job.at > max(self.clock(), ends):
                break
            self.clock.forward(max(0.0, (job.at - self.clock()) / 1000))
            self.jobs.remove(job)
            said.append(self.workflows[job.workflow](*job.args))
        return said

    # ---- the case

    def call(self, method: str, path: str, body: Any = None, who: str = "desk") -> Any:
        """One request; FHIR JSON below /fhir, JSON elsewhere."""
        kind = JSON if path.startswith("/fhir") else "application/json"
        return self.client.open(path, method=method, json=body, content_type=kind if body is not None else None,
                                headers={"Authorization": f"Bearer {who}"})  # fmt: skip

    def caller(self, who: str) -> Caller:
        """The caller with that token."""
        return self.service.authenticate(Request({"HTTP_AUTHORIZATION": f"Bearer {who}"}))

    def post(self, case_id: str, code: str, body: Plain | None = None, who: str = "desk", status: int = 0) -> Plain:
        """One operation of the case. It must succeed, or answer `status`."""
        answer = self.call("POST", f"/api/second-opinions/{case_id}/{code}", body or {}, who)
        expected = [status] if status else [200, 201, 202]
        assert answer.status_code in expected, answer.get_data(as_text=True)
        plain: Plain = answer.get_json()
        return plain

    def get(self, case_id: str, code: str = "", who: str = "desk") -> Plain:
        """One reading operation of the case, or the case itself."""
        answer = self.call("GET", f"/api/second-opinions/{case_id}" + (f"/{code}" if code else ""), who=who)
        assert answer.status_code == 200, answer.get_data(as_text=True)
        plain: Plain = answer.get_json()
        return plain

    def open(self, **changes: Any) -> str:
        """Opens a case of the example; `changes` replace members of its request. Nothing is gathered yet."""
        answer = self.call("POST", "/api/second-opinions", {**example("request.json"), **changes})
        assert answer.status_code == 201, answer.get_data(as_text=True)
        case_id: str = answer.get_json()["id"]
        return case_id

    def gathered(self, **changes: Any) -> str:
        """A case whose sources have answered."""
        case_id = self.open(**changes)
        self.work()
        return case_id

    def accept(self, case_id: str) -> None:
        """The reviewer takes the case."""
        self.post(case_id, "ask-reviewer", {"reviewer": example("review.json")["reviewer"]})
        self.post(case_id, "accept", {"declaration": {"interests": "none"}}, "reviewer")

    def sign(self, case_id: str) -> None:
        """The reviewer takes the case, drafts, and signs with every gap confirmed. Nothing is delivered yet."""
        self.accept(case_id)
        self.draft(case_id, self.get(case_id, "completeness")["gaps"])
        self.post(case_id, "sign", who="reviewer")

    def draft(self, case_id: str, gaps: list[str]) -> None:
        draft = {**example("review.json")["draft"], "gapsConfirmed": gaps}
        self.post(case_id, "submit-report", draft, "reviewer")

    def signed(self, **changes: Any) -> str:
        """A case that was gathered and signed; nothing is delivered yet."""
        case_id = self.gathered(**changes)
        self.sign(case_id)
        return case_id

    def amend(self, case_id: str, kind: str = "amended", reason: str = "A dose was wrong.") -> None:
        """The reviewer signs the next version."""
        changes = {"conclusion": f"{reason} The rest stands."}
        self.post(case_id, "amend-report", {"kind": kind, "reason": reason, "changes": changes}, "reviewer")
        self.post(case_id, "sign", who="reviewer")

    def package(self, case_id: str, *kinds: str, who: str = "desk") -> list[Resource]:
        """The case's resources of these types, or all, as that caller sees them."""
        package = self.call("GET", f"/fhir/ServiceRequest/{case_id}/$package", who=who).get_json()
        found = [e["resource"] for e in package["entry"]]
        return [r for r in found if not kinds or r["resourceType"] in kinds]

    def deliveries(self, case_id: str, to: str = "", version: int = 0, what: str = "report") -> list[Plain]:
        """The case's deliveries as its status shows them; `to` is a part of the recipient's name."""
        return [
            d for d in self.get(case_id)["deliveries"]
            if to in d["to"] and version in (0, d["version"]) and d["what"] == what
        ]  # fmt: skip

    def delivery(self, case_id: str, to: str, version: int = 1, what: str = "report") -> Plain:
        """The one delivery of that version to that recipient."""
        (found,) = self.deliveries(case_id, to, version, what)
        return found

    def manifest(self, case_id: str, source: str) -> dict[str, Plain]:
        """The lines of a source's manifest by type; `source` is the beginning of its name."""
        sources = self.get(case_id, "manifest")["sources"]
        (found,) = [s for s in sources if s["source"].startswith(source)]
        return {line["type"]: line for line in found["types"]}

    def pdf(self, case_id: str) -> str:
        """The text of the signed PDF, its white space folded."""
        report = next(r for r in self.package(case_id, "DiagnosticReport") if _is_ours(r))
        (data,) = [f["data"] for f in report["presentedForm"] if f["contentType"] == "application/pdf"]
        pages = pypdf.PdfReader(io.BytesIO(base64.b64decode(data))).pages
        return " ".join(" ".join(page.extract_text() for page in pages).split())


def readable(world: World, case_id: str, who: str) -> str:
    """The text of all that somebody can read of a case: each row that the store shows, its history, each answer."""
    found = [world.call("GET", f"/fhir/ServiceRequest/{case_id}/$package", who=who).get_data(as_text=True)]
    for code in ("", "/manifest", "/completeness", "/requests", "/alignment", "/package"):
        found.append(world.call("GET", f"/api/second-opinions/{case_id}{code}", who=who).get_data(as_text=True))
    for kind in ("Binary", "List", "Provenance", "Task", "Observation", "Patient"):
        found.append(world.call("GET", f"/fhir/{kind}?_count=200", who=who).get_data(as_text=True))
    visibility = world.context.visibility(world.caller(who))
    shown = resources.rows(visibility).where(resources.visible(visibility))
    with world.context.database.reading() as connection:
        for stored in [resources.stored(row, visibility) for row in connection.execute(shown)]:
            for version in resources.history(connection, visibility, stored.type, stored.id):
                found.append(version.text)
                if stored.type == "Binary" and not version.deleted:
                    found.append(base64.b64decode(version.resource.get("data", "")).decode("utf-8", "replace"))
    return "\n".join(found)


@contextmanager
def opened(folder: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world without EHRs yet."""
    made = World(folder, database_url, monkeypatch)
    try:
        yield made
    finally:
        made.close()
