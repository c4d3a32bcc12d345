"""Opens a case: the three doors meet here. One transaction, and a repeat is answered from it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from fhir_secondop.access import rights
from fhir_secondop.errors import Conflict, Issue
from fhir_secondop.fhir import codec
from fhir_secondop.fhir.codec import Body
from fhir_secondop.model import EVERYTHING, Caller, Resource
from fhir_secondop.opinion import case as cases
from fhir_secondop.opinion import intake, workflow
from fhir_secondop.opinion.blinding import is_asked
from fhir_secondop.opinion.case import Case, derived_id
from fhir_secondop.opinion.intake import Request, Sent
from fhir_secondop.opinion.provenance import provenance
from fhir_secondop.service import audience, blinding, clocks, gather
from fhir_secondop.service.context import Context, load, put, put_all, who
from fhir_secondop.store import bundles, resources, tables
from fhir_secondop.store.bundles import Entry
from fhir_secondop.store.database import Transaction
from fhir_secondop.store.resources import Stored, new_id


@dataclass(frozen=True, slots=True)
class Opened:
    """A case that was opened now, or (`created` False) by the same intake before. `stored` are the resources sent."""

    case_id: str
    created: bool
    stored: tuple[Stored, ...]
    task: str
    patient: str
    warnings: tuple[Issue, ...]


def open_case(
    context: Context, caller: Caller, sent: Sequence[Sent], bodies: Sequence[Body | None], key: str = ""
) -> Opened:
    """Opens a case from what was sent; `bodies` are the texts of those resources, None where we composed them.

    Raises Forbidden, Invalid with every fault, Conflict when the placer identifier or the key was used with other
    content. Whichever door it came by, the scopes must say that what was sent may be created.
    """
    rights.require_role(caller, "requester")
    rights.require_creates(caller, [s.resource["resourceType"] for s in sent])
    return open_checked(context, caller, sent, bodies, key)


def open_checked(
    context: Context, caller: Caller, sent: Sequence[Sent], bodies: Sequence[Body | None], key: str = ""
) -> Opened:
    """The same for a caller who was found to be allowed to ask by another rule."""
    request = intake.check(sent)
    digest = intake.digest(sent)
    keys = [_key("placer", request.placer)] if request.placer else []
    if key:
        keys.append(_key("key", caller.id, key))
    with context.database.transaction(caller) as tx:
        case_id = _known(tx, keys, digest)
        created = case_id is None
        if case_id is None:
            case_id = new_id()
            _remember(tx, keys, digest, case_id)
            _store(tx, context, caller, request, bodies, case_id)
        ids = _ids(case_id, request)
        stored = tuple(
            resources.read(tx.connection, EVERYTHING, s.resource["resourceType"], resource_id)
            for s, resource_id in zip(sent, ids, strict=True)
        )
        case = load(tx.connection, EVERYTHING, case_id)
        return Opened(
            case_id, created, stored, cases.reference(case.coordination), cases.reference(case.patient),
            request.warnings,
        )  # fmt: skip


def _key(*parts: str) -> str:
    """Under what an intake is known: a hash, because an identifier may be of any length."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _known(tx: Transaction, keys: list[str], digest: str) -> str | None:
    """The case that was opened under one of these keys. Raises Conflict when its content was another."""
    rows = tx.connection.execute(sa.select(tables.intake).where(tables.intake.c.key.in_(keys))).all()
    for row in rows:
        if row.digest != digest:
            raise Conflict(
                "This placer identifier or Idempotency-Key was used for another request; nothing was changed. "
                "A change of content is a new request that replaces the old one.",
                path="ServiceRequest.identifier",
            )
    case_id = str(rows[0].case_id) if rows else None
    if case_id is not None:
        _remember(tx, [k for k in keys if k not in {row.key for row in rows}], digest, case_id)
    return case_id


def _remember(tx: Transaction, keys: list[str], digest: str, case_id: str) -> None:
    for key in keys:
        tx.connection.execute(sa.insert(tables.intake).values(key=key, digest=digest, case_id=case_id))


def _is_adopted(request: Request) -> bool:
    """A proposal or plan is not an order yet: a new ServiceRequest takes it on, its intent never changes."""
    return request.request.resource.get("intent") in ("proposal", "plan")


def _ids(case_id: str, request: Request) -> list[str]:
    """The ids of what was sent, by content: a repeat of the same intake names the same resources."""
    seen: Counter[str] = Counter()
    ids = []
    names = intake.names(request.sent)
    for item in request.sent:
        name = names[item.full_url]
        seen[name] += 1
        is_the_case = item is request.request and not _is_adopted(request)
        ids.append(case_id if is_the_case else derived_id(case_id, "sent", name, seen[name]))
    return ids


def _store(
    tx: Transaction, context: Context, caller: Caller, request: Request, bodies: Sequence[Body | None], case_id: str
) -> None:
    ids = _ids(case_id, request)
    entries = [
        Entry(
            place=place,
            method="POST",
            type=item.resource["resourceType"],
            id=ids[place],
            full_url=item.full_url,
            body=bodies[place] or codec.compose(item.resource),
            resource=item.resource,
        )
        for place, item in enumerate(request.sent)
    ]
    outcomes = bundles.apply(
        tx, entries, visibility=context.visibility(caller), base_url=context.base_url, case_id=case_id
    )
    now = context.instant()
    stored = {item.full_url: o.stored for item, o in zip(request.sent, outcomes, strict=True) if o.stored}
    the_request = stored[request.request.full_url].resource
    if _is_adopted(request):
        asked = f"ServiceRequest/{stored[request.request.full_url].id}"
        the_request = {**intake.adoption(the_request, asked, the_request["requester"]), "id": case_id}
        put(tx, context, case_id, the_request)
    patient = the_request["subject"]["reference"]
    reviewer = next((p["reference"] for p in the_request.get("performer", []) if "reference" in p), "")
    opened = cases.opened(the_request, case_id, patient, now, reviewer)
    if is_asked(the_request):
        opened = [blinding.begun(r) if workflow.is_coordination(r) else r for r in opened]
    put_all(tx, context, case_id, opened)
    put(
        tx, context, case_id,
        provenance(
            derived_id(case_id, "provenance", "intake"), [s.versioned for s in stored.values()], now,
            activity="CREATE", author=who(caller),
        ),
    )  # fmt: skip
    case = load(tx.connection, EVERYTHING, case_id)
    person = case.directory.person(reviewer) if reviewer else None
    audience.admit(tx, case_id, {caller.id, *(person.identifiers if person else ())})
    audience.admit_members(tx, case)
    if blinding.is_blind(case):
        blinding.mark(tx, case)
        if person is not None:
            blinding.admit(tx, case, person)
    gather.start(tx, context, case, case.sources)
    clocks.attend(tx, context, case_id)


def sent_of_bundle(bundle: Resource) -> list[Sent]:
    """The resources of a Bundle, each with its fullUrl (or its place where it has none)."""
    return [
        Sent(entry.get("fullUrl") or f"#{place}", entry["resource"],
             f"Bundle.entry[{place}].resource.ofType({entry['resource']['resourceType']})")
        for place, entry in enumerate(bundle.get("entry", []))
        if "resource" in entry
    ]  # fmt: skip


def sent_of_parameters(parameters: Resource) -> list[Sent]:
    """The resources of a Parameters; they cite each other as "Type/id"."""
    found = []
    for place, part in enumerate(parameters.get("parameter", [])):
        resource = part.get("resource")
        if resource is None:
            continue
        url = f"{resource['resourceType']}/{resource['id']}" if "id" in resource else f"#{place}"
        found.append(Sent(url, resource, f"Parameters.parameter[{place}].resource"))
    return found


def find_case(context: Context, caller: Caller, case_id: str, *, gathered: bool = False) -> Case:
    """The case, if the caller may see it. Raises NotFound."""
    with context.database.reading() as connection:
        return load(connection, context.visibility(caller), case_id, gathered=gathered)
