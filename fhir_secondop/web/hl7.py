"""The door for HL7 v2: one message in, its acknowledgement out. What is acknowledged with AA or CA is committed.

Nothing is stored by half, and every refusal says at which segment and field. A message that comes again is answered as
the first time; one that differs under the same number is refused.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
import uuid
from dataclasses import dataclass

from fhir_secondop.bootstrap import Service
from fhir_secondop.errors import (
    Conflict,
    Forbidden,
    Invalid,
    Issue,
    SecondOpError,
    Unavailable,
    Unsupported,
    http_status,
)
from fhir_secondop.fhir import times
from fhir_secondop.hl7v2 import reading
from fhir_secondop.hl7v2.reading import Message
from fhir_secondop.model import Caller, Sender
from fhir_secondop.opinion import intake_hl7, intake_json
from fhir_secondop.rest.answers import valid
from fhir_secondop.rest.operations import check
from fhir_secondop.service import intake, review
from fhir_secondop.store.audit import origin
from fhir_secondop.store.audit.rows import Access, access_rows
from fhir_secondop.web.hl7_replies import Reply, refused, replied

log = logging.getLogger(__name__)
_SCOPES = ("system/*.crs",)
_parsing = threading.BoundedSemaphore(4)  # a message in parts takes many times its bytes


@dataclass(frozen=True, slots=True)
class Handled:
    """What became of a message: the answer, as bytes, and in a few words without any content why it was refused.

    `retryable`: it failed on our side, and may be taken the next time.
    """

    answer: bytes
    accepted: bool
    why: str
    retryable: bool = False


def handle(service: Service, data: bytes, peer: str) -> Handled:
    """Takes one message from the address `peer`, "" for a folder. Raises Malformed where it can't even be answered."""
    # Who sends is asked before more than the first segment is looked at: a stranger costs little.
    head = reading.head(data)
    access = Access(request=uuid.uuid4().hex, route=_route(head), operation="$request-second-opinion")
    origin.begin(access)
    try:
        handled, status = _answered(service, data, head, peer, access)
        audit = service.context.database.audit
        if audit is not None:
            audit.put(access_rows(access, "E", status, audit.now()))
    except Unavailable as error:  # it can't be recorded: as if it had not been, and a repeat is answered as the first
        return _failed(service, head, error)
    finally:
        origin.begin(None)
    return handled


def _answered(service: Service, data: bytes, head: Message, peer: str, access: Access) -> tuple[Handled, int]:
    """What became of it, and the HTTP status that it would have; `access` is told who sent it, and of which case."""
    now = service.context.now()
    try:
        if service.context.database.audit is not None:
            service.context.database.audit.check()
        sender = _sender(service, head, peer)
        access.caller, access.purpose = f"hl7-{sender.name}", "TREAT"
        with _parsing:
            message = reading.read(data)
        reply = _taken(service, message, sender)
    except SecondOpError as error:
        why = "; ".join(f"{i.expression or 'MSH[1]'}: {i.diagnostics}" for i in error.issues[:20])
        said = ", ".join(f"{i.code} at {i.expression or 'MSH[1]'}" for i in error.issues[:20])
        log.warning("an HL7 v2 message from %s is refused: %s", peer or "a folder", said)
        return Handled(refused(head, error, now), False, why, error.retryable), http_status(error)
    except Exception as error:
        # The sender is told to try again: if it was stored after all, it is answered as the first time.
        return _failed(service, head, error), 500
    access.disclosed[reply.case_id] = 1
    return Handled(replied(message, reply, now), True, ""), 200


def _failed(service: Service, head: Message, error: Exception) -> Handled:
    # The type only, not the text: that may name a patient.
    log.error("an HL7 v2 message failed on our side: %s", type(error).__name__)
    return Handled(refused(head, None, service.context.now()), False, "it failed on our side", True)


def _route(head: Message) -> str:
    """What was sent, for the audit: no word of theirs."""
    return f"HL7 v2 {'^'.join(head.kind) if head.kind in intake_hl7.KINDS else '-'}"


def _taken(service: Service, message: Message, sender: Sender) -> Reply:
    if message.kind not in intake_hl7.KINDS:
        raise Unsupported("This takes REF^I12 and OMG^O19.", path="MSH[1]-9")
    if not message.control_id:
        issue = Issue("error", "required", "MSH[1]-10", "Send a control id: by it a repeat is recognised.")
        raise Invalid(issue.diagnostics, issues=[issue])
    if message.head.text(11) != "P":
        raise Unsupported("This is in production (P): a message for training or debugging opens no case.",
                          path="MSH[1]-11")  # fmt: skip
    if not message.head.text(12).startswith("2."):
        raise Unsupported("Send version 2.x; 2.5.1 is meant.", path="MSH[1]-12")
    plain, places = intake_hl7.to_plain(message, sender, times.instant(service.context.now())[:10])
    try:
        return _opened(service, message, sender, plain)
    except Conflict as error:
        raise Conflict(error.message, path=places.get("placer", "MSH[1]-10")) from error
    except Invalid as error:
        issues = [Issue(i.severity, i.code, _place(i.expression, places), i.diagnostics) for i in error.issues]
        raise Invalid(error.message, issues=issues) from error


def _opened(service: Service, message: Message, sender: Sender, plain: intake_hl7.Plain) -> Reply:
    check(plain, review.schema("second-opinion-request"))
    bundle = intake_json.to_bundle(plain)
    valid(bundle)
    sent = intake.sent_of_bundle(bundle)
    caller = Caller(f"hl7-{sender.name}", sender.title, frozenset({"requester"}), _SCOPES)
    # Each application counts its own messages.
    key = f"MSH-3 {message.head.text(3)} MSH-10 {message.control_id}"
    opened = intake.open_case(service.context, caller, sent, [None] * len(sent), key)
    case = intake.find_case(service.context, caller, opened.case_id)
    return Reply(opened.case_id, case.coordination["status"], case.reviewer is not None)


def _sender(service: Service, message: Message, peer: str) -> Sender:
    """Who sends, by MSH-3 and MSH-4 and where from. Raises Forbidden: the names alone prove nothing."""
    application, facility = message.head.text(3), message.head.text(4)
    for sender in service.settings.hl7_senders.values():
        if sender.facility == facility and sender.application in ("", application) and _may(sender, peer):
            return sender
    raise Forbidden("No sender of this application and facility is configured for the address it comes from.",
                    path="MSH[1]-4")  # fmt: skip


def known(service: Service, peer: str) -> bool:
    """Whether any sender may send from this address."""
    return any(_may(sender, peer) for sender in service.settings.hl7_senders.values())


def _may(sender: Sender, peer: str) -> bool:
    if not peer:
        return True
    address = ipaddress.ip_address(peer.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None) or address
    return any(mapped in ipaddress.ip_network(network) for network in sender.networks)


def _place(path: str, places: dict[str, str]) -> str:
    """Where in the message the member of a plain request came from: that of the nearest one above it."""
    while path:
        if path in places:
            return places[path]
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return "MSH[1]"
