"""Rungs 1 and 2: conditional creates, in one transaction or one by one; later versions update by the known id."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import TypeVar

from fhir_secondop.ehr import documents
from fhir_secondop.ehr.capability import Capability
from fhir_secondop.ehr.client import Written, below
from fhir_secondop.ehr.documents import Deliverable
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.ehr.rungs import DocumentRung, creates_conditionally, document_obstacle, identifier_obstacle
from fhir_secondop.ehr.target import Target, by_identifier, if_match, is_same, with_identifier
from fhir_secondop.ehr.vendors import Site
from fhir_secondop.model import Resource

_Asked = TypeVar("_Asked")


def _results(target: Target, document: Deliverable) -> list[tuple[Resource, Resource | None]]:
    """Each Observation to send, with the one that is there already under the same set id."""
    pairs = []
    for observation in document.observations:
        sent = documents.observation_for(document, observation, target.patient)
        pairs.append((sent, by_identifier(target, sent)))
    return pairs


def _withdrawn(target: Target, document: Deliverable) -> list[tuple[Resource, Resource]]:
    """Each Observation that an earlier version left there and this one withdraws, as entered in error."""
    pairs = []
    for observation in document.withdrawn:
        sent = documents.observation_for(document, observation, target.patient)
        there = by_identifier(target, sent)
        if there is not None and there.get("status") != "entered-in-error":
            pairs.append((sent, there))
    return pairs


class Transaction(DocumentRung):
    """Rung 1: everything in one transaction, with conditional creates; later versions update by the known id."""

    number = 1
    name = "transaction with conditional creates"

    def obstacle(self, capability: Capability, site: Site) -> str:
        """See Rung."""
        if not capability.system("transaction"):
            return "no transactions"
        lacking = [
            kind
            for kind in ("DocumentReference", "DiagnosticReport", "Observation")
            if not creates_conditionally(capability, site, kind)
        ]
        if lacking:
            return f"no conditional create of {', '.join(lacking)}"
        return document_obstacle(capability, site)

    def probe(self, target: Target) -> str:
        """See Rung."""
        return identifier_obstacle(target)

    def send(self, target: Target, document: Deliverable, older: Sequence[Resource]) -> str:
        """See Rung."""
        entries: list[Resource] = []

        def put(resource: Resource, there: Resource | None) -> str:
            """Adds a create, or an update of what is there; the reference that other entries use."""
            kind = resource["resourceType"]
            if there is None:
                # Derived, not random: what `deliver --dry-run` shows is what is sent.
                url = f"urn:uuid:{uuid.uuid5(uuid.UUID(document.version_id[9:]), f'entry {len(entries)}')}"
                request = {"method": "POST", "url": kind, "ifNoneExist": documents.identifier_query(resource)}
                entries.append({"fullUrl": url, "resource": resource, "request": request})
                return url
            reference = f"{kind}/{there['id']}"
            request = {"method": "PUT", "url": reference}
            match = if_match(there).get("If-Match")
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
            put(report, by_identifier(target, report))
            for resource, there in _withdrawn(target, document):
                put(resource, there)
        put(self.composed(target, document, older), None)
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
            if not (location and is_same(target, entry["resource"], _read(target, location))):
                # It is stored by now and hangs together wrongly: nothing that another rung could mend.
                raise EhrFailure("conflict", "A conditional create was answered with another resource.", status=200)


class ConditionalCreates(DocumentRung):
    """Rung 2: the same, one request each. What a broken sequence left is found and completed by the next try."""

    number = 2
    name = "single conditional creates"

    def obstacle(self, capability: Capability, site: Site) -> str:
        """See Rung."""
        because = document_obstacle(capability, site)
        if because:
            return because
        kept = capability.conditional_create("DocumentReference")
        return "" if kept else "no conditional create of DocumentReference"

    def probe(self, target: Target) -> str:
        """See Rung."""
        return identifier_obstacle(target)

    def send(self, target: Target, document: Deliverable, older: Sequence[Resource]) -> str:
        """See Rung."""
        capability, site = target.client.capability, target.client.site
        if document.report is not None and all(
            creates_conditionally(capability, site, kind) for kind in ("Observation", "DiagnosticReport")
        ):
            results = [_upsert(target, resource, there) for resource, there in _results(target, document)]
            if not all(results):
                raise _not_found_yet("Observation")  # the report must name it
            report = documents.report_for(document, target.patient, results)
            _upsert(target, report, by_identifier(target, report))
            for resource, there in _withdrawn(target, document):
                _upsert(target, resource, there)
        # The document last: it is what a next try looks for.
        return _upsert(target, self.composed(target, document, older), None)


def _upsert(target: Target, resource: Resource, there: Resource | None) -> str:
    kind = resource["resourceType"]
    if there is None:
        criteria = documents.identifier_query(resource)
        return _created(target, resource, target.client.write("POST", kind, resource, {"If-None-Exist": criteria}))
    reference = f"{kind}/{there['id']}"
    target.client.write("PUT", reference, {**resource, "id": there["id"]}, if_match(there))
    return reference


def _created(target: Target, sent: Resource, written: Written) -> str:
    """Where a conditional create put it. A 200 says that something was there already, which is compared.

    Raises EhrFailure when that is something else: the criteria were ignored or matched too much, nothing was stored.
    """
    if written.status == 201 and written.location:
        return written.location
    if written.status == 202 and written.location:
        return _landed(target, sent, written.location)
    there = written.resource
    if there is None or there.get("resourceType") != sent["resourceType"]:
        there = _read(target, written.location) if written.location else None
    if there is None:
        identifier = sent.get("masterIdentifier") or sent["identifier"][0]
        system, value = identifier["system"], identifier["value"]
        found = _after_writing(lambda: with_identifier(target, sent["resourceType"], system, value))
        if not found and written.status == 202 and sent["resourceType"] != "DocumentReference":
            raise _not_found_yet(sent["resourceType"])
        return f"{found[0]['resourceType']}/{found[0]['id']}" if found else ""
    if not is_same(target, sent, there):
        raise EhrFailure("validation", "A conditional create was answered with another resource.", status=200)
    return f"{there['resourceType']}/{there['id']}"


def _landed(target: Target, sent: Resource, location: str) -> str:
    """The place of what was accepted (202) and may not stand there yet.

    The document is read back anyhow. A result or report would be there twice if it still landed after it was sent anew:
    when its document was refused, or with the next version.
    """
    if sent["resourceType"] != "DocumentReference":
        _read(target, location)
    return location


def _not_found_yet(kind: str) -> EhrFailure:
    """The next attempt finds it, if it was only not stored yet."""
    return EhrFailure("unknown", f"A {kind} was taken there and is not to be found yet.")


def _read(target: Target, location: str) -> Resource:
    return _after_writing(lambda: target.client.read(location))


def _after_writing(ask: Callable[[], _Asked]) -> _Asked:
    """What is asked when something was written: that this is refused, or finds nothing, is no refusal of the write."""
    try:
        return ask()
    except EhrFailure as failure:
        if failure.retryable:
            raise
        raise EhrFailure(
            "unknown", f"Something was written, and how it stands is not shown ({failure.why})."
        ) from failure
