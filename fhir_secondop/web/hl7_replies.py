"""Acknowledgements: RRI^I12 of a referral, ORG^O20 of an order, ACK of what is refused or only committed.

Source: HL7 v2.5.1, chapters 2.9 (original and enhanced mode), 2.15.5 (ERR), 4.4.8 (ORG) and 11.3 (RRI)
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fhir_secondop.errors import Conflict, Forbidden, Invalid, Issue, SecondOpError, Unsupported
from fhir_secondop.fhir import times as fhir_times
from fhir_secondop.hl7v2 import times
from fhir_secondop.hl7v2.composing import Fields, Head, compose, unchecked
from fhir_secondop.hl7v2.er7 import escape, joined
from fhir_secondop.hl7v2.reading import NULL, Message, Segment, Value

log = logging.getLogger(__name__)
_PLACE = re.compile(r"([A-Z][A-Z0-9]{2})\[(\d+)\](?:-(\d+)(?:\[(\d+)\])?(?:\.(\d+))?)?")
_CODES = {"required": "101", "value": "102", "code-invalid": "103", "not-supported": "200", "duplicate": "205",
          "structure": "100"}  # fmt: skip
_WORDS = {
    "100": "Segment sequence error", "101": "Required field missing", "102": "Data type error",
    "103": "Table value not found", "200": "Unsupported message type", "201": "Unsupported event code",
    "202": "Unsupported processing id", "203": "Unsupported version id", "204": "Unknown key identifier",
    "205": "Duplicate key identifier", "207": "Application internal error",
}  # fmt: skip
_UNSUPPORTED = {"MSH[1]-9": "200", "MSH[1]-11": "202", "MSH[1]-12": "203"}
_CLOSED = ("rejected", "cancelled", "failed")
_MOST_ERRORS = 50


@dataclass(frozen=True, slots=True)
class Reply:
    """What is said of a message that was taken: the case, where its coordination stands, whether it has a reviewer."""

    case_id: str
    status: str
    reviewed: bool

    @property
    def referral_status(self) -> str:
        """RF1-1, table 0283: accepted, rejected, or pending."""
        return "R" if self.status in _CLOSED else "A" if self.reviewed else "P"


def replied(message: Message, reply: Reply, now: int) -> bytes:
    """The acknowledgement of a message that was taken: its case is committed."""
    code = "CA" if _commits(message) else "AA"
    if code == "AA":
        try:
            made = _referral(message, reply, now) if message.kind[0] == "REF" else _order(message, reply, now)
            return made.encode()
        except Exception as error:
            # The case is committed, so the sender must hear that; what it wrote can't all be repeated in our words.
            log.warning("an HL7 v2 message is acknowledged by ACK alone: %s", type(error).__name__)
    return _ack(message, code, [], now)


def refused(message: Message, error: SecondOpError | None, now: int) -> bytes:
    """The acknowledgement of a message of which nothing was stored; None is a failure of ours, which may pass.

    AE where its content is at fault, AR where it is not for us as it stands.
    """
    mode = "C" if _commits(message) else "A"
    if error is None:
        return _ack(message, f"{mode}E", [Issue("error", "exception", "MSH[1]", "It failed here; send it again.")], now)
    rejects = isinstance(error, Unsupported | Forbidden)
    issues = [Issue(i.severity, _kind(error, i), i.expression, i.diagnostics) for i in error.issues]
    return _ack(message, f"{mode}{'R' if rejects else 'E'}", issues, now)


def _kind(error: SecondOpError, issue: Issue) -> str:
    if isinstance(error, Unsupported):
        return _UNSUPPORTED.get(issue.expression, "200")
    if isinstance(error, Forbidden):
        return "204"
    if isinstance(error, Conflict):
        return "205"
    return _CODES.get(issue.code, "103" if isinstance(error, Invalid) else "207")


def _commits(message: Message) -> bool:
    """Enhanced mode where only a commit is asked for; any other sender gets the application's answer at once."""
    return message.head.text(15) in ("AL", "SU") and message.head.text(16) in ("", "NE")


def _ack(message: Message, code: str, issues: Sequence[Issue], now: int) -> bytes:
    event = message.kind[1] if message.kind[1].isalnum() else "I12"
    head = _head(message, "ACK", event, "ACK", now)
    segments = [_msa(message, code), *(_error(issue) for issue in issues[:_MOST_ERRORS])]
    try:
        return compose(head, segments).encode()
    except Invalid:  # a name of theirs is longer than the standard lets one be: they know it all the same
        return unchecked(head, segments).encode()


def _error(issue: Issue) -> tuple[str, Fields]:
    match = _PLACE.fullmatch(issue.expression or "MSH[1]")
    parts = [part or "" for part in (match.groups() if match else ("MSH", "1", "", "", ""))]
    code = issue.code if issue.code in _WORDS else "207"
    place = "^".join(parts).rstrip("^")
    said = escape(f"{issue.diagnostics} Nothing was stored."[:250])
    return "ERR", {2: place, 3: joined(code, _WORDS[code], "HL70357"), 4: "E", 8: said}


def _head(message: Message, code: str, event: str, structure: str, now: int) -> Head:
    """Back to where it came from. The same message has the same control id in its answer."""
    head = message.head
    digest = hashlib.sha256("\n".join((head.text(3), head.text(4), message.control_id, code)).encode()).digest()
    at = times.written(fhir_times.instant(now))
    return Head(code, event, structure, base64.b32encode(digest).decode()[:20], at,
                (_hd(head, 5), _hd(head, 6)), (_hd(head, 3), _hd(head, 4)))  # fmt: skip


# How many components of each are repeated: beyond them stand dates and ranges, which nobody needs to know again.
_EI, _CX, _XPN, _PLN = 4, 5, 7, 2


def _hd(segment: Segment, field: int) -> str:
    value = segment.value(field)
    return joined(*(value.text(n)[:180] for n in (1, 2, 3)))


def _msa(message: Message, code: str) -> tuple[str, Fields]:
    return "MSA", {1: code, 2: escape(message.control_id[:180]) or "0"}


def _referral(message: Message, reply: Reply, now: int) -> str:
    referral, pid = message.first("RF1"), message.first("PID")
    number = referral.value(6)
    segments: list[tuple[str, Fields]] = [
        _msa(message, "AA"),
        ("RF1", {1: reply.referral_status, 6: _entity(number, _EI), 11: f"{reply.case_id}^SECONDOP"}),
    ]
    for provider in message.named("PRD"):
        roles = [escape(v.text()) for v in provider.all(1)]
        number, name = provider.value(7), provider.value(2)
        segments.append(("PRD", {1: roles, 2: _entity(name, _XPN), 7: _entity(number, _PLN)}))
    segments.append(("PID", _who(pid)))
    return compose(_head(message, "RRI", "I12", "RRI_I12", now), segments)


def _order(message: Message, reply: Reply, now: int) -> str:
    order, pid = message.first("ORC"), message.first("PID")
    number = order.value(2) if order.all(2) else message.first("OBR").value(2)
    said: Fields = {1: "OK", 2: _entity(number, _EI), 3: f"{reply.case_id}^SECONDOP"}
    segments: list[tuple[str, Fields]] = [_msa(message, "AA"), ("PID", _who(pid)), ("ORC", said)]
    return compose(_head(message, "ORG", "O20", "ORG_O20", now), segments)


def _who(pid: Segment) -> Fields:
    return {3: _entity(pid.value(3), _CX), 5: _entity(pid.value(5), _XPN)}


def _entity(value: Value, most: int) -> str:
    """A field of theirs in our delimiters, as far as its first components go; what is to be deleted is not said."""
    said = ("&".join("" if p == NULL else escape(p) for p in parts) for parts in value.components[:most])
    return "^".join(said).rstrip("^")
