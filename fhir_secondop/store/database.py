"""The engine, the migrations, and the two ways in: `reading` and `transaction`.

One writer at a time on either database: on SQLite a lock file between processes (its busy handler starves
waiters) and a turn within one, where those who wait share a commit (`store.commits`); on PostgreSQL the clock row.
That order is what makes `lastUpdated` rise strictly with commits, and what makes conditional creates free of races.
"""

from __future__ import annotations

import fcntl
import logging
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import resources as package_files
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as NoneFree

from fhir_secondop import meters
from fhir_secondop.errors import Unavailable
from fhir_secondop.model import Caller, Resource
from fhir_secondop.store import tables
from fhir_secondop.store.commits import Commits
from fhir_secondop.store.patience import STALLED_S, connect_args
from fhir_secondop.store.prepared import Prepared, compiled, each

if TYPE_CHECKING:
    from fhir_secondop.store.audit.audit import Audit
    from fhir_secondop.store.audit.batch import Batch
    from fhir_secondop.store.case_events import Numbering
    from fhir_secondop.store.resources import Stored

log = logging.getLogger(__name__)
# Built once: every write runs them.
_READ_CLOCK = Prepared(sa.select(tables.clock.c.at).with_for_update())


def _clock_for(stalled_s: float) -> Prepared:
    """The same on PostgreSQL, where with it goes for how long the transaction may then be left alone."""
    end = sa.func.set_config("idle_in_transaction_session_timeout", str(int(1000 * stalled_s)), sa.true())
    return Prepared(sa.select(tables.clock.c.at, end.label("stalled")).with_for_update())


_READ_CLOCK_FOR = _clock_for(STALLED_S)
_LOOK_AT_CLOCK = sa.select(tables.clock.c.at)
_SET_CLOCK = Prepared(sa.update(tables.clock).values(at=sa.bindparam("to")))
_READ_ONLY_OR_ENDED = ("25006", "25P03")  # read_only_sql_transaction, idle_in_transaction_session_timeout
_BEGIN, _BEGIN_WRITING = Prepared(sa.text("BEGIN")), Prepared(sa.text("BEGIN IMMEDIATE"))


def now_ms() -> int:
    """The wall clock in milliseconds since 1970; the one place that reads it for rows."""
    return time.time_ns() // 1_000_000


def is_away(error: BaseException) -> bool:
    """Whether it is the database that can't do it now: gone, full, being started, or a standby that takes no writes."""
    if isinstance(error, OperationalError | InterfaceError | NoneFree):
        return True
    if isinstance(error, PendingRollbackError):
        return error.code == "8s2b"  # of a connection that broke: https://docs.sqlalchemy.org/en/20/errors.html
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or getattr(error.orig, "sqlstate", None) in _READ_ONLY_OR_ENDED
    return False


@dataclass(frozen=True, slots=True)
class Change:
    """One resource that a transaction wrote: what `within` looks at before the commit."""

    interaction: str  # create, update, delete
    type: str
    id: str
    version: int
    case_id: str | None = None
    resource: Resource | None = field(default=None, compare=False, repr=False)  # as it was written, with its id
    written: Stored | None = field(default=None, compare=False, repr=False)
    before: Stored | None = field(default=None, compare=False, repr=False)  # the version before, of an update


@dataclass(frozen=True, slots=True)
class Admission:
    """That somebody may see a case from now on, another part of it or for another time, or no more."""

    interaction: str  # create, update, delete
    case_id: str
    party: str
    part: str
    until: int | None  # ms since 1970; None: without end


@dataclass(slots=True)
class Transaction:
    """A write transaction of one caller. `changes` grows as resources are written, `bulk` counts by (type, case) those
    that nobody looks at one by one, `admissions` are what it changed of who sees which case.
    """

    connection: Connection
    caller: Caller
    _last_ms: int
    _now: Callable[[], int]
    changes: list[Change] = field(default_factory=list)
    bulk: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    admissions: list[Admission] = field(default_factory=list)
    began: int = field(init=False)  # the `last_write` before it

    def __post_init__(self) -> None:
        self.began = self._last_ms

    def tick(self) -> int:
        """The next `lastUpdated`, in ms; later than every earlier one of this database."""
        self._last_ms = max(self._last_ms + 1, self._now())
        return self._last_ms


def last_write(connection: Connection) -> int:
    """The `lastUpdated` that was given last, in the snapshot of a connection: while it is the same, so is every
    resource.
    """
    ((at,),) = each(connection, compiled(_LOOK_AT_CLOCK, connection.dialect), {})
    return int(at)


def normalised(url: str) -> str:
    """A database URL as SQLAlchemy wants it: a bare path is SQLite, postgresql means psycopg 3."""
    if "://" not in url:
        return f"sqlite:///{Path(url).absolute()}"
    if url.startswith(("postgres://", "postgresql://")):
        return "postgresql+psycopg://" + url.split("://", 1)[1]
    return url


class Database:
    """One SQLite file or one PostgreSQL database."""

    def __init__(self, url: str, *, pool_size: int = 16, now: Callable[[], int] = now_ms) -> None:
        self.url = normalised(url)
        self._now = now
        parsed = make_url(self.url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self._thread_lock = threading.Lock()
        self._commits = Commits(self._begin)
        self.audit: Audit | None = None  # the service's own database has one; a simulated EHR's has none
        # Of a process that works: whether it may still write for this caller, or others have taken its work over.
        self.fence: Callable[[Connection, Caller], None] | None = None
        self.numbering: Numbering | None = None  # the events of cases; just as the audit
        self._lock_path = f"{parsed.database}.lock" if self.is_sqlite else ""
        options: dict[str, Any] = {"pool_size": pool_size, "max_overflow": pool_size}
        if self.is_sqlite:
            options["connect_args"] = {"timeout": 60, "check_same_thread": False}
        else:
            options["connect_args"] = connect_args(parsed)
            options["pool_pre_ping"] = True  # a server may have gone meanwhile; a file does not
        self.engine: Engine = sa.create_engine(self.url, **options)
        if self.is_sqlite:
            _prepare_sqlite(self.engine)

    def migrate(self, to: str = "") -> None:
        """Brings the schema to this version's, or `to` an earlier one; safe when several processes start at once.

        That of a later version is left as it is: migrations add, and this one may run beside it while it is replaced.
        """
        with self.migrating() as connection:
            found = revision(connection)
            if not to and found > newest():
                log.warning("the database is of a later version (%s) than this program (%s)", found, newest())
            elif found != (to or newest()):
                _upgrade(connection, to or "head")

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """Held by the one process that changes tables."""
        with self._write_lock(), self.engine.connect() as connection:
            if not self.is_sqlite:
                # Asked again and again, not waited for: an index that is made beside writers (DBOS makes such) waits
                # for every statement that had begun before, and one that waits for this lock is such a statement.
                while not connection.execute(sa.text("SELECT pg_try_advisory_lock(20261123)")).scalar_one():
                    connection.rollback()
                    time.sleep(0.1)
                connection.commit()
            try:
                yield connection
                connection.commit()
            finally:
                if not self.is_sqlite:
                    connection.rollback()
                    connection.execute(sa.text("SELECT pg_advisory_unlock(20261123)"))
                    connection.commit()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection for reading: one snapshot, never waiting for writers."""
        with self.engine.connect() as connection:
            if not self.is_sqlite:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            try:
                yield connection
            finally:
                self._let_go(connection)

    def _let_go(self, connection: Connection) -> None:
        """Ends what was read. A connection that broke since is put away: what was read, was read, and else the pool
        would try to roll it back, and log that it could not.
        """
        try:
            connection.rollback()
            if not (self.is_sqlite or connection.invalidated):
                # SQLAlchemy knows nothing of a transaction that only statements of ours were in (`prepared`).
                driver: Any = connection.connection.driver_connection
                driver.rollback()
        except (DBAPIError, connection.dialect.loaded_dbapi.Error) as error:
            log.debug("a connection broke after it was read from", exc_info=True)
            connection.invalidate(error)

    @contextmanager
    def one_statement(self) -> Iterator[Any]:
        """The driver's own connection, for one statement that reads: a transaction in itself."""
        pooled = self.engine.raw_connection()
        driver: Any = pooled.driver_connection
        try:
            if self.is_sqlite:
                yield driver
                return
            driver.autocommit = True  # else BEGIN and ROLLBACK go to the server and back, each alone
            yield driver
            driver.autocommit = False  # as the next one from the pool expects it
        except BaseException:
            pooled.invalidate()
            raise
        finally:
            pooled.close()

    @contextmanager
    def transaction(self, caller: Caller) -> Iterator[Transaction]:
        """A write transaction: all of it is durable on leaving, or nothing of it. No network inside."""
        began = time.perf_counter()
        with self._commits.writing() as shared:
            connection, batch = shared.connection, shared.batch
            ((at, *_),) = (_READ_CLOCK if self.is_sqlite else _READ_CLOCK_FOR).all(connection)
            meters.write_wait_seconds.observe(time.perf_counter() - began)
            if self.fence is not None:
                self.fence(connection, caller)
            transaction = Transaction(connection, caller, at, self._now)
            yield transaction
            if self.numbering is not None:
                self.numbering.write(transaction)
            if transaction._last_ms != transaction.began:
                _SET_CLOCK.run(connection, to=transaction._last_ms)
            if batch is not None:
                batch.add(transaction)

    @contextmanager
    def appending(self) -> Iterator[Connection]:
        """A write transaction for rows that are nobody's resources: it does not wait for the clock."""
        if self.is_sqlite:
            with self._commits.writing() as shared:
                yield shared.connection
            return
        # Alone: what locks rows of different tables in different order must not hold any for others.
        with ExitStack() as held:
            connection, _ = self._begin(held)
            with connection.begin():
                yield connection

    def _begin(self, held: ExitStack) -> tuple[Connection, Batch | None]:
        """A connection to write on, with what is held meanwhile; its transaction has not begun."""
        held.enter_context(self._write_lock())
        connection = held.enter_context(self.engine.connect()).execution_options(secondop_write=True)
        return connection, self.audit.batch() if self.audit is not None else None

    @contextmanager
    def alone(self, executor: str = "service") -> Iterator[None]:
        """Held by the one process that works under this name on this database. Raises Unavailable when it is held.

        The lock goes with the process, however it ends.
        """
        taken = Unavailable(
            "Another service works on this database; stop it first, start this one with --no-work, or name another "
            "--database."
            if executor == "service"
            else f"Another worker is called {executor}; give this one another --name."
        )
        number = 20261124 + zlib.crc32(executor.encode()) if executor != "service" else 20261124
        if self.is_sqlite:
            with open(f"{self._lock_path}.{executor}", "a") as handle:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise taken from error
                yield
            return
        with self.engine.connect() as connection:
            ends = time.monotonic() + 10  # a killed one's session may take a moment to end
            while not connection.execute(sa.text(f"SELECT pg_try_advisory_lock({number})")).scalar_one():
                connection.rollback()
                if time.monotonic() > ends:
                    raise taken
                time.sleep(0.2)
            connection.commit()
            yield

    def dispose(self) -> None:
        """Writes what the audit still holds, and closes every pooled connection."""
        if self.audit is not None:
            self.audit.close()
        self.engine.dispose()

    @contextmanager
    def _write_lock(self) -> Iterator[None]:
        if not self.is_sqlite:
            yield
            return
        with self._thread_lock, open(self._lock_path, "a") as handle:
            _lock(handle)
            yield


def newest() -> str:
    """The number of the newest migration."""
    scripts = package_files.files("fhir_secondop.store") / "migrations" / "versions"
    return max(each.name[1:5] for each in scripts.iterdir() if each.name.startswith("v"))


def revision(connection: Connection) -> str:
    """The number of the migration that the tables are of; "" where there are none."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return ""
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one_or_none() or ""


def _upgrade(connection: Connection, to: str) -> None:
    # Imported here: 0.2 s and 9 MB, which a start with nothing to do has no use for.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(package_files.files("fhir_secondop.store") / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, to)


def _lock(handle: IO[str]) -> None:
    # Released by closing, and by the kernel when the process is killed.
    fcntl.flock(handle, fcntl.LOCK_EX)


class _SqliteCompiler(SQLiteCompiler):
    """SQLAlchemy's leaves hints out: INDEXED BY stands behind the table."""

    def get_from_hint_text(self, table: sa.FromClause, text: str | None) -> str | None:
        """The hint of a table."""
        return text


def _prepare_sqlite(engine: Engine) -> None:
    engine.dialect.statement_compiler = _SqliteCompiler

    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=60000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        # A deferred transaction that turns into a writer can fail at once with SQLITE_BUSY; an immediate one waits.
        write = connection.get_execution_options().get("secondop_write")
        (_BEGIN_WRITING if write else _BEGIN).run(connection)
