"""A load client for FHIR servers on loopback: raw kept connections, one process, about 30 µs a request.

What it sends refers to what is there alone, so that servers which insist on that take part; each answer is checked.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

JSON = "application/fhir+json"
SYSTEM = "http://bench.example/id"
Plain = dict[str, Any]
FASTING = "Patient is fasting. Please draw in the morning. " + "Route abnormal results to the ordering clinic. " * 6


@dataclass(frozen=True, slots=True)
class Said:
    """An answer."""

    status: int
    head: bytes  # in lower case
    body: bytes

    @property
    def json(self) -> Plain:
        """The body, parsed."""
        found: Plain = json.loads(self.body)
        return found


@dataclass(frozen=True, slots=True)
class Run:
    """What one run saw: how many answers in how many seconds, and how long each took (s)."""

    answers: list[Said]
    seconds: float
    latencies: list[float]


class Client:
    """A client of the server at this base, with these headers on each request."""

    def __init__(self, base: str, headers: Plain) -> None:
        parts = urlsplit(base)
        self._at = (str(parts.hostname), int(parts.port or 80))
        self._path = parts.path.rstrip("/")
        fixed = {"Host": parts.netloc, "Accept": JSON, **headers}
        self._fixed = "".join(f"{name}: {value}\r\n" for name, value in fixed.items())

    def request(self, method: str, path: str, body: Plain | bytes | None = None, **more: str) -> bytes:
        """The bytes of a request."""
        said = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        head = f"{method} {self._path}{path} HTTP/1.1\r\n{self._fixed}"
        head += "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in more.items())
        if body is not None:
            head += f"Content-Type: {JSON}\r\nContent-Length: {len(said)}\r\n"
        return f"{head}\r\n".encode() + said

    def ask(self, request: bytes, *expected: int) -> Said:
        """One answer, on a connection of its own."""
        (said,) = self.drive(iter([request]), 1, 600).answers
        if said.status not in (expected or (200, 201)):
            raise SystemExit(f"{request[:80]!r} was answered {said.status}: {said.body[:300]!r}")
        return said

    def drive(self, requests: Iterator[bytes], at_once: int, seconds: float) -> Run:
        """Sends requests on so many kept connections, each the next when it has its answer, for so long."""
        answers: list[Said] = []
        latencies: list[float] = []
        with selectors.DefaultSelector() as waiting:
            open_: list[socket.socket] = []
            for _ in range(at_once):
                sock = socket.create_connection(self._at, timeout=600)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                open_.append(sock)
            began = time.perf_counter()
            for sock in open_:
                self._next(waiting, sock, requests, began + seconds)
            while waiting.get_map():
                for key, _ in waiting.select(600) or [(None, 0)]:
                    if key is None:
                        raise SystemExit("A server gave no answer for ten minutes.")
                    held, at = key.data
                    got = key.fileobj.recv(1 << 18)  # type: ignore[union-attr]
                    held += got
                    said = _parsed(held)
                    if said is None and not got:
                        raise SystemExit("A server hung up in the middle of an answer.")
                    if said is not None:
                        latencies.append(time.perf_counter() - at)
                        answers.append(said)
                        waiting.unregister(key.fileobj)
                        sock = self._kept(key.fileobj, said)
                        self._next(waiting, sock, requests, began + seconds)
            taken = time.perf_counter() - began
        return Run(answers, taken, latencies)

    def _kept(self, sock: Any, said: Said) -> socket.socket:
        if b"connection: close" not in said.head:
            kept: socket.socket = sock
            return kept
        sock.close()
        return socket.create_connection(self._at, timeout=600)

    def _next(
        self, waiting: selectors.BaseSelector, sock: socket.socket, requests: Iterator[bytes], ends: float
    ) -> None:
        request = next(requests, None) if time.perf_counter() < ends else None
        if request is None:
            sock.close()
            return
        waiting.register(sock, selectors.EVENT_READ, (bytearray(), time.perf_counter()))
        sock.sendall(request)


def _parsed(held: bytearray) -> Said | None:
    """The answer, once it is all there."""
    end = held.find(b"\r\n\r\n")
    if end < 0:
        return None
    status, head = int(held[9:12]), bytes(held[:end]).lower()
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        length = int(head[at + 17 :].split(b"\r\n", 1)[0])
        return Said(status, head, bytes(held[end + 4 :])) if len(held) >= end + 4 + length else None
    if b"transfer-encoding: chunked" not in head:
        return Said(status, head, b"")
    place, body = end + 4, b""
    while (line := held.find(b"\r\n", place)) >= 0:
        length = int(bytes(held[place:line]).split(b";")[0], 16)
        if len(held) < line + 4 + length:
            return None
        if not length:
            return Said(status, head, body)
        body += held[line + 2 : line + 2 + length]
        place = line + 4 + length
    return None


def forever(make: Callable[[], bytes]) -> Iterator[bytes]:
    """One request after the other."""
    while True:
        yield make()


# ---- what is sent


def patient(value: str = "") -> Plain:
    """A Patient of half a kilobyte."""
    return {
        "resourceType": "Patient", "identifier": [{"system": SYSTEM, "value": value or uuid.uuid4().hex}],
        "active": True, "name": [{"use": "official", "family": "Benchley", "given": ["Pat", "Q"]}],
        "gender": "female", "birthDate": "1980-05-17",
        "telecom": [{"system": "phone", "value": "+1-555-0100", "use": "home"}],
        "address": [{"line": ["1 Main St"], "city": "Springfield", "state": "MA", "postalCode": "01101"}],
    }  # fmt: skip


def order(subject: str, status: str = "active") -> Plain:
    """A ServiceRequest of 1.8 KB."""
    tag = uuid.uuid4().hex
    return {
        "resourceType": "ServiceRequest",
        "identifier": [
            {"use": "official", "system": f"{SYSTEM}/order", "value": tag},
            {"type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "PLAC"}]},
             "system": f"{SYSTEM}/placer", "value": f"PL-{tag[:12]}"},
        ],
        "status": status, "intent": "order", "priority": "routine",
        "category": [{"coding": [{"system": "http://snomed.info/sct", "code": "108252007",
                                  "display": "Laboratory procedure"}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": "24323-8",
                             "display": "Comprehensive metabolic 2000 panel - Serum or Plasma"}],
                 "text": "Comprehensive metabolic panel"},
        "subject": {"reference": subject, "display": "Benchley, Pat"},
        "occurrenceDateTime": "2026-03-14T09:30:00Z", "authoredOn": "2026-03-12T16:45:10Z",
        "requester": {"identifier": {"system": f"{SYSTEM}/doctor", "value": "1"}, "display": "Dr. Ada Benchley"},
        "reasonCode": [{"coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "E11.9"}],
                        "text": "Type 2 diabetes follow-up"}],
        "note": [{"time": "2026-03-12T16:45:10Z", "text": FASTING}],
        "patientInstruction": "Do not eat or drink anything but water for eight to twelve hours before the draw.",
    }  # fmt: skip


def twelve() -> Plain:
    """A transaction of 12 resources that refer to each other by urn:uuid."""
    urn = {name: f"urn:uuid:{uuid.uuid4()}" for name in _NAMES}
    tag = uuid.uuid4().hex
    ref = {name: {"reference": text} for name, text in urn.items()}
    coded = lambda system, code: {"coding": [{"system": system, "code": code}]}  # noqa: E731

    def observation(code: str, value: float) -> Plain:
        return {
            "resourceType": "Observation", "status": "final", "code": coded("http://loinc.org", code),
            "category": [coded("http://terminology.hl7.org/CodeSystem/observation-category", "laboratory")],
            "subject": ref["patient"], "encounter": ref["encounter"], "basedOn": [ref["order"]],
            "effectiveDateTime": "2026-03-14T09:40:00Z", "issued": "2026-03-14T12:00:00Z", "performer": [ref["lab"]],
            "valueQuantity": {"value": value, "unit": "mg/dL", "system": "http://unitsofmeasure.org", "code": "mg/dL"},
        }  # fmt: skip

    asked = order(urn["patient"])
    asked |= {"encounter": ref["encounter"], "requester": ref["doctor"], "performer": [ref["lab"]],
              "reasonReference": [ref["condition"]]}  # fmt: skip
    terminology = "http://terminology.hl7.org/CodeSystem"
    found = {
        "patient": patient(tag),
        "doctor": {"resourceType": "Practitioner", "identifier": [{"system": f"{SYSTEM}/doctor", "value": tag}],
                   "name": [{"family": "Benchley", "given": ["Ada"], "prefix": ["Dr."]}]},
        "clinic": {"resourceType": "Organization", "identifier": [{"system": f"{SYSTEM}/org", "value": f"C-{tag}"}],
                   "active": True, "name": "Ordering Clinic"},
        "lab": {"resourceType": "Organization", "identifier": [{"system": f"{SYSTEM}/org", "value": f"L-{tag}"}],
                "active": True, "name": "Central Laboratory"},
        "order": asked,
        "task": {"resourceType": "Task", "identifier": [{"system": f"{SYSTEM}/task", "value": tag}],
                 "status": "requested", "intent": "order", "basedOn": [ref["order"]], "focus": ref["order"],
                 "for": ref["patient"], "encounter": ref["encounter"], "authoredOn": "2026-03-12T16:45:10Z",
                 "requester": ref["doctor"], "owner": ref["lab"]},
        "encounter": {"resourceType": "Encounter", "status": "finished",
                      "class": {"system": f"{terminology}/v3-ActCode", "code": "AMB"}, "subject": ref["patient"],
                      "participant": [{"individual": ref["doctor"]}], "serviceProvider": ref["clinic"],
                      "period": {"start": "2026-03-12T16:00:00Z", "end": "2026-03-12T17:00:00Z"}},
        "condition": {"resourceType": "Condition",
                      "clinicalStatus": coded(f"{terminology}/condition-clinical", "active"),
                      "code": coded("http://snomed.info/sct", "44054006"), "subject": ref["patient"],
                      "encounter": ref["encounter"], "recordedDate": "2026-03-12"},
        "glucose": observation("2345-7", 132), "creatinine": observation("2160-0", 0.92),
        "document": {"resourceType": "DocumentReference", "status": "current", "date": "2026-03-14T12:00:00Z",
                     "type": coded("http://loinc.org", "11502-2"), "subject": ref["patient"], "author": [ref["doctor"]],
                     "content": [{"attachment": {"contentType": "text/plain", "data": "UmVmZXJyYWwu" * 30}}]},
        "coverage": {"resourceType": "Coverage", "status": "active", "subscriberId": tag[:10],
                     "beneficiary": ref["patient"], "payor": [ref["clinic"]]},
    }  # fmt: skip
    return {
        "resourceType": "Bundle", "type": "transaction",
        "entry": [{"fullUrl": urn[name], "resource": found[name],
                   "request": {"method": "POST", "url": found[name]["resourceType"]}} for name in _NAMES],
    }  # fmt: skip


_NAMES = ("patient", "doctor", "clinic", "lab", "order", "task", "encounter", "condition", "glucose", "creatinine",
          "document", "coverage")  # fmt: skip
