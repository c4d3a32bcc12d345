"""Patients and their proxies: invited by a link and a code, which go by different ways; called back at once.

Who holds both sees that one case and nothing else. The link is signed as every link of ours (decision 7), the
invitation is a Task of the case, and the code is kept as a hash only, made with a key of ours: whoever reads the
Task can't find it by trying.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Any

from fhir_secondop.access import people, rights
from fhir_secondop.errors import Forbidden, Gone, NotFound
from fhir_secondop.fhir import times
from fhir_secondop.model import EVERYTHING, REPORT, Caller, Resource
from fhir_secondop.opinion import alignment, codes, invitation, workflow
from fhir_secondop.opinion.case import Case, reference
from fhir_secondop.service import audience, tokens
from fhir_secondop.service.context import SERVICE, Context, case_of_task, load, put, require_record
from fhir_secondop.store.database import Transaction

Plain = dict[str, Any]
LINK = b"case-link"
LINK_DAYS = 30
MAX_WRONG = 5
_DIGITS = 8
_DAY_MS = 86_400_000


def invite(context: Context, caller: Caller, case_id: str, plain: Plain) -> Plain:
    """The link and the code of a new invitation. The code is answered this once, and is nowhere afterwards."""
    rights.require_role(caller, "requester")
    code = f"{secrets.randbelow(10**_DIGITS):0{_DIGITS}d}"
    hashed = _hash(context, code)  # before the transaction: it takes a while on purpose
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        require_record(tx, context, case_id)
        made = invitation.task(case, plain["relationship"], plain["name"].strip(), hashed, context.instant())
        put(tx, context, case_id, made)
        ends = context.now() + LINK_DAYS * _DAY_MS
        audience.admit(tx, case_id, {_id(made["id"])}, part=REPORT, until_ms=ends)
    return {
        "task": made["id"],
        "link": f"{context.public_url}/case-link/{tokens.make(context, LINK, made['id'])}",
        "code": code,
        "days": LINK_DAYS,
    }


def revoke(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """Calls an invitation back: the link opens nothing any more, and who is in by it is out. Again changes nothing."""
    rights.require_role(caller, "requester")
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        require_record(tx, context, case_id)
        invited = next((t for t in invitation.of_case(case) if t["id"] == plain["task"]), None)
        if invited is None:
            raise NotFound(f"The case has no invitation Task/{plain['task']}.")
        if invited["status"] not in invitation.OPEN:
            return invited
        return _close(tx, context, case_id, invited, f"called back by {caller.name}")


def open_link(context: Context, token: str) -> tuple[Case, Resource]:
    """The case and the invitation of a link. Raises NotFound for none of ours, Gone for one that is over."""
    case, invited = _read(context, tokens.task_of(context, LINK, token))
    if not _is_open(context, invited):
        raise Gone("This link is not open any more; ask for a new one.")
    return case, invited


def enter(context: Context, token: str, code: str) -> str:
    """The invitation's Task, for the holder of link and code. A wrong code is counted, and the fifth closes the link.

    Raises NotFound, Gone, Forbidden.
    """
    case, invited = open_link(context, token)
    given = "".join(code.split())
    # Counted and committed before anything is compared: tries at the same time share one count.
    with context.database.transaction(SERVICE) as tx:
        current = load(tx.connection, EVERYTHING, case.id).one("Task", invited["id"])
        if not _is_open(context, current):
            raise Gone("This link is not open any more; ask for a new one.")
        wrong = 1 + int(alignment.evidence(current).get("wrong-tries", "0"))
        counted = alignment.with_evidence({**current, "lastModified": context.instant()}, {"wrong-tries": str(wrong)})
        put(tx, context, case.id, counted)
    kept = invitation.code_hash_of(current)
    right = hmac.compare_digest(_hash(context, given, kept), kept)
    with context.database.transaction(SERVICE) as tx:
        current = load(tx.connection, EVERYTHING, case.id).one("Task", invited["id"])
        is_open = current["status"] in invitation.OPEN
        if right and is_open:
            left = int(alignment.evidence(current).get("wrong-tries", "1")) - 1
            entered = alignment.with_evidence(current, {"wrong-tries": str(left)})
            if current["status"] == "requested":
                entered = workflow.moved(entered, "accepted", context.instant())
            put(tx, context, case.id, entered)
            return str(invited["id"])
        if wrong >= MAX_WRONG and is_open:
            _close(tx, context, case.id, current, "a wrong code was given several times")
    if wrong >= MAX_WRONG or right:
        raise Gone("This link is not open any more; ask for a new one.")
    raise Forbidden(f"This is not the code. After {MAX_WRONG - wrong} more the link is closed.")


def caller_of(context: Context, task_id: str, auth_time: str) -> Caller | None:
    """Who is in by this invitation; None when it is over. A proxy acts on behalf of the patient."""
    try:
        case, invited = _read(context, task_id)
    except NotFound:
        return None
    if not _is_open(context, invited):
        return None
    is_proxy = invitation.relationship_of(invited) == "proxy"
    return Caller(
        _id(task_id), invited["owner"]["display"], frozenset({"patient"}), people.scopes(frozenset({"patient"})),
        on_behalf_of=reference(case.patient) if is_proxy else "", auth_time=auth_time,
    )  # fmt: skip


def _read(context: Context, task_id: str) -> tuple[Case, Resource]:
    with context.database.reading() as connection:
        case_id, stored = case_of_task(connection, EVERYTHING, task_id)
        case = load(connection, EVERYTHING, case_id)
    if not codes.has(stored.resource.get("code"), codes.TASK, invitation.CODE):
        raise NotFound("This link is not valid.")
    return case, stored.resource


def _is_open(context: Context, invited: Resource) -> bool:
    ends = times.interval(invited["authoredOn"]).low + LINK_DAYS * _DAY_MS
    tries = int(alignment.evidence(invited).get("wrong-tries", "0"))
    return invited["status"] in invitation.OPEN and context.now() <= ends and tries < MAX_WRONG


def _close(tx: Transaction, context: Context, case_id: str, invited: Resource, why: str) -> Resource:
    closed = workflow.moved(invited, "cancelled", context.instant(), reason_text=why)
    put(tx, context, case_id, closed)
    audience.take_away(tx, case_id, {_id(invited["id"])})
    return closed


def _id(task_id: str) -> str:
    return f"{people.INVITED}{task_id}"


def _hash(context: Context, code: str, like: str = "") -> str:
    """scrypt of the code, "salt$hash" in base64; with the salt of `like` where that is given."""
    salt = base64.b64decode(like.partition("$")[0]) if like else secrets.token_bytes(16)
    keyed = hmac.new(context.link_secret, LINK + code.encode(), hashlib.sha256).digest()
    made = hashlib.scrypt(keyed, salt=salt, n=2**14, r=8, p=1, dklen=32)
    return f"{base64.b64encode(salt).decode()}${base64.b64encode(made).decode()}"
