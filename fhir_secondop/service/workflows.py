"""The durable workflows: DBOS journals each step, and a killed process goes on where it was.

Arguments and results are ids and counts, never patient data. A step may run twice; each is repeatable.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from fhir_secondop import meters, tracing
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.errors import Conflict
from fhir_secondop.service import (
    candidates,
    clocks,
    coverage,
    delivery,
    drift,
    ended,
    executors,
    gather,
    proposing,
    rounds,
    urgent,
    watches,
)
from fhir_secondop.service.context import Context
from fhir_secondop.service.delivering import orders
from fhir_secondop.service.memory import give_back_large_blocks
from fhir_secondop.service.repeated import Repeated
from fhir_secondop.service.requeue import Live, carry_on, requeue
from fhir_secondop.service.running import Running, Strays, is_outage
from fhir_secondop.service.takeover import GiveUp, TakeOver, live
from fhir_secondop.store.audit import origin
from fhir_secondop.store.database import Database, Transaction
from fhir_secondop.store.patience import connect_args

# DBOS is imported where it is used: it is a quarter of all imports and 24 MB, and only the process that works, or
# opens a case, has a use for it.
if TYPE_CHECKING:
    from dbos import DBOS, DBOSClient, DBOSConfig
    from dbos._client import EnqueueOptions

log = logging.getLogger(__name__)
APPLICATION = "fhir-secondop"
# Of the workflows, not of the program: raised when their steps change, so that none is resumed in the middle by other
# steps than it began with. A worker runs those of its own version (docs/scale.md).
VERSION = "1"
GATHER_RETRIES = 4
LOOKS_AT_ONCE = 2  # each holds the one write lock
AWAITED = (gather.WORKFLOW, orders.WORKFLOW)  # those whose end somebody may be waiting for
OTHERS_POLLING_S = 1.0  # at least: a look at a queue costs the same whether there is anything or not
ESCALATE_TRIES = 6


@dataclass(frozen=True, slots=True)
class Settings:
    """How much runs at once, counted over all workers. `polling_s` is how often an idle worker looks for what to gather
    and to deliver; for anything else every second, or as seldom as that.

    One record at a time is gathered from an EHR, itself in parallel; deliveries of one case and recipient keep their
    order by what their Tasks say, so several go at once: more than the EHR is asked at once (a connection's
    `concurrency`), since one that works on our side asks nobody. A worker runs `concurrency` of a kind at once. One
    that has not beaten for `lease_s` is gone for the others; one that stops waits `drain_s` for what it has begun.
    Workflows that have ended are kept for `keep_days`.
    """

    executor: str = "service"
    concurrency: int = 16
    lease_s: float = 10.0
    drain_s: float = 20.0
    keep_days: int = 30
    gatherings_per_ehr: int = 1
    deliveries_per_ehr: int = 8
    polling_s: float = 0.2


def enqueuer(database: Database) -> Callable[..., None]:
    """What `Context.enqueue` is: the workflow's row goes into the caller's own transaction.

    The DBOS client is made when it is first needed: its tables must be there by then.
    """
    clients: list[DBOSClient] = []

    def enqueue(tx: Transaction, workflow: str, key: str, partition: str, *args: str | int, delay_s: float = 0) -> None:
        if not clients:
            from dbos import DBOSClient

            clients.append(DBOSClient(system_database_engine=database.engine, application_name=APPLICATION, lazy=True))
        options: EnqueueOptions = {
            "workflow_name": workflow,
            "queue_name": workflow,
            "workflow_id": key,
            "queue_partition_key": partition,
            "app_version": VERSION,
        }
        if delay_s > 0:
            options["delay_seconds"] = delay_s
        trace = tracing.current()
        if trace is not None:  # the workflow goes on with it, whenever and wherever it runs
            options["otel_context"] = trace
        clients[0].enqueue_in_transaction(tx.connection, options, *args)

    return enqueue


def prepare(database: Database) -> None:
    """Makes DBOS's tables, or brings them to its version: who only serves writes into them, too."""
    with database.migrating():
        from dbos import DBOS

        DBOS.migrate(_url(database))


def is_prepared(database: Database) -> bool:
    """Whether there are DBOS's tables: the import of DBOS takes longer than this look."""
    schema = None if database.is_sqlite else "dbos"
    return sa.inspect(database.engine).has_table("workflow_status", schema=schema)


def _url(database: Database) -> str:
    return database.engine.url.render_as_string(hide_password=False)


def _configure(database: Database, settings: Settings, executor: str) -> None:
    from dbos import DBOS

    config: DBOSConfig = {
        "name": APPLICATION,
        "system_database_url": _url(database),
        "application_version": VERSION,
        "executor_id": executor,
        "log_level": "ERROR",  # each retry of a step would be a traceback; what is given up is said by us
        "use_listen_notify": False,
        "enable_otlp": tracing.is_on(),  # to the provider that `tracing` has made: what it keeps back, DBOS's has, too
        "otel_attribute_format": "semconv",
        **({} if database.is_sqlite else {"db_engine_kwargs": {"connect_args": connect_args(database.engine.url)}}),
        "notification_listener_polling_interval_sec": settings.polling_s,
    }
    DBOS(config=config)


CARRY_ON_S = 600.0
REQUEUE_S = 86_400.0  # due at once where nobody had a turn yet: after a restore the first worker makes the jobs


@contextmanager
def working(context: Context, settings: Settings) -> Iterator[Live]:
    """Works in this process, also on what others left unfinished; on the way out waits for what it has begun.

    What it could not end then goes on at another worker, or at the next start. Yields what tells which workflows there
    are.
    """
    from dbos import DBOS, DBOSClient

    give_back_large_blocks()
    database, running = context.database, Running()
    lease = executors.Lease(database, executors.started(settings.executor, VERSION, context.now()), settings.lease_s)
    prepare(database)  # one worker at a time: those that start together would make the same tables
    _configure(database, settings, lease.executor.id)
    _register(context, DBOS, running)
    lease.join()
    # Ended from the last to the first: nothing new is taken while what was begun ends, and the heart beats to the end.
    with ExitStack() as ending:
        ending.callback(lambda: lease.leave(clean=not running.number))
        # The heart alone in its thread: what takes long must not make it beat too late.
        _started(ending, Repeated("heart", lease.beat_s, lambda: lease.keep(context.now())))
        ending.callback(running.stop)
        DBOS.launch()
        ending.callback(
            lambda: DBOS.destroy(workflow_completion_timeout_sec=int(settings.drain_s) if running.number else 0)
        )
        register_queues(DBOS, settings)
        # Nor may it wait for the database within DBOS: it would go on too late when that is back.
        client = DBOSClient(
            system_database_engine=database.engine, application_name=APPLICATION, lazy=True,
            retry_connection_errors=False,
        )  # fmt: skip
        take_over = TakeOver(context, client, VERSION, _GIVE_UP)
        strays = Strays(client, lease.executor.id, running, settings.lease_s)

        def look() -> None:
            strays.look(time.monotonic())
            take_over.turn(lease.beat_s)

        take_over.resume()  # what an earlier start of this worker left goes on at once, whoever had the last turn
        _started(ending, Repeated("take-over", lease.beat_s, look))
        alive = partial(live, client)
        _started(ending, rounds.Rounds(context, (rounds.ALERTS,)))
        _started(ending, rounds.Rounds(context, (*_looks(client, alive, settings), *rounds.OTHERS)))
        ending.callback(lease.drain)
        yield alive


def _started(ending: ExitStack, thread: Repeated) -> None:
    thread.start()
    ending.callback(thread.stop)


def _looks(client: DBOSClient, alive: Live, settings: Settings) -> tuple[rounds.Round, ...]:
    """What is looked for regularly among the workflows."""
    return (
        rounds.Round("carry-on", CARRY_ON_S, lambda context: carry_on(context, alive)),
        rounds.Round("requeue", REQUEUE_S, lambda context: requeue(context, alive)),
        rounds.Round("ended-jobs", ended.EVERY_S, lambda context: ended.forget(context, client, settings.keep_days)),
    )


def register_queues(registry: type[DBOS] | DBOSClient, settings: Settings) -> None:
    """Tells DBOS of the queues, one for each kind of workflow, and how often a worker looks at each."""
    limits = {
        gather.WORKFLOW: settings.gatherings_per_ehr,
        orders.WORKFLOW: settings.deliveries_per_ehr,
        candidates.WORKFLOW: 1,
        coverage.WORKFLOW: 1,
        clocks.WORKFLOW: LOOKS_AT_ONCE,
        proposing.WORKFLOW: 1,
        urgent.WORKFLOW: 1,
        watches.WORKFLOW: 1,
    }
    for name, at_once in limits.items():
        polling_s = settings.polling_s if name in AWAITED else max(OTHERS_POLLING_S, settings.polling_s)
        registry.register_queue(
            name, partition_concurrency=at_once, worker_concurrency=settings.concurrency,
            polling_interval_sec=polling_s,
        )  # fmt: skip


_GIVE_UP: dict[str, GiveUp] = {
    orders.WORKFLOW: delivery.give_up, gather.WORKFLOW: gather.fail, coverage.WORKFLOW: coverage.fail,
    watches.WORKFLOW: drift.put_off,
}  # fmt: skip


def _register(context: Context, registry: type[DBOS], running: Running) -> None:
    """Tells what workflows there are to `registry`, which is DBOS."""

    def workflow(name: str) -> Callable[[Callable[..., str]], Callable[..., str]]:
        return lambda function: registry.workflow(name=name)(running.counted(function))

    def step(name: str, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        def recorded(*args: Any) -> Any:
            outcome = "failed"
            try:
                with origin.workflow(name):  # what the audit calls the route of what it writes
                    done = running.through_outages(function, *args)
                outcome = "done"
                return done
            finally:
                meters.steps.labels(name, outcome).inc()

        return registry.step(name=name, **options)(recorded)

    def retry(error: BaseException) -> bool:
        return isinstance(error, EhrFailure) and error.retryable

    retried: dict[str, Any] = {
        "retries_allowed": True, "max_attempts": GATHER_RETRIES, "interval_seconds": 1.0, "backoff_rate": 3.0,
        "should_retry": retry,
    }  # fmt: skip
    begin = step("gather.begin", lambda task, number: gather.begin(context, task, number), **retried)
    fetch = step("gather.fetch", lambda task, patient, number: gather.fetch(context, task, patient, number))
    merge = step("gather.merge", lambda task, patient, page, number: gather.merge(context, task, patient, page, number))
    fail = step("gather.fail", lambda task, why: gather.fail(context, task, why))
    later = step("gather.later", lambda task, number, why, wait: gather.later(context, task, number, why, wait))

    @workflow(gather.WORKFLOW)
    def gather_source(task_id: str, number: int = 1) -> str:
        try:
            begun = begin(task_id, number)
            if len(begun) == 1:
                return str(begun[0])
            patient, page = begun
            fetch(task_id, patient, number)
            merge(task_id, patient, page, number)
        except EhrFailure as failure:
            return str(later(task_id, number, failure.kind, failure.retry_after_s))
        except Exception as error:
            _not_of_an_outage(error)
            failure_kind = _given_up(error)
            if failure_kind:
                return str(later(task_id, number, failure_kind, 0.0))
            # Whatever it was: the source must not stay silent in the manifest. The type only, not the text.
            log.error("gathering %s failed: %s", task_id, type(error).__name__)
            fail(task_id, f"The record could not be read ({type(error).__name__}).")
            return "failed"
        return "gathered"

    attempt = step("deliver.attempt", lambda task, number: _attempted(context, task, number))
    give_up = step("deliver.give_up", lambda task, why, number: delivery.give_up(context, task, why, number))

    @workflow(orders.WORKFLOW)
    def deliver(task_id: str, number: int) -> str:
        try:
            return str(attempt(task_id, number))
        except Exception as error:
            _not_of_an_outage(error)
            # A fault of ours must not leave a delivery that nobody carries on: a person sees it on hold.
            log.error("delivering %s failed: %s", task_id, type(error).__name__)
            give_up(task_id, f"It failed on our side ({type(error).__name__}); replay it when that is mended.", number)
            return "on-hold"

    ask_payer = step("check-coverage.ask", lambda task: coverage.ask(context, task), **retried)
    payer_silent = step("check-coverage.fail", lambda task, why: coverage.fail(context, task, why))

    @workflow(coverage.WORKFLOW)
    def check_coverage(task_id: str) -> str:
        try:
            return str(ask_payer(task_id))
        except EhrFailure as failure:
            return str(payer_silent(task_id, f"the payer did not answer: {failure.kind}"))
        except Exception as error:
            _not_of_an_outage(error)
            why = _given_up(error)
            if not why:
                log.error("asking a payer for %s failed: %s", task_id, type(error).__name__)
            return str(payer_silent(task_id, f"the payer did not answer: {why}" if why else "it failed on our side"))

    expire = step("answer-by.expire", lambda task, number: candidates.expire(context, task, number))

    @workflow(candidates.WORKFLOW)
    def answer_by(task_id: str, number: int) -> str:
        return str(expire(task_id, number))

    age_out = step("proposal.age", lambda proposal, number: proposing.age_out(context, proposal, number))

    @workflow(proposing.WORKFLOW)
    def age_proposal(proposal_id: str, number: int) -> str:
        return str(age_out(proposal_id, number))

    look = step("clocks.look", lambda case_id, number: clocks.look(context, case_id, number))

    @workflow(clocks.WORKFLOW)
    def look_at_clocks(case_id: str, number: int) -> str:
        return str(look(case_id, number))

    look_again = step("drift.look", lambda task, number: drift.look(context, task, number))
    put_off = step("drift.put_off", lambda task, why, number: drift.put_off(context, task, why, number))

    @workflow(watches.WORKFLOW)
    def look_at_chart(task_id: str, number: int) -> str:
        try:
            return str(look_again(task_id, number))
        except Exception as error:
            _not_of_an_outage(error)
            # A fault of ours must not end the watch: the next look comes when it is due.
            log.error("looking at a chart for %s failed: %s", task_id, type(error).__name__)
            return str(put_off(task_id, f"it failed on our side ({type(error).__name__})", number))

    further = step(
        "escalate.step", lambda task, at, number: urgent.escalate(context, task, at, number),
        retries_allowed=True, max_attempts=ESCALATE_TRIES, interval_seconds=0.5, backoff_rate=2.0,
    )  # fmt: skip
    escalate_again = step("escalate.again", lambda task, at, number: urgent.again(context, task, at, number))

    @workflow(urgent.WORKFLOW)
    def escalate(task_id: str, at: int, number: int) -> str:
        try:
            return str(further(task_id, at, number))
        except Exception as error:
            _not_of_an_outage(error)
            # Nobody may wait for a call that is never asked for: it comes again until it is done.
            log.error("escalating %s failed: %s", task_id, type(error).__name__)
            return str(escalate_again(task_id, at, number))


def _not_of_an_outage(error: Exception) -> None:
    """Raises what a database that was away has done: the workflow ends in an error, and begins anew (`TakeOver.retry`).

    Put aside for a person, as what failed on our side is, each outage would leave work to people.
    """
    if is_outage(error):
        raise error


def _given_up(error: Exception) -> str:
    """What an EHR's failure was when even the retries of a step did not help; "" of any other error."""
    return "no answer after several tries" if type(error).__name__ == "DBOSMaxStepRetriesExceeded" else ""


def _attempted(context: Context, task_id: str, number: int) -> str:
    """An attempt that lost its Task to a concurrent change (an acknowledgement, say) looks again at once."""
    for _ in range(5):
        try:
            return delivery.attempt(context, task_id, number)
        except Conflict as error:
            if "changed meanwhile" not in error.message:
                raise
    return delivery.attempt(context, task_id, number)
