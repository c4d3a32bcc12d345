"""Asks for what the record lacks, and takes in what is sent: typed, bounded, hashed, its patient checked."""

from __future__ import annotations

import base64
from typing import Any

from fhir_secondop.access import consent
from fhir_secondop.ehr.documents import attachment, sha256
from fhir_secondop.errors import Conflict, Forbidden, Gone, Invalid, NotFound
from fhir_secondop.fhir import times
from fhir_secondop.model import EVERYTHING, Caller, Resource
from fhir_secondop.opinion import alignment, checklist, codes, requests, uploads
from fhir_secondop.opinion.case import Case, derived_id, reference
from fhir_secondop.opinion.compose import compose
from fhir_secondop.opinion.provenance import provenance
from fhir_secondop.service import tokens
from fhir_secondop.service.context import SERVICE, Context, case_of_task, load, put, quarantine, require_hand
from fhir_secondop.store import resources
from fhir_secondop.store.database import Transaction

Plain = dict[str, Any]
LINK_DAYS = 30
MAX_WRONG = 5
_DAY_MS = 86_400_000
_CATEGORY = "http://hl7.org/fhir/us/core/CodeSystem/us-core-documentreference-category"
_PATIENT_SUPPLIED = "http://terminology.hl7.org/CodeSystem/v3-ObservationValue"


def ask_for(tx: Transaction, context: Context, case: Case, found: list[checklist.Item]) -> None:
    """One request for each gap, to whoever most likely has it; a gap that was asked for already is not asked again.

    A request whose item has come otherwise is closed.
    """
    now = context.instant()
    asked = {requests.item_of(t): t for t in requests.of_case(case)}
    types = {item["code"]: item["types"] for item in context.checklist(case)["items"]}
    for item in found:
        task = asked.get(item.code)
        if task is None and item.state in requests.ASKED_FOR:
            to = requests.holder(case, item, types.get(item.code, ()))
            put(tx, context, case.id, requests.task(case, item.code, item.title, to, now))
        elif task is not None and task["status"] in ("requested", "in-progress") and item.state == "present":
            put(tx, context, case.id, requests.closed(task, item.evidence, now, "it came with the record"))


def listed(context: Context, caller: Caller, case_id: str, _: Plain) -> Plain:
    """The requests of a case. Only the coordinator sees the upload links: they let somebody send."""
    with context.database.reading() as connection:
        case = load(connection, context.visibility(caller), case_id)
    rows = [_row(context, caller, task) for task in requests.of_case(case)]
    return {"requests": rows}


def _row(context: Context, caller: Caller, task: Resource) -> Plain:
    row: Plain = {
        "task": task["id"],
        "item": requests.item_of(task),
        "what": task["code"].get("text", ""),
        "from": task["owner"].get("display", ""),
        "channel": requests.channel_of(task),
        "status": task["status"],
        "why": task.get("statusReason", {}).get("text", ""),
        "arrived": requests.arrived(task),
    }
    if "coordinator" in caller.roles and task["status"] == "requested":
        row["uploadLink"] = f"{context.public_url}/upload/{tokens.make(context, tokens.UPLOAD, task['id'])}"
    return row


def request(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """Asks for an item by hand, or asks again: somebody else, another way, or after a link was locked or ran out."""
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id, gathered=True)
        require_hand(tx, context, case)
        before = case.find("Task", derived_id(case.id, "ask", plain["item"]))
        if before is not None and before["status"] not in ("requested", "on-hold"):
            raise Conflict(f"This was asked for already; the request is {before['status']}.")
        line = next((i for i in context.checklist(case)["items"] if i["code"] == plain["item"]), None)
        title = plain.get("title") or (line["title"] if line else "")
        if not title and before is not None:
            title = requests.title_of(before)
        if not title:
            raise Invalid("The checklist has no such item; give it a title.", path="title")
        item = checklist.Item(plain["item"], title, "missing")
        to = requests.holder(case, item, line["types"] if line else ())
        if "holder" in plain:
            found = requests.named(case, plain["holder"])
            if found is None:
                raise NotFound(f"{plain['holder']} is nobody of this case.")
            to = found
        if "channel" in plain:
            to = requests.Holder(to.reference, to.name, plain["channel"], plain.get("address", ""))
        # As of now: the link is good for its days anew, and wrong tries are counted anew.
        made = requests.task(case, item.code, title, to, context.instant())
        put(tx, context, case.id, made)
        return made


def open_link(context: Context, token: str) -> tuple[Case, Resource]:
    """The case and the request of an upload link. Raises NotFound, or Gone when it is closed, locked or too old."""
    task_id = tokens.task_of(context, tokens.UPLOAD, token)
    with context.database.reading() as connection:
        case_id, stored = case_of_task(connection, EVERYTHING, task_id)
        case = load(connection, EVERYTHING, case_id)
    task = stored.resource
    if task["status"] != "requested":
        raise Gone("This request is closed; thank you. Nothing more is taken here.")
    if context.now() > times.interval(task["authoredOn"]).low + LINK_DAYS * _DAY_MS:
        raise Gone("This link has expired; ask the sender for a new one.")
    actors = frozenset({task["owner"].get("reference", "")})
    if not consent.decide(case.of_type("Consent"), context.consent_policy, actors, context.now()).permitted:
        raise Gone("This link was called back; ask the sender.")
    return case, task


def upload(context: Context, token: str, data: bytes, birth_date: str, name: str) -> Resource:
    """Takes a file for a request, and closes it.

    `birth_date` is the patient's, as the sender knows it: a wrong one is counted, and the link is locked after a few.
    A C-CDA document that names somebody else is kept apart from the case. Raises Invalid, Forbidden, Gone.
    """
    case, task = open_link(context, token)
    kind = uploads.media_type(data)
    if birth_date != case.patient.get("birthDate", ""):
        _count_wrong(context, case.id, task["id"])
        raise Forbidden("This is not the date of birth of the patient for whom we asked.")
    if not name.strip():
        raise Invalid("Say who you are.", path="name")
    unlike = uploads.differs(uploads.identity(data, kind), case.patient)
    with context.database.transaction(SERVICE) as tx:
        case = load(tx.connection, EVERYTHING, case.id)
        current = case.one("Task", task["id"])
        if current["status"] != "requested":
            raise Gone("This request is closed; thank you. Nothing more is taken here.")
        now = context.instant()
        owner_case = quarantine(case.id) if unlike else case.id
        document = _document(case, current, data, kind, name.strip()[:120], now)
        sender = f"{resources.UPLOAD}{current['id']}"
        put(tx, context, owner_case, _binary(case, current, data, kind), owner=sender)
        put(tx, context, owner_case, document, owner=sender)
        if unlike:
            held = {**current, "status": "on-hold", "lastModified": now, "statusReason": {
                "text": f"What was sent names another patient ({unlike}); a person must look."}}  # fmt: skip
            put(tx, context, case.id, held)
            return held
        how = f"uploaded by {name.strip()[:120]}, SHA-256 {sha256(data)}"
        done = requests.closed(current, [reference(document)], now, how)
        put(tx, context, case.id, done)
        put(
            tx, context, case.id,
            provenance(
                derived_id(case.id, "provenance", "upload", task["id"]), [reference(document)], now,
                activity="CREATE", author={"display": name.strip()[:120], **_who(current)}, reason=how,
            ),
        )  # fmt: skip
        return done


def _who(task: Resource) -> Resource:
    return {"reference": task["owner"]["reference"]} if "reference" in task["owner"] else {}


def _count_wrong(context: Context, case_id: str, task_id: str) -> None:
    with context.database.transaction(SERVICE) as tx:
        task = load(tx.connection, EVERYTHING, case_id).one("Task", task_id)
        wrong = 1 + int(alignment.evidence(task).get("wrong-tries", "0"))
        task = alignment.with_evidence(task, {"wrong-tries": str(wrong)})
        if wrong >= MAX_WRONG and task["status"] == "requested":
            task = {**task, "status": "on-hold", "statusReason": {
                "text": "A wrong date of birth was given several times; the link is locked."}}  # fmt: skip
        put(tx, context, case_id, {**task, "lastModified": context.instant()})


def _upload_id(case: Case, task: Resource, *parts: str) -> str:
    """The id of what is sent for a request as it stands now: what was put aside before is another document."""
    return derived_id(case.id, "upload", task["id"], task["meta"]["versionId"], *parts)


def _binary(case: Case, task: Resource, data: bytes, kind: str) -> Resource:
    return compose("Binary", id=_upload_id(case, task, "file"), contentType=kind,
                   data=base64.b64encode(data).decode())  # fmt: skip


def _document(case: Case, task: Resource, data: bytes, kind: str, name: str, now: str) -> Resource:
    """The DocumentReference of what was sent; labelled as patient-supplied where the patient was asked."""
    title = requests.title_of(task)
    form = {k: v for k, v in attachment(data, kind, title, now).items() if k != "data"}
    form["url"] = f"Binary/{_upload_id(case, task, 'file')}"
    from_patient = requests.channel_of(task).startswith("patient")
    label = codes.coding(_PATIENT_SUPPLIED, "PATAST", "patient asserted")
    author = {**_who(task), "display": name}
    return compose(
        "DocumentReference",
        id=_upload_id(case, task),
        meta={"security": [label]} if from_patient else None,
        status="current",
        type={"text": title},
        category=[{"coding": [codes.coding(_CATEGORY, "clinical-note")]}],
        subject={"reference": reference(case.patient)},
        date=now,
        author=[author],
        description=title,
        content=[{"attachment": form}],
    )
