"""The rungs: each knows whether an EHR allows it, how to look for a copy, and how to send one.

Numbers are those of EHR.md. A rung looks before it sends, always: what a killed worker sent may have landed.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from fhir_secondop.ehr import documents
from fhir_secondop.ehr.client import Client
from fhir_secondop.ehr.documents import Deliverable
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.fhir import refs, times
from fhir_secondop.model import Resource

_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Target:
    """Where a document goes: the EHR, the patient there, and the reference of the version before, if it is there."""

    client: Client
    patient: str  # "Patient/id" there

    @property
    def patient_id(self) -> str:
        """The patient's id there."""
        return self.patient.partition("/")[2]


class Rung(Protocol):
    """One way of delivering."""

    number: int
    name: str

    def obstacle(self, target: Target) -> str:
        """Why it can't be used with this EHR; "" when it can."""

    def find(self, target: Target, document: Deliverable, version_id: str) -> str:
        """The reference of the DocumentReference with that version id there, or ""."""

    def send(self, target: Target, document: Deliverable, before: str) -> str:
        """Sends the document; `before` is the copy that it replaces. The reference of the new one there."""

    def as_text(self) -> bool:
        """Whether what is sent is the text, and not the PDF."""


def honours_identifier(client: Client) -> bool:
    """Whether a search by identifier means it: a random one must have no hits. Never probed by writing."""
    probe = f"{documents.URI}|urn:uuid:{uuid.uuid4()}"
    try:
        return client.search("DocumentReference", {"identifier": probe, "_count": "1"}) == []
    except EhrFailure as failure:
        if failure.retryable:
            raise
        return False


class _ByIdentifier:
    """What the rungs with identifiers share: a copy is found by its version id."""

    number = 0
    name = ""

    def as_text(self) -> bool:
        return False

    def find(self, target: Target, document: Deliverable, version_id: str) -> str:
        found = _by_identifier(target, "DocumentReference", documents.URI, version_id)
        return f"DocumentReference/{found['id']}" if found else ""


def _by_identifier(target: Target, resource_type: str, system: str, value: str) -> Resource | None:
    """The resource with this identifier and this patient. The answer is compared, never trusted."""
    for resource in target.client.search(resource_type, {"identifier": f"{system}|{value}"}):
        held = [*resource.get("identifier", []), resource.get("masterIdentifier", {})]
        if any(i.get("system") == system and i.get("value") == value for i in held):
            ref = refs.parse(resource.get("subject", {}).get("reference", ""))
            if ref is not None and ref.local == target.patient:
                return resource
    return None


def _mark_superseded(target: Target, reference: str) -> Resource | None:
    """The copy before, to be put back as superseded; None when it is that already."""
    before = target.client.read(reference)
    if before.get("status") == "superseded":
        return None
    return {**before, "status": "superseded"}


def _if_match(resource: Resource) -> dict[str, str]:
    version = resource.get("meta", {}).get("versionId")
    return {"If-Match": f'W/"{version}"'} if version else {}


def _results(target: Target, document: Deliverable) -> list[tuple[Resource, Resource | None]]:
    """Each Observation to send, with the one that is there already under the same set id."""
    pairs = []
    for observation in document.observations:
        sent = documents.observation_for(document, observation, target.patient)
        identifier = sent["identifier"][0]
        pairs.append((sent, _by_identifier(target, "Observation", identifier["system"], identifier["value"])))
    return pairs


class Transaction(_ByIdentifier):
    """Rung 1: everything in one transaction, with conditional creates; later versions update by the known id."""

    number = 1
    name = "transaction with conditional creates"

    def obstacle(self, target: Target) -> str:
        capability = target.client.capability
        if not capability.system("transaction"):
            return "no transactions"
        lacking = [
            kind
            for kind in ("DocumentReference", "DiagnosticReport", "Observation")
            if not (capability.offers(kind, "create") and capability.conditional_create(kind))
        ]
        if lacking:
            return f"no conditional create of {', '.join(lacking)}"
        return "" if honours_identifier(target.client) else "search by identifier is not honoured"

    def send(self, target: Target, document: Deliverable, before: str) -> str:
        entries: list[Resource] = []

        def put(resource: Resource, there: Resource | None) -> str:
            """Adds a create, or an update of what is there; the reference that other entries use."""
            kind = resource["resourceType"]
            if there is None:
                url = f"urn:uuid:{uuid.uuid4()}"
                request = {"method": "POST", "url": kind, "ifNoneExist": documents.identifier_query(resource)}
                entries.append({"fullUrl": url, "resource": resource, "request": request})
                return url
            reference = f"{kind}/{there['id']}"
            request = {"method": "PUT", "url": reference}
            match = _if_match(there).get("If-Match")
            if match:
                request["ifMatch"] = match
            entries.append(
                {"fullUrl": f"{target.client.base}/{reference}", "resource": {**resource, "id": there["id"]},
                 "request": request}
            )  # fmt: skip
            return reference

        if document.report is not None:
            results = [put(resource, there) for resource, there in _results(target, document)]
            report = documents.report_for(document, target.patient, results)
            identifier = report["identifier"][0]
            put(report, _by_identifier(target, "DiagnosticReport", identifier["system"], identifier["value"]))
        put(documents.document_reference(document, target.patient, replaces=before), None)
        if before:
            old = _mark_superseded(target, before)
            if old is not None:
                put({k: v for k, v in old.items() if k != "meta"}, old)
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
        target.client.write("POST", "", bundle)
        return self.find(target, document, document.version_id)


class ConditionalCreates(_ByIdentifier):
    """Rung 2: the same, one request each. What a broken sequence left is found and completed by the next try."""

    number = 2
    name = "single conditional creates"

    def obstacle(self, target: Target) -> str:
        capability = target.client.capability
        if not capability.offers("DocumentReference", "create"):
            return "no create of DocumentReference"
        if not capability.conditional_create("DocumentReference"):
            return "no conditional create of DocumentReference"
        return "" if honours_identifier(target.client) else "search by identifier is not honoured"

    def send(self, target: Target, document: Deliverable, before: str) -> str:
        client = target.client
        if document.report is not None and all(
            client.capability.offers(kind, "create") and client.capability.conditional_create(kind)
            for kind in ("Observation", "DiagnosticReport")
        ):
            results = [_upsert(target, resource, there) for resource, there in _results(target, document)]
            report = documents.report_for(document, target.patient, results)
            identifier = report["identifier"][0]
            _upsert(target, report, _by_identifier(target, "DiagnosticReport", identifier["system"],
                                                   identifier["value"]))  # fmt: skip
        # The document last: it is what a next try looks for.
        resource = documents.document_reference(document, target.patient, replaces=before)
        client.write("POST", "DocumentReference", resource, {"If-None-Exist": documents.identifier_query(resource)})
        _supersede(target, before)
        return self.find(target, document, document.version_id)


def _upsert(target: Target, resource: Resource, there: Resource | None) -> str:
    kind = resource["resourceType"]
    if there is None:
        criteria = documents.identifier_query(resource)
        return target.client.write("POST", kind, resource, {"If-None-Exist": criteria}).location
    reference = f"{kind}/{there['id']}"
    target.client.write("PUT", reference, {**resource, "id": there["id"]}, _if_match(there))
    return reference


def _supersede(target: Target, before: str) -> None:
    """Marks the copy before where the EHR lets us; where not, the alignment board says so."""
    if not before or not target.client.capability.offers("DocumentReference", "update"):
        return
    old = _mark_superseded(target, before)
    if old is not None:
        target.client.write("PUT", before, old, _if_match(old))


class SearchThenCreate(_ByIdentifier):
    """Rung 3: a DocumentReference with the PDF, after a search that found none."""

    number = 3
    name = "DocumentReference with PDF"

    def obstacle(self, target: Target) -> str:
        capability = target.client.capability
        if not capability.offers("DocumentReference", "create"):
            return "no create of DocumentReference"
        if not capability.offers("DocumentReference", "search-type"):
            return "a copy could not be looked for"
        if target.client.connection.text_only:
            return "takes plain text only"
        return ""

    def find(self, target: Target, document: Deliverable, version_id: str) -> str:
        return _among(target, lambda resource, content: version_id in _named(resource) or
                      (version_id == document.version_id and content == document.pdf))  # fmt: skip

    def send(self, target: Target, document: Deliverable, before: str) -> str:
        resource = documents.document_reference(document, target.patient, replaces=before)
        written = target.client.write("POST", "DocumentReference", resource)
        _supersede(target, before)
        return written.location or self.find(target, document, document.version_id)


class NoteOnEncounter(_ByIdentifier):
    """Rung 5: the text as a note on an existing encounter; the version id in the text is how it is found."""

    number = 5
    name = "text note on an existing encounter"

    def as_text(self) -> bool:
        return True

    def obstacle(self, target: Target) -> str:
        capability = target.client.capability
        if not capability.offers("DocumentReference", "create"):
            return "no create of DocumentReference"
        if not capability.offers("Encounter", "search-type"):
            return "encounters can't be searched"
        return ""

    def find(self, target: Target, document: Deliverable, version_id: str) -> str:
        # The head of the text names its own version; an amendment also names the one before, further down.
        marker = f"({version_id})".encode()
        return _among(target, lambda resource, content: marker in content)

    def send(self, target: Target, document: Deliverable, before: str) -> str:
        encounter = self.encounter(target, document)
        if not encounter:
            raise EhrFailure("validation", "There is no suitable encounter for a note.")
        resource = documents.document_reference(
            document, target.patient, as_text=True, encounter=encounter, replaces=before
        )
        written = target.client.write("POST", "DocumentReference", resource)
        _supersede(target, before)
        return written.location or self.find(target, document, document.version_id)

    def encounter(self, target: Target, document: Deliverable) -> str:
        """The newest ambulatory encounter with one of the document's clinicians, within the site's days.

        Never emergency, inpatient or another specialty.
        """
        oldest = times.interval(document.issued).low - target.client.connection.encounter_days * _DAY_MS
        suitable = []
        for encounter in target.client.search("Encounter", {"patient": target.patient_id}):
            begun = encounter.get("period", {}).get("start", "")
            if (
                encounter.get("class", {}).get("code") == "AMB"
                and encounter.get("status") in ("finished", "in-progress", "arrived")
                and begun
                and times.interval(begun).low >= oldest
                and self._with(target, encounter, document.clinicians)
            ):
                suitable.append((times.interval(begun).low, encounter["id"]))
        return f"Encounter/{max(suitable)[1]}" if suitable else ""

    def _with(self, target: Target, encounter: Resource, clinicians: frozenset[str]) -> bool:
        for participant in encounter.get("participant", []):
            individual = participant.get("individual", {})
            ref = refs.parse(individual.get("reference", ""))
            people: Iterable[Resource] = [individual]
            if ref is not None and ref.base in ("", target.client.base):
                found = target.client.read(ref.local)
                if found["resourceType"] == "PractitionerRole" and "practitioner" in found:
                    found = target.client.read(found["practitioner"]["reference"])
                people = [individual, found]
            if any(_identifiers(person) & clinicians for person in people):
                return True
        return False


def _identifiers(person: Resource) -> set[str]:
    held = person.get("identifier", [])
    listed = held if isinstance(held, list) else [held]
    return {f"{i.get('system', '')}|{i['value']}" for i in listed if "value" in i}


def _named(resource: Resource) -> set[str]:
    held = [*resource.get("identifier", []), resource.get("masterIdentifier", {})]
    return {i.get("value", "") for i in held}


class _Fits(Protocol):
    def __call__(self, resource: Resource, content: bytes) -> bool: ...


def _among(target: Target, fits: _Fits) -> str:
    """The first of the patient's DocumentReferences there that fits, or ""."""
    for resource in target.client.search("DocumentReference", {"patient": target.patient_id}):
        if fits(resource, content_of(target.client, resource)):
            return f"DocumentReference/{resource['id']}"
    return ""


def content_of(client: Client, resource: Resource) -> bytes:
    """The bytes of the first attachment, inline or behind its url on the same server; empty when there are none."""
    form: Resource = next((c.get("attachment", {}) for c in resource.get("content", [])), {})
    if "data" in form:
        try:
            return base64.b64decode(form["data"])
        except binascii.Error:
            return b""
    ref = refs.parse(form.get("url", ""))
    if ref is None or ref.base not in ("", client.base):
        return b""
    try:
        binary = client.read(ref.local)
        return base64.b64decode(binary.get("data", ""))
    except EhrFailure as failure:
        if failure.retryable:
            raise
        return b""


RUNGS: tuple[Rung, ...] = (Transaction(), ConditionalCreates(), SearchThenCreate(), NoteOnEncounter())
LINK = 10


@dataclass(frozen=True, slots=True)
class Chosen:
    """The rung to deliver on, None for the link; and why those above it were not possible."""

    rung: Rung | None
    not_possible: tuple[tuple[str, str], ...]

    @property
    def number(self) -> int:
        """The number of the rung in EHR.md."""
        return self.rung.number if self.rung else LINK

    @property
    def why(self) -> str:
        """The reason in words."""
        above = "; ".join(f"{name}: {because}" for name, because in self.not_possible)
        name = self.rung.name if self.rung else "link with cover sheet"
        return name + (f" ({above})" if above else "")


def choose(target: Target, refused: Iterable[tuple[int, str]] = ()) -> Chosen:
    """The highest rung that the EHR allows; `refused` are those it has refused already, with the reason."""
    known = dict(refused)
    obstacles: list[tuple[str, str]] = []
    for rung in RUNGS:
        because = known.get(rung.number) or rung.obstacle(target)
        if not because:
            return Chosen(rung, tuple(obstacles))
        obstacles.append((rung.name, because))
    return Chosen(None, tuple(obstacles))
