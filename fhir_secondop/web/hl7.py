"""The door for HL7 v2: one message in, its acknowledgement out. What is acknowledged with AA or CA is committed.

Nothing is stored by half, and every refusal says at which segment and field. A message that comes again is answered as
the first time; one that differs under the same number is refused.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
from dataclasses import dataclass

from fhir_secondop.bootstrap import Service
from fhir_secondop.errors import Conflict, Forbidden, Invalid, Issue, SecondOpError, Unsupported
from fhir_secondop.fhir import times
from fhir_secondop.hl7v2 import reading
from fhir_secondop.hl7v2.reading import Message
from fhir_secondop.model import Caller, Sender
from fhir_secondop.opinion import intake_hl7, intake_json
from fhir_secondop.rest.answers import valid
from fhir_secondop.rest.operations import check
from fhir_secondop.service import intake, review
from fhir_secondop.store.audit import origin
from fhir_secondop.store.audit.rows import Access
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
    now = service.context.now()
    try:
        sender = _sender(service, head, peer)
        with _parsing:
            message = reading.read(data)
        reply = _taken(service, message, sender)
    except SecondOpError as error:
        why = "; ".join(f"{i.expression or 'MSH[1]'}: {i.diagnostics}" for i in error.issues[:20])
        return Handled(refused(head, error, now), False, why, error.retryable)
    except Exception as error:
        # Whatever it was, it was not stored: the sender is told to try again. The type only, not the text.
        log.error("an HL7 v2 message failed on our side: %s", type(error).__name__)
        return Handled(refused(head, None, now), False, "it failed on our side", True)
    return Handled(replied(message, reply, now), True, "")


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
    origin.begin(Access(route=f"HL7 v2 {'^'.join(message.kind)}"))
    try:
        opened = intake.open_case(service.context, caller, sent, [None] * len(sent), f"MSH-10 {message.control_id}")
        case = intake.find_case(service.context, caller, opened.case_id)
    finally:
        origin.begin(None)
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
