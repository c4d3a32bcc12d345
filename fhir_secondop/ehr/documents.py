"""What is delivered, and the FHIR resources that carry it to an EHR: theirs referenced, ours contained or logical.

Never a relative reference of ours: over there it could name another patient.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from typing import Any

from fhir_secondop.ehr import plain_text
from fhir_secondop.ehr.vendors import Site
from fhir_secondop.fhir import attachments
from fhir_secondop.model import Resource

URI = "urn:ietf:rfc3986"
_AUTHOR = "#author"


@dataclass(frozen=True, slots=True)
class Deliverable:
    """One version of one document. `set_id` is the same over versions, `version_id` is this one's (both urn:uuid).

    `report` is the DiagnosticReport with its `observations`, where the document is a report. `clinicians` are the
    identifiers of those whose encounter a note may go on. `placer` is the (system, value) of the sender's order.
    """

    title: str
    set_id: str
    version_id: str
    version: int
    previous_version_id: str
    issued: str
    doc_status: str
    type: Resource
    author: Resource
    pdf: bytes
    text: str
    placer: tuple[str, str]
    clinicians: frozenset[str]
    period: Resource = field(default_factory=dict)
    report: Resource | None = None
    observations: tuple[Resource, ...] = ()
    whole: str = ""  # where the whole document is read, for a copy that has to leave something out
    labels: tuple[Resource, ...] = ()  # Codings: security labels that go along
    withdrawn: tuple[Resource, ...] = ()  # Observations of earlier versions that this one no longer has
    signed: bytes = b""  # the document Bundle, byte for byte as it was signed
    signature: str = ""  # the detached JWS over those bytes


def text_for(document: Deliverable, site: Site) -> str:
    """The text as that site can hold it, a summary if need be; "" when not even that fits."""
    return plain_text.fitted(
        document.text, limit=site.text_limit, ascii_only=site.text_ascii, whole=document.whole
    )  # fmt: skip


def sha256(data: bytes) -> str:
    """SHA-256, hex."""
    return hashlib.sha256(data).hexdigest()


def attachment(data: bytes, content_type: str, title: str, created: str) -> Resource:
    """An inline Attachment; `hash` is SHA-1 of the bytes, as R4 wants it.

    Source: https://hl7.org/fhir/R4/datatypes.html#Attachment
    """
    return {
        "contentType": content_type,
        "data": base64.b64encode(data).decode(),
        "size": len(data),
        "hash": attachments.digest(data),
        "title": title,
        "creation": created,
    }


def document_reference(
    document: Deliverable, patient: str, site: Site, *, as_text: bool = False, encounter: str = "", replaces: str = ""
) -> Resource:
    """The DocumentReference of a version, with the PDF or the text inline, as that site wants it."""
    created = document.issued
    if as_text:
        form = attachment(text_for(document, site).encode(), "text/plain; charset=utf-8", document.title, created)
    else:
        kind = "application/pdf;charset=utf-8" if site.content_charset else "application/pdf"
        form = attachment(document.pdf, kind, document.title, created)
    context: Resource = {"related": [_logical("ServiceRequest", document.placer)]} if document.placer[1] else {}
    if document.period:
        context["period"] = document.period
    if site.period_end and "end" not in document.period:
        context["period"] = {**document.period, "end": document.issued}
    if encounter:
        context["encounter"] = [{"reference": encounter}]
    resource: Resource = {
        "resourceType": "DocumentReference",
        "contained": [_author(document)],
        "masterIdentifier": {"system": URI, "value": document.version_id},
        # The version id once more: servers were met whose `identifier` search leaves masterIdentifier out.
        "identifier": [{"system": URI, "value": document.set_id}, {"system": URI, "value": document.version_id}],
        "status": "current",
        "docStatus": document.doc_status,
        "type": document.type,
        "category": [
            {
                "coding": [
                    {
                        "system": "http://hl7.org/fhir/us/core/CodeSystem/us-core-documentreference-category",
                        "code": "clinical-note",
                    }
                ]
            }
        ],
        "subject": {"reference": patient},
        "date": document.issued,
        "author": [{"reference": _AUTHOR, "display": _name(document.author)}],
        "description": document.title,
        "content": [{"attachment": one} for one in (form, *([] if as_text else signed_forms(document, site)))],
    }
    if document.labels:
        resource["securityLabel"] = [{"coding": [label]} for label in document.labels]
    if context:
        resource["context"] = context
    if replaces:
        resource["relatesTo"] = [{"code": "replaces", "target": {"reference": replaces}}]
    return resource if site.identifier_kept else _plain(resource)


def signed_forms(document: Deliverable, site: Site) -> list[Resource]:
    """What goes along beside the form that people read: the signed bytes and their signature, where a site takes it."""
    if not document.signed or site.one_content:
        return []
    return [
        attachment(document.signed, "application/fhir+json", f"{document.title}: signed document", document.issued),
        attachment(document.signature.encode(), "application/jose", f"{document.title}: its signature",
                   document.issued),
    ]  # fmt: skip


# What a site that keeps no identifiers drops without a word, or refuses: case and version stand in the title.
_UNKNOWN_THERE = ("masterIdentifier", "identifier", "category", "relatesTo")


def _plain(resource: Resource) -> Resource:
    plain = {name: value for name, value in resource.items() if name not in _UNKNOWN_THERE}
    context = {name: value for name, value in plain.get("context", {}).items() if name != "related"}
    return {**{k: v for k, v in plain.items() if k != "context"}, **({"context": context} if context else {})}


def communication(document: Deliverable, patient: str, sender: str, site: Site, answers: str = "") -> Resource:
    """The Communication that carries a version as an attachment; `sender` is a Practitioner there, or "".

    `answers` is the message before it that this one replaces.
    """
    form = attachment(document.pdf, "application/pdf", document.title, document.issued)
    resource: Resource = {
        "resourceType": "Communication",
        "identifier": [{"system": URI, "value": document.version_id}, {"system": URI, "value": document.set_id}],
        "status": site.communication_status,
        "category": [
            {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/communication-category",
                         "code": "notification"}]}
        ],
        "subject": {"reference": patient},
        "sent": document.issued,
        "sender": {"reference": sender or _AUTHOR},
        "payload": [{"contentString": document.title}, {"contentAttachment": form}],
    }  # fmt: skip
    if not sender:
        resource["contained"] = [_author(document)]
    if answers:
        resource["inResponseTo"] = [{"reference": answers}]
    return {**resource, **_based_on(document)}


def _name(practitioner: Resource) -> str:
    name: Resource = next(iter(practitioner.get("name", [])), {})
    parts = [*name.get("prefix", []), *name.get("given", []), name.get("family", "")]
    return str(name.get("text") or " ".join(part for part in parts if part) or "Reviewer")


def _author(document: Deliverable) -> Resource:
    return {**document.author, "id": "author"}


def _logical(resource_type: str, identifier: tuple[str, str]) -> Resource:
    return {"type": resource_type, "identifier": {"system": identifier[0], "value": identifier[1]}}


def observation_for(document: Deliverable, observation: Resource, patient: str) -> Resource:
    """An Observation of the report as it goes to an EHR."""
    kept = ("identifier", "status", "code", "effectiveDateTime", "valueCodeableConcept", "note", "component")
    return {
        "resourceType": "Observation",
        "contained": [_author(document)],
        **{name: observation[name] for name in kept if name in observation},
        "subject": {"reference": patient},
        "performer": [{"reference": _AUTHOR}],
        **_based_on(document),
    }


def report_for(document: Deliverable, patient: str, results: list[str]) -> Resource:
    """The DiagnosticReport as it goes to an EHR; `results` are the references of its Observations there."""
    ours: dict[str, Any] = document.report or {}
    kept = ("identifier", "status", "category", "code", "effectiveDateTime", "issued", "conclusion")
    forms = [form for form in ours.get("presentedForm", []) if _is_sent(form)]
    return {
        "resourceType": "DiagnosticReport",
        "contained": [_author(document)],
        **({"meta": {"security": list(document.labels)}} if document.labels else {}),
        **{name: ours[name] for name in kept if name in ours},
        **({"presentedForm": forms} if forms else {}),
        "subject": {"reference": patient},
        "performer": [{"reference": _AUTHOR}],
        "result": [{"reference": result} for result in results],
        **_based_on(document),
    }


def _is_sent(form: Resource) -> bool:
    # What an EHR's viewer makes of HTML we don't know; it stays with us, where it is served so that nothing could run.
    return not str(form.get("contentType", "")).startswith("text/html")


def _based_on(document: Deliverable) -> Resource:
    return {"basedOn": [_logical("ServiceRequest", document.placer)]} if document.placer[1] else {}


def identifier_query(resource: Resource) -> str:
    """The criteria that find this resource by its first identifier (for a document: its version)."""
    identifier = resource.get("masterIdentifier") or resource["identifier"][0]
    return f"identifier={identifier['system']}|{identifier['value']}"
