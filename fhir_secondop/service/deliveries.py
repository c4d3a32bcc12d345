"""Deliveries over all cases, for who operates and who coordinates: found, looked into, and tried again many at once.

An operator sees codes, counts and times, and nothing of a case; the coordinator sees whose it is and why.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from fhir_secondop.access import rights
from fhir_secondop.errors import Forbidden, Invalid, NotFound, SecondOpError
from fhir_secondop.fhir import times
from fhir_secondop.model import EVERYTHING, Caller, Resource
from fhir_secondop.opinion import alignment, attempts, workflow
from fhir_secondop.service import ledger, preview, queues
from fhir_secondop.service.context import Context, case_of_task, load
from fhir_secondop.service.delivering import orders
from fhir_secondop.store import ledger as rows
from fhir_secondop.store import resources
from fhir_secondop.store.ledger import Entry, Wanted

Plain = dict[str, Any]
PAGE, MOST = 50, 200
REHEARSED = 20  # in one call: each asks an EHR several things
_HOUR_MS = 3_600_000
# Held for good: tried again they would only be held again. They are taken when their reason is asked for.
_AS_IT_SHOULD = ("consent-withheld", "superseded-by-event")
# Reason → what a person does about it.
ADVICE = {
    "auth": "Our sign-in is refused there: doctor NAME says how; mend it, then replay.",
    "scope": "We lack a right there: have it granted, then replay.",
    "policy": "The EHR, or a setting of ours, forbids it: the case's status names it.",
    "validation": "The EHR does not take what we send: see deliver CASE --dry-run --show, and what it names.",
    "conflict": "Somebody else keeps changing the same there: replay when it is quiet.",
    "duplicate": "It says that it has this already, and we do not find it: look there, then replay.",
    "not-found": "What we deliver to is not there any more: look there, then replay.",
    "unreachable": "It gave up after twelve attempts: replay when the EHR is well.",
    "capacity": "It gave up after twelve attempts: replay when the EHR is well; rate_per_s asks less.",
    "unknown": "Nobody said whether it landed: replay looks first, and sends only what is not there.",
    "mismatch": "The copy there differs from ours: have it put right there, then replay.",
    "to-check": "A person must look: the case's status says at what; then replay.",
    "our-fault": "It failed on our side: the log names it; replay when that is mended.",
    "consent-withheld": "Nothing, unless the patient's consent changes.",
    "superseded-by-event": "Nothing: a newer version goes instead.",
    "waits": "Nothing: it goes on by itself; the case's status says what it waits for.",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What is searched for; what is empty narrows nothing. `after` is the `next` of the page before."""

    ehr: str = ""
    states: tuple[str, ...] = ()
    reason: str = ""
    what: str = ""
    case_id: str = ""
    older_than_h: float = 0.0
    after: str = ""
    count: int = PAGE


def search(context: Context, caller: Caller, asked: Asked) -> Plain:
    """A page of deliveries, those that were planned first at the top, with how many there are on all pages.

    Raises Forbidden unless the caller is operator, or coordinator with the scope Task.r; Invalid, NotFound for an EHR
    that is not configured.
    """
    rights.require_role(caller, "operator")
    if rights.has_role(caller):
        rights.require_scopes(caller, "Task.r")
    wanted = _wanted(context, caller, asked)
    with context.database.reading() as connection:
        found = rows.find(connection, wanted, asked.count + 1)
        total = rows.number(connection, replace(wanted, after=None))
        shown = [_shown(context, caller, entry) for entry in found[: asked.count]]
        if rights.has_role(caller):
            for plain, entry in zip(shown, found, strict=False):
                plain |= _of_case(resources.read(connection, EVERYTHING, "Task", entry.task_id).resource, entry)
    return {"deliveries": shown, "total": total, **(_next(found[: asked.count]) if len(found) > asked.count else {})}


def _next(page: list[Entry]) -> Plain:
    """Where the page after this one begins."""
    return {"next": f"{page[-1].authored}.{page[-1].task_id}"}


def _wanted(context: Context, caller: Caller, asked: Asked) -> Wanted:
    if asked.case_id and not rights.has_role(caller):
        raise Forbidden("Only the coordinator asks for the deliveries of a case.")
    if asked.ehr and asked.ehr not in context.connections:
        raise NotFound(f"There is no connection {asked.ehr}.")
    for state in asked.states:
        if state not in ledger.STATES:
            raise Invalid(f"There is no state {state}; use {', '.join(ledger.STATES)}.", path="state")
    if not 1 <= asked.count <= MOST:
        raise Invalid(f"count: use a number from 1 to {MOST}.", path="count")
    places = queues.places(context.connections[asked.ehr]) if asked.ehr else ()
    return Wanted(
        kinds=f"{workflow.DELIVERS}{asked.what}", places=places, states=asked.states,
        reason=asked.reason, case_id=asked.case_id, after=_cursor(asked.after),
        authored_before=context.now() - int(asked.older_than_h * _HOUR_MS) if asked.older_than_h else 0,
    )  # fmt: skip


def _cursor(text: str) -> tuple[int, str] | None:
    if not text:
        return None
    at, _, task_id = text.partition(".")
    if not at.isdecimal() or not at.isascii() or len(at) > 15 or not resources.is_id(task_id):
        raise Invalid("after: use the `next` of the page before.", path="after")
    return int(at), task_id


def _shown(context: Context, caller: Caller, entry: Entry) -> Plain:
    """What anybody who operates may see of it."""
    ehr = next((c.name for c in context.connections.values() if entry.place in queues.places(c)), ledger.LINK)
    return {
        "task": entry.task_id, "what": entry.kind.removeprefix(workflow.DELIVERS), "version": entry.version, "ehr": ehr,
        "state": entry.state, "reason": entry.reason, "planned": times.instant(entry.authored),
        "changed": times.instant(entry.changed),
        **({"todo": ADVICE.get(entry.reason, "Look at the case.")} if entry.reason else {}),
    }  # fmt: skip


def _of_case(task: Resource, entry: Entry) -> Plain:
    said = alignment.evidence(task)
    return {
        "case": entry.case_id, "to": task["owner"].get("display", ""), "rung": said.get("rung", ""),
        "attempt": said.get("attempt", ""), "why": task.get("statusReason", {}).get("text", ""),
    }  # fmt: skip


def show(context: Context, caller: Caller, task_id: str) -> Plain:
    """One delivery with every attempt that was made, for the coordinator with Task.r. Raises Forbidden, NotFound."""
    rights.require_role(caller)
    rights.require_scopes(caller, "Task.r")
    with context.database.reading() as connection:
        case_id, stored = case_of_task(connection, context.visibility(caller), task_id)
        _require_delivery(stored.resource)
        entry = ledger.entry_of(connection, case_id, stored.resource)
        versions = [
            old.resource for old in resources.history(connection, EVERYTHING, "Task", task_id) if not old.deleted
        ]
    made = attempts.of_versions(list(reversed(versions)))
    return {**_shown(context, caller, entry), **_of_case(stored.resource, entry), "attempts": made}


def replay(context: Context, caller: Caller, asked: Asked, changed: str, tasks: tuple[str, ...] = ()) -> Plain:
    """Tries again what is on hold of what is asked for, or of `tasks`: each in a transaction of its own.

    Done again, it finds nothing that is on hold any more. Raises Forbidden unless the caller coordinates, with
    the scope ServiceRequest.u, as $replay of one asks.
    """
    rights.require_role(caller)
    rights.require_scopes(caller, "ServiceRequest.u")
    if not changed.strip():
        raise Invalid("Say what has changed, so that it is worth trying again.", path="changed")
    found, left = _held(context, caller, asked, tasks)
    done, refused = [], []
    for task_id in found:
        try:
            with context.database.transaction(caller) as tx:
                case_id, stored = case_of_task(tx.connection, context.visibility(caller), task_id)
                case = load(tx.connection, context.visibility(caller), case_id)
                _require_delivery(stored.resource)
                orders.replay(tx, context, case, stored.resource, f"{caller.name}: {changed.strip()}")
            done.append(task_id)
        except SecondOpError as error:  # it was tried again meanwhile, say: the others are, all the same
            refused.append({"task": task_id, "why": error.message})
    return {"replayed": done, "refused": refused, "left": left}


def rehearse(context: Context, caller: Caller, asked: Asked, tasks: tuple[str, ...] = ()) -> Plain:
    """What a replay of these would send, against what was tried before; nothing is written, here or there.

    Raises Forbidden unless the caller coordinates, with the scopes of $preview-delivery and of `show`.
    """
    rights.require_role(caller)
    rights.require_scopes(caller, "ServiceRequest.u", "Task.r")
    found, left = _held(context, caller, replace(asked, count=min(asked.count, REHEARSED)), tasks)
    shown = [_compared(context, caller, task_id) for task_id in found]
    more = {"next": f"{times.interval(shown[-1]['planned']).low}.{found[-1]}"} if left and not tasks else {}
    return {"deliveries": shown, "left": left, **more}


def _held(context: Context, caller: Caller, asked: Asked, tasks: tuple[str, ...]) -> tuple[list[str], int]:
    """The deliveries on hold that are asked for, and how many more there are after these."""
    if tasks:
        return list(dict.fromkeys(tasks))[: asked.count], max(0, len(set(tasks)) - asked.count)
    wanted = _wanted(context, caller, replace(asked, states=("on-hold",)))
    if not asked.reason:
        wanted = replace(wanted, not_reasons=_AS_IT_SHOULD)
    with context.database.reading() as connection:
        entries = rows.find(connection, wanted, asked.count)
        total = rows.number(connection, wanted)
    return [entry.task_id for entry in entries], total - len(entries)


def _require_delivery(task: Resource) -> None:
    if not workflow.is_delivery(task):
        raise NotFound(f"Task/{task['id']} is no delivery.")


def _compared(context: Context, caller: Caller, task_id: str) -> Plain:
    with context.database.reading() as connection:
        case_id, stored = case_of_task(connection, context.visibility(caller), task_id)
        case = load(connection, context.visibility(caller), case_id)
    task = stored.resource
    _require_delivery(task)
    now = preview.rehearsed(context, case, task)
    said = alignment.evidence(task)
    connection_ = orders.connection_of(context, case, task)
    before = {"rung": said.get("rung", ""), "why": said.get("rung-why", ""), "address": said.get("address", "")}
    after = {"rung": str(now["rung"] or ""), "why": now["why"], "address": connection_.base if connection_ else ""}
    changes = [{"what": k, "was": before[k], "now": after[k]} for k in before if before[k] and before[k] != after[k]]
    requests = [
        {"method": r["method"], "url": r["url"], "bytes": len(r["body"].encode()),
         "sha256": hashlib.sha256(r["body"].encode()).hexdigest()}
        for r in now["requests"]
    ]  # fmt: skip
    there = {name: now[name] for name in ("there", "copy") if name in now}
    held = task.get("statusReason", {}).get("text", "")
    return {
        "task": task_id, "case": case_id, "to": now["to"], "what": now["what"], "version": now["version"],
        "planned": task["authoredOn"], "held": held, "before": before, "now": {**after, **there},
        "changes": changes, "requests": requests,
    }  # fmt: skip
