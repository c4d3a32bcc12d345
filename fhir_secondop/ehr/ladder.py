"""The rungs: each knows whether an EHR allows it, how to look for a copy, and how to send one.

Numbers are those of EHR.md. A rung looks before it sends, always: what a killed worker sent may have landed.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fhir_secondop.ehr import documents
from fhir_secondop.ehr.client import Client, Written, below
from fhir_secondop.ehr.documents import Deliverable
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.fhir import refs, times
from fhir_secondop.model import Resource

_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Target:
    """Where a document goes: the EHR and the patient there."""

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

    def find(self, target: Target, document: Deliverable) -> str:
        """The reference of the DocumentReference of this version there, or ""."""

    def older(self, target: Target, document: Deliverable) -> list[Resource]:
        """The copies of earlier versions there, whichever arrived, newest first."""

    def send(self, target: Target, document: Deliverable, older: Sequence[Resource]) -> str:
        """Sends the document, which replaces the first of `older`. The reference of the new one there, or ""."""

    def as_text(self) -> bool:
        """Whether what is sent is the text, and not the PDF."""


def honours_identifier(client: Client) -> bool:
    """Whether a search by identifier means it: a random one must have no hits. Never probed by writing."""
    probe = f"{documents.URI}|urn:uuid:{uuid.uuid4()}"
    try:
        # The first page tells; a server that ignores the criteria has all its documents on the rest.
        return client.first_page("DocumentReference", {"identifier": probe, "_count": "1"}) == []
    except EhrFailure as failure:
        if failure.retryable:
            raise
        return False


def _pdf_obstacle(target: Target) -> str:
    """Why a PDF can't be filed there."""
    if not target.client.capability.offers("DocumentReference", "create"):
        return "no create of DocumentReference"
    return "takes plain text only" if target.client.site.text_only else ""


class _ByIdentifier:
    """What the rungs with identifiers share: a copy is found by its version id, earlier ones by the set id."""

    number = 0
    name = ""

    def as_text(self) -> bool:
        return False

    def find(self, target: Target, document: Deliverable) -> str:
        return _first(_with_identifier(target, "DocumentReference", documents.URI, document.version_id))

    def located(self, target: Target, document: Deliverable, location: str = "") -> str:
        """Where what was just written stands; "" when the EHR doesn't show it, which is no refusal of the write."""
        if location:
            return location
        try:
            return self.find(target, document)
        except EhrFailure as failure:
            if failure.retryable:
                raise
            return ""

    def older(self, target: Target, document: Deliverable) -> list[Resource]:
        return _earlier(document, _with_identifier(target, "DocumentReference", documents.URI, document.set_id))


def _first(found: Iterable[Resource]) -> str:
    """The reference of the first that is current, else of the first; "" of none."""
    ranked = sorted(found, key=lambda r: r.get("status") != "current")
    return f"{ranked[0]['resourceType']}/{ranked[0]['id']}" if ranked else ""


def _earlier(document: Deliverable, found: Iterable[Resource]) -> list[Resource]:
    """Those issued before the document, newest first. A late worker's old version must not supersede a newer one."""
    dated = [
        (times.interval(r["date"]).low, r)
        for r in found
        if "date" in r and r.get("status") != "entered-in-error" and document.version_id not in _named(r)
    ]
    issued = times.interval(document.issued).low
    return [r for low, r in sorted(dated, key=lambda pair: -pair[0]) if low < issued]


def is_about(target: Target, resource: Resource) -> bool:
    """Whether its subject is the mapped patient there. Two servers may both have a Patient/1."""
    ref = refs.parse(resource.get("subject", {}).get("reference", ""))
    return ref is not None and ref.local == target.patient and ref.base in ("", target.client.base)


def _with_identifier(target: Target, resource_type: str, system: str, value: str) -> list[Resource]:
    """The resources with this identifier and this patient. The answer is compared, never trusted."""
    found = target.client.search(resource_type, {"identifier": f"{system}|{value}"})
    return [r for r in found if _carries(r, system, value) and is_about(target, r)]


def _by_identifier(target: Target, resource: Resource) -> Resource | None:
    """What is there under the first identifier of a resource that we are about to send."""
    identifier = resource["identifier"][0]
    found = _with_identifier(target, resource["resourceType"], identifier["system"], identifier["value"])
    return found[0] if found else None


def _carries(resource: Resource, system: str, value: str) -> bool:
    held = [*resource.get("identifier", []), resource.get("masterIdentifier", {})]
    return any(i.get("system") == system and i.get("value") == value for i in held)


def _is_same(target: Target, sent: Resource, there: Resource) -> bool:
    """Whether an answer to a conditional create is what we sent: type, identifier and patient."""
    identifier = sent.get("masterIdentifier") or sent["identifier"][0]
    return (
        there.get("resourceType") == sent["resourceType"]
        and _carries(there, identifier["system"], identifier["value"])
        and is_about(target, there)
    )


def supersede(target: Target, old: Resource) -> None:
    """Marks an earlier copy where the EHR lets us; where not, the alignment board says so.

    By now the new version is there: a refusal here must not look like a refusal of it.
    """
    if old.get("status") != "current" or not target.client.capability.offers("DocumentReference", "update"):
        return
    reference = f"DocumentReference/{old['id']}"
    try:
        target.client.write("PUT", reference, {**old, "status": "superseded"}, _if_match(old))
    except EhrFailure as failure:
        if failure.retryable:
            raise


def _if_match(resource: Resource) -> dict[str, str]:
    version = resource.get("meta", {}).get("versionId")
    return {"If-Match": f'W/"{version}"'} if version else {}


def _results(target: Target, document: Deliverable) -> list[tuple[Resource, Resource | None]]:
    """Each Observation to send, with the one that is there already under the same set id."""
    pairs = []
    for observation in document.observations:
        sent = documents.observation_for(document, observation, target.patient)
        pairs.append((sent, _by_identifier(target, sent)))
    return pairs


def _withdrawn(target: Target, document: Deliverable) -> list[tuple[Resource, Resource]]:
    """Each Observation that an earlier version left there and this one withdraws, as entered in error."""
    pairs = []
    for observation in document.withdrawn:
        sent = documents.observation_for(document, observation, target.patient)
        there = _by_identifier(target, sent)
        if there is not None and there.get("status") != "entered-in-error":
            pairs.append((sent, there))
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
        if target.client.site.text_only:
            return "takes plain text only"
        return "" if honours_identifier(target.client) else "search by identifier is not honoured"

    def send(self, target: Target, document: Deliverable, older: Sequence[Resource]) -> str:
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
            put(report, _by_identifier(target, report))
            for resource, there in _withdrawn(target, document):
                put(resource, there)
        put(documents.document_reference(document, target.patient, replaces=_replaced(older)), None)
        for old in older:
            if old.get("status") == "current":
                put({k: v for k, v in {**old, "status": "superseded"}.items() if k != "meta"}, old)
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
        self._check(target, entries, target.client.write("POST", "", bundle))
        return self.located(target, document)

    def _check(self, target: Target, entries: list[Resource], written: Written) -> None:
        """After each 200 to a conditional create, what it found is compared with what was sent."""
        answers = (written.resource or {}).get("entry", [])
        for entry, answer in zip(entries, answers, strict=False):
            response = answer.get("response", {})
            if entry["request"]["method"] != "POST" or not str(response.get("status", "")).startswith("200"):
                continue
            location = below(response.get("location", ""))
            if not (location and _is_same(target, entry["resource"], target.client.read(location))):
                # It is stored by now and hangs together wrongly: nothing that another rung could mend.
                raise EhrFailure("conflict", "A conditional create was answered with another resource.", status=200)


def _replaced(older: Sequence[Resource]) -> str:
    return f"DocumentReference/{older[0]['id']}" if older else ""


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
        if target.client.site.text_only:
            return "takes plain text only"
        return "" if honours_identifier(target.client) else "search by identifier is not honoured"

    def send(self, target: Target, document: Deliverable, older: Sequence[Resource]) -> str:
        capability = target.client.capability
        if document.report is not None and all(
            capability.offers(kind, "create") and capability.conditional_create(kind)
            for kind in ("Observation", "DiagnosticReport")
        ):
            results = [_upsert(target, resource, there) for resource, there in _results(target, document)]
            report = documents.report_for(document, target.patient, results)
            _upsert(target, report, _by_identifier(target, report))
            for resource, there in _withdrawn(target, document):
                _upsert(target, resource, there)
        # The document last: it is what a next try looks for.
        return _upsert(target, documents.document_reference(document, target.patient, replaces=_replaced(older)), None)


def _upsert(target: Target, resource: Resource, there: Resource | None) -> str:
    kind = resource["resourceType"]
    if there is None:
        criteria = documents.identifier_query(resource)
        return _created(target, resource, target.client.write("POST", kind, resource, {"If-None-Exist": criteria}))
    reference = f"{kind}/{there['id']}"
    target.client.write("PUT", reference, {**resource, "id": there["id"]}, _if_match(there))
    return reference


def _created(target: Target, sent: Resource, written: Written) -> str:
    """Where a conditional create put it. A 200 says that something was there already, which is compared.

    Raises EhrFailure when that is something else: the criteria were ignored or matched too much, nothing was stored.
    """
    if written.status == 201 and written.location:
        return written.location
    there = written.resource
    if there is None or there.get("resourceType") != sent["resourceType"]:
        there = target.client.read(written.location) if written.location else None
    if there is None:
        identifier = sent.get("masterIdentifier") or sent["identifier"][0]
        found = _with_identifier(target, sent["resourceType"], identifier["system"], identifier["value"])
        return _first(found)
    if not _is_same(target, sent, there):
        raise EhrFailure("validation", "A conditional create was answered with another resource.", status=200)
    return f"{there['resourceType']}/{there['id']}"


class SearchThenCreate(_ByIdentifier):
    """Rung 3: a DocumentReference with the PDF, after a search that found none."""

    number = 3
    name = "DocumentReference with PDF"

    def obstacle(self, target: Target) -> str:
        because = _pdf_obstacle(target)
        if because:
            return because
        offered = target.client.capability.offers("DocumentReference", "search-type")
        return "" if offered else "a copy could not be looked for"

    def find(self, target: Target, document: Deliverable) -> str:
        return _first(
            r
            for r in _documents(target)
            if document.version_id in _named(r) or content_of(target.client, r) == document.pdf
        )

    def older(self, target: Target, document: Deliverable) -> list[Resource]:
        return _earlier(document, (r for r in _documents(target) if document.set_id in _named(r)))

    def send(self, target: Target, document: Deliverable, older: Sequence[Resource]) -> str:
        resource = documents.document_reference(document, target.patient, replaces=_replaced(older))
        written = target.client.write("POST", "DocumentReference", resource)
        return self.located(target, document, written.location)


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
        if not capability.offers("DocumentReference", "search-type"):
            return "a copy could not be looked for"
        if not capability.offers("Encounter", "search-type"):
            return "encounters can't be searched"
        return ""

    def find(self, target: Target, document: Deliverable) -> str:
        return _first(self._marked(target, document.version_id))

    def older(self, target: Target, document: Deliverable) -> list[Resource]:
        found = {r["id"]: r for r in _documents(target) if document.set_id in _named(r)}
        if document.previous_version_id:  # where identifiers vanish, the text still tells
            found |= {r["id"]: r for r in self._marked(target, document.previous_version_id)}
        return _earlier(document, found.values())

    def _marked(self, target: Target, version_id: str) -> list[Resource]:
        # The head of the text names its own version; an amendment also names the one before, further down.
        marker = f"({version_id})".encode()
        return [r for r in _documents(target) if marker in content_of(target.client, r)]

    def send(self, target: Target, document: Deliverable, older: Sequence[Resource]) -> str:
        encounter = self.encounter(target, document)
        if not encounter:
            raise EhrFailure("validation", "There is no suitable encounter for a note.")
        resource = documents.document_reference(
            document, target.patient, as_text=True, encounter=encounter, replaces=_replaced(older)
        )
        written = target.client.write("POST", "DocumentReference", resource)
        return self.located(target, document, written.location)

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
                and is_about(target, encounter)
                and begun
                and times.interval(begun).low >= oldest
            ):
                suitable.append((times.interval(begun).low, encounter["id"], encounter))
        for _, encounter_id, encounter in sorted(suitable, key=lambda row: row[:2], reverse=True):
            if self._with(target.client, encounter, document.clinicians):
                return f"Encounter/{encounter_id}"
        return ""

    def _with(self, client: Client, encounter: Resource, clinicians: frozenset[str]) -> bool:
        for participant in encounter.get("participant", []):
            individual = participant.get("individual", {})
            people = [individual, *_person(client, individual)]
            if any(_identifiers(person) & clinicians for person in people):
                return True
        return False


def _person(client: Client, individual: Resource) -> list[Resource]:
    """Who a participant is, as far as the EHR shows it to us: a role leads to its practitioner."""
    ref = refs.parse(individual.get("reference", ""))
    if ref is None or ref.base not in ("", client.base):
        return []
    try:
        found = client.read(ref.local)
    except EhrFailure as failure:
        if failure.retryable:
            raise
        return []  # a participant that we may not see is nobody that we know
    if found["resourceType"] != "PractitionerRole":
        return [found]
    return [found, *_person(client, found.get("practitioner", {}))]


def _identifiers(person: Resource) -> set[str]:
    held = person.get("identifier", [])
    listed = held if isinstance(held, list) else [held]
    return {f"{i.get('system', '')}|{i['value']}" for i in listed if "value" in i}


def _named(resource: Resource) -> set[str]:
    held = [*resource.get("identifier", []), resource.get("masterIdentifier", {})]
    return {i.get("value", "") for i in held}


def _documents(target: Target) -> list[Resource]:
    """The patient's DocumentReferences there."""
    found = target.client.search("DocumentReference", {"patient": target.patient_id})
    return [r for r in found if is_about(target, r)]


def content_of(client: Client, resource: Resource) -> bytes:
    """The bytes of the first attachment, inline or behind its url on the same server; empty when there are none."""
    form: Resource = next((c.get("attachment", {}) for c in resource.get("content", [])), {})
    if "data" in form:
        try:
            return base64.b64decode(form["data"])
        except ValueError:
            return b""
    ref = refs.parse(form.get("url", ""))
    if ref is None or ref.base not in ("", client.base):
        return b""
    try:
        binary = client.read(ref.local)
        return base64.b64decode(binary.get("data", ""))
    except ValueError:
        return b""
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
