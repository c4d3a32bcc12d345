"""A document as HL7 v2: MDM with the document's life cycle, or ORU, the PDF in an OBX of type ED.

docs/hl7v2.md has the tables. The same version to the same connection is the same message to the byte, MSH-10 included:
a resend can be recognised.
Source: HL7 v2.5.1, chapters 7 (ORU) and 9 (MDM)
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from fhir_secondop.ehr.documents import Deliverable, text_for
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.ehr.vendors import Site
from fhir_secondop.hl7v2 import names, times
from fhir_secondop.hl7v2.composing import Fields, Head, compose
from fhir_secondop.hl7v2.er7 import escape, joined
from fhir_secondop.model import Connection, Resource

LOINC = "http://loinc.org"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message that is ready to go: `event` says what it does there ("MDM^T10")."""

    control_id: str
    event: str
    data: bytes


def control_id(connection: Connection, version_id: str) -> str:
    """MSH-10 of this version to this connection, whoever asks and how often: 20 characters, as v2.5.1 allows."""
    digest = hashlib.sha256(f"{connection.name}\n{version_id}".encode()).digest()
    return base64.b32encode(digest).decode()[:20]


def outgoing(
    document: Deliverable, patient: Resource, connection: Connection, site: Site, carried: Sequence[str]
) -> Outgoing:
    """The message that brings this version. `patient` is who it is there, with that place's number; `carried` are the
    version ids that went there before by message, newest first.

    Raises EhrFailure "validation" where the patient has no number of that place's.
    """
    made = _oru if connection.hl7_kind == "oru" else _mdm
    code, event, structure, segments = made(document, _pid(patient, connection), connection, site, carried)
    head = Head(
        code, event, structure, control_id(connection, document.version_id), times.written(document.issued),
        names.pair(connection.hl7_sender), names.pair(connection.hl7_receiver),
    )  # fmt: skip
    return Outgoing(head.control_id, f"{code}^{event}", compose(head, segments).encode())


Made = tuple[str, str, str, list[tuple[str, Fields]]]


def _mdm(
    document: Deliverable, pid: Fields, connection: Connection, site: Site, carried: Sequence[str]
) -> Made:  # fmt: skip
    event = _event(document, carried)
    at, who = times.written(document.issued), _xcn(document.author)
    # A cancellation names what it cancels; everything else is a document of its own.
    own = carried[0] if event == "T11" else document.version_id
    txa: Fields = {
        1: "1", 2: "CN", 3: "TX" if site.text_only else "AP", 4: at, 5: who, 6: at, 9: who,
        12: _entity(own, connection),
        13: _entity(carried[0], connection) if event in ("T06", "T10") else "",
        14: _placer(document),
        16: escape(document.title),
        17: "LA" if document.signed else "DO",
        18: "R" if document.labels else "U",
        19: "CA" if event == "T11" else "AV",
        22: _ppn(document.author, at) if document.signed else "",
    }  # fmt: skip
    segments: list[tuple[str, Fields]] = [
        ("EVN", {1: event, 2: at}), ("PID", pid), ("PV1", {2: "N"}), ("TXA", txa),
    ]  # fmt: skip
    if event == "T11":
        return "MDM", event, "MDM_T01", segments
    return "MDM", event, "MDM_T02", [*segments, *_contents(document, connection, site, "F")]


def _event(document: Deliverable, carried: Sequence[str]) -> str:
    """What becomes of what is there: nothing of it (T02), added to (T06), replaced (T10), cancelled (T11)."""
    if not carried:
        return "T02"
    if document.doc_status == "entered-in-error":
        return "T11"
    return "T06" if (document.report or {}).get("status") == "appended" else "T10"


def _oru(
    document: Deliverable, pid: Fields, connection: Connection, site: Site, carried: Sequence[str]
) -> Made:  # fmt: skip
    at = times.written(document.issued)
    # One order, one filler number over all versions: a receiver puts the corrected result over the one before.
    numbers: Fields = {2: _placer(document), 3: _entity(document.set_id, connection)}
    status = "C" if carried else "F"
    of_content = "W" if carried and document.doc_status == "entered-in-error" else status
    obr = {1: "1", **numbers, 4: _code(document.type), 7: at, 22: at, 24: "OTH", 25: status}
    segments: list[tuple[str, Fields]] = [("PID", pid), ("ORC", {1: "RE", **numbers}), ("OBR", obr)]
    contents = [(name, {**fields, 16: _xcn(document.author)})
                for name, fields in _contents(document, connection, site, of_content)]  # fmt: skip
    return "ORU", "R01", "ORU_R01", [*segments, *contents]


def _contents(document: Deliverable, connection: Connection, site: Site, status: str) -> list[tuple[str, Fields]]:
    """The text line by line, then the PDF, unless the site takes text alone."""
    common = {3: _code(document.type), 11: status, 14: times.written(document.issued)}
    lines = [escape(line) for line in text_for(document, site).splitlines()]
    found: list[tuple[str, Fields]] = [("OBX", {1: "1", 2: "TX", 4: "1", 5: lines, **common})]
    if not site.text_only:
        data = base64.b64encode(document.pdf).decode()
        value = f"{names.pair(connection.hl7_sender)[0]}^AP^PDF^Base64^{data}"
        found.append(("OBX", {1: "2", 2: "ED", 4: "2", 5: value, **common}))
    return found


def _pid(patient: Resource, connection: Connection) -> Fields:
    numbers = {
        i["value"]
        for i in patient.get("identifier", [])
        if connection.patient_system and i.get("system") == connection.patient_system and "value" in i
    }
    if len(numbers) != 1:
        said = "none" if not numbers else "several"
        raise EhrFailure("validation", f"A message needs the patient's number at that place; there is {said}.")
    name: Resource = next(
        (n for n in patient.get("name", []) if n.get("use") == "official"), next(iter(patient.get("name", [])), {})
    )
    first, *more = name.get("given") or [""]
    authority = names.inner(connection.hl7_authority)
    sex = {"male": "M", "female": "F", "other": "O"}.get(patient.get("gender", ""), "U")
    return {
        1: "1", 3: f"{escape(numbers.pop())}^^^{authority}^MR",
        5: joined(name.get("family", ""), first, " ".join(more), "", "", "", "L"),
        7: times.written(patient.get("birthDate", "")) if patient.get("birthDate") else "",
        8: sex,
    }  # fmt: skip


def _entity(urn: str, connection: Connection) -> str:
    """An identifier of ours (urn:uuid) as an EI."""
    return f"{escape(urn.removeprefix('urn:uuid:'))}^{names.pair(connection.hl7_sender)[0].partition('^')[0]}"


def _placer(document: Deliverable) -> str:
    """The sender's own order number as an EI, its system as a universal id."""
    system, value = document.placer
    return names.entity(value, system)


def _code(concept: Resource) -> str:
    """A CodeableConcept as a CE."""
    coding: Resource = next(iter(concept.get("coding", [])), {})
    system = "LN" if coding.get("system") == LOINC else "L"
    return joined(coding.get("code", ""), coding.get("display") or concept.get("text", ""), system)


def _xcn(practitioner: Resource) -> str:
    """A Practitioner as an XCN, with its NPI where it has one; "" of one without a name."""
    return names.person(practitioner)


def _ppn(practitioner: Resource, at: str) -> str:
    """Who signed, and when, as a PPN."""
    return names.person(practitioner, at=at)
