"""One row of the audit, and the chain that binds it to the rows before it: pure."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fhir_secondop.fhir import codec

Values = dict[str, Any]

# In this order they are hashed.
FIELDS = (
    "chain", "n", "at", "kind", "caller", "behalf", "purpose", "action", "operation", "method", "route", "params",
    "type", "id", "version", "case_id", "number", "status", "request",
)  # fmt: skip
# What came later: hashed behind them with its name, where it is not None; so older rows stay what they were.
LATER = ("party", "part", "until")
ANCHOR_FIELDS = ("chain", "n", "at", "heads")
_encode = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make one for each row


def digest(row: Mapping[str, Any], before: str, fields: tuple[str, ...] = FIELDS) -> str:
    """SHA-256 (hex) over the digest before it and the row: a JSON array of its fields, ASCII, without spaces.

    The first ones by their order, later ones as pairs.
    """
    later = [[name, row[name]] for name in LATER if row.get(name) is not None]
    values = [row[name] for name in fields] + later
    canonical = codec.dumps(values)
    if not canonical.isascii() or "\\" in canonical or "\x7f" in canonical:  # several ways to write it
        canonical = _encode(values)
    return hashlib.sha256(f"{before}\n{canonical}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Head:
    """The newest row of a chain: `n` rows are in it. A chain begins with n 0 and the digest ""."""

    chain: str
    n: int
    digest: str


def new_head() -> Head:
    """A chain that nobody has written to."""
    return Head(secrets.token_hex(8), 0, "")


def append(head: Head, values: Iterable[Values], fields: tuple[str, ...] = FIELDS) -> tuple[Head, list[Values]]:
    """The rows with their place in the chain and their digest, and the chain's new head."""
    rows = []
    for value in values:
        row = {**value, "chain": head.chain, "n": head.n + 1}
        row["digest"] = digest(row, head.digest, fields)
        head = Head(head.chain, row["n"], row["digest"])
        rows.append(row)
    return head, rows


@dataclass(slots=True)
class Access:
    """One request under way: what its rows will say. Handlers fill it in; `disclosed` counts resources by case.

    `route` is the rule, never the address; `params` are names of parameters, never values. `written` is how many rows
    the request's own transactions have recorded already, of the cases in `cases_written`.
    """

    request: str = ""
    method: str = ""
    route: str = ""
    operation: str = ""
    params: str = ""
    caller: str = ""
    behalf: str = ""
    purpose: str = ""
    type: str = ""
    id: str = ""
    version: int | None = None
    disclosed: dict[str | None, int] = field(default_factory=dict)
    written: int = 0
    cases_written: set[str | None] = field(default_factory=set)


def case_of(case_id: str | None) -> str | None:
    """The case that a row belongs to; what is kept apart of a case ("id#draft") counts as the case's."""
    return (case_id.partition("#")[0] or None) if case_id else None


def access_rows(access: Access, action: str, status: int, at: int) -> list[Values]:
    """The rows of a request: one per case of which it disclosed something, one when there is none.

    Nothing when its transactions have recorded all of it: a write that went well is not recorded twice.
    """
    disclosed = access.disclosed
    if status < 400 and access.written:
        disclosed = {case: number for case, number in disclosed.items() if case not in access.cases_written}
        if not disclosed:
            return []
    common = {
        "at": at, "kind": "access", "caller": access.caller, "behalf": access.behalf, "purpose": access.purpose,
        "action": action, "operation": access.operation, "method": access.method, "route": access.route,
        "params": access.params, "type": access.type, "id": access.id, "version": access.version, "status": status,
        "request": access.request,
    }  # fmt: skip
    return [{**common, "case_id": case, "number": number} for case, number in (disclosed or {None: 0}).items()]
