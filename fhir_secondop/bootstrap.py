"""Settings → engine, clients, hooks, workflows: the only place that picks real parts."""

from __future__ import annotations

import hmac
import logging
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from time import monotonic as monotonic_s

from werkzeug.wrappers import Request

from fhir_secondop.access import clients, issuer, rights, tokens
from fhir_secondop.config import Settings
from fhir_secondop.ehr import published
from fhir_secondop.ehr.client import Client
from fhir_secondop.ehr.second_stage import SecondStage
from fhir_secondop.errors import Invalid
from fhir_secondop.model import Caller, Operation
from fhir_secondop.opinion import case_events, clock_file, codes
from fhir_secondop.rest import published as operations_of_others
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.service import breaker, case_states, ledger, logs, operations, workflows, writable
from fhir_secondop.service.authority import Authority, ExternalAuthority, OwnAuthority, rings
from fhir_secondop.service.context import SERVICE, Context
from fhir_secondop.service.following import Followers
from fhir_secondop.service.hooks import CaseHooks
from fhir_secondop.service.settling import Settling
from fhir_secondop.store import reindex
from fhir_secondop.store.audit.audit import Audit
from fhir_secondop.store.case_events import Numbering
from fhir_secondop.store.database import Database, now_ms
from fhir_secondop.store.grants import Grants
from fhir_secondop.store.quota import Counted

CLIENT_TRIES = 4  # of a read: with pauses of 1, 3 and 9 seconds between
_SECURITY = {
    "tokens": "Bearer tokens from the operator's token file.",
    "smart": "SMART Backend Services; clients are registered by the operator.",
    "none": "None: loopback.",
}
# Single resources are stored as they are; a case is opened and moved by its operations, and nothing of it is deleted.
LOCAL = Caller("local", "Local caller", frozenset({"coordinator", "requester"}), ("system/*.cruds",))


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """The service, put together."""

    context: Context
    endpoint: Endpoint
    operations: tuple[Operation, ...]
    authenticate: Callable[[Request], Caller]
    key_files: tuple[Path, ...]
    settings: Settings
    followers: Followers
    systems: Authority | None = None
    """Who knows the systems that call, with auth=smart."""


def build(settings: Settings) -> Service:
    """The service of these settings; its tables are brought up to date, nothing is started."""
    log_to_stderr(settings.log_level, settings.log_format)
    return assembled(settings)


def _log_progress(done: int, whole: int) -> None:
    log.info("the index is made anew: %d of %d resources", done, whole)


def assembled(settings: Settings) -> Service:
    """The same for somebody who only looks at it: what this process logs stays as it is."""
    database = Database(settings.database, now=now_ms)
    database.migrate()
    base_url = f"{settings.public_url}/fhir"
    reindex.bring_up_to_date(database, base_url, _log_progress)
    database.numbering = Numbering(case_events.TELLS)
    ledger.make(database, SERVICE)
    database.audit = Audit(database, strict=settings.audit == "strict", now=now_ms)

    @cache
    def client(name: str) -> Client:
        return Client(settings.connections[name], now=now_ms, limits=Counted(database, now_ms), tries=CLIENT_TRIES)

    context = Context(
        database=database,
        base_url=base_url,
        public_url=settings.public_url,
        connections=settings.connections,
        client=client,
        enqueue=workflows.enqueuer(database),
        consent_policy=settings.consent_policy,
        blocked_labels=frozenset(filter(None, (label.strip() for label in settings.blocked_labels.split(",")))),
        link_secret=_link_secret(Path(settings.link_secret_file)),
        document_keys=Path(settings.document_keys_file),
        now=now_ms,
        settling=Settling(monotonic_s),
        contact=settings.contact,
        urgent_minutes=settings.escalation,
        same_organization=settings.same_organization,
        proposal_days=settings.proposal_days,
        drift_hours=settings.drift_hours,
        drift_days=settings.drift_days,
        checklists=Path(settings.checklists) if settings.checklists else None,
        clocks=clock_file.load(Path(settings.clocks)) if settings.clocks else clock_file.shipped(),
        alerts=settings.alerts,
        circuit=breaker.Policy(settings.circuit_failures, settings.circuit_pause_s, settings.circuit_longest_s),
    )
    case_states.make(context)
    table = operations.table(context)
    systems = _systems(settings, database) if settings.auth == "smart" else None
    authenticate = systems.caller if systems else _authenticator(settings)
    endpoint = Endpoint(
        xml=True,
        validates=True,
        page_key=hmac.digest(context.link_secret, b"pages", "sha256"),
        published=operations_of_others.CODES,
        database=database,
        base_url=base_url,
        software="fhir_secondop",
        authenticate=authenticate,
        visibility=context.visibility,
        allows=rights.allows,
        restrictions=rights.restrictions,
        hooks=CaseHooks(context),
        operations=table,
        limits=settings.limits,
        writable=writable.types(settings.writable_types),
        second_stage=second_stage(settings).examine,
        canonical=codes.CANONICAL,
        security=_SECURITY[settings.auth],
        smart=systems is not None,
    )
    return Service(context, endpoint, table, authenticate, _key_files(settings), settings, Followers(database), systems)


def second_stage(settings: Settings) -> SecondStage:
    """The validators of other guides' profiles; they rest, and are counted, in each process by itself."""
    return SecondStage(settings.validators.values(), now=now_ms)


def _key_files(settings: Settings) -> tuple[Path, ...]:
    """The files with our signing keys: the service's own, and those that connections name."""
    asked = [*settings.connections.values(), *(v.connection for v in settings.validators.values())]
    named = [settings.keys_file, *(c.key_file for c in asked if c.key_file)]
    return tuple(map(Path, dict.fromkeys(named)))


def _systems(settings: Settings, database: Database) -> Authority:
    """How systems sign in: at our own token endpoint, or at the issuer that is configured."""
    external = bool(settings.issuer)
    registry = clients.Registry(Path(settings.clients_file), rings(published.fetch, now_ms), need_keys=not external)
    if external:
        issuer.check(settings.issuer, settings.audience)
        fetch = partial(published.fetch, named_by=settings.issuer)
        return ExternalAuthority(issuer.Issuer(settings.issuer, settings.audience, fetch, registry.find, now_ms))
    token_url = f"{settings.public_url}/auth/token"
    return OwnAuthority(registry, Grants(database, now_ms), token_url, settings.token_s, now_ms)


def _authenticator(settings: Settings) -> Callable[[Request], Caller]:
    if settings.auth == "none":
        return lambda request: LOCAL
    path = Path(settings.token_file)
    if not path.exists():
        raise Invalid(
            f"There is no token file {path}. Make one, or start with --auth none on your own machine; "
            "docs/run.md has an example."
        )
    callers = tokens.load(path.read_text("utf-8"))
    return lambda request: tokens.caller_of(callers, request.headers.get("Authorization", ""))


def _link_secret(path: Path) -> bytes:
    """The key that signs acknowledgement links, made at the first start and kept."""
    if not path.exists():
        made = secrets.token_hex(32)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as handle:
            handle.write(made)
            handle.flush()
            os.fsync(handle.fileno())
        try:
            os.link(temporary, path)  # two starts at once: the first one's key stays
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return bytes.fromhex(path.read_text("utf-8").strip())


def log_to_stderr(level: str, form: str = "text") -> None:
    """Our log lines; other libraries only from warnings up, they may quote what they handle."""
    handler = logging.StreamHandler()
    handler.setFormatter(logs.formatter(form))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("fhir_secondop").setLevel(level.upper())
