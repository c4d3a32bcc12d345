"""Where a document goes, and what stands there already: looked for, compared, never trusted."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fhir_secondop.ehr.client import Client
from fhir_secondop.ehr.documents import URI, Deliverable
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.fhir import refs, times
from fhir_secondop.model import Resource


@dataclass(frozen=True, slots=True)
class Target:
    """Where a document goes: the EHR and the patient there.

    `record` is who it is where there is no FHIR record to read; `carried` are the version ids of the document that our
    ledger says went there by message, newest first. `means` is which searches there were found to mean what they are
    asked: (type, parameter).
    """

    client: Client
    patient: str  # "Patient/id" there, "" where only messages go
    record: Resource = field(default_factory=dict)
    carried: tuple[str, ...] = ()
    means: dict[tuple[str, str], bool] = field(default_factory=dict, compare=False)

    @property
    def patient_id(self) -> str:
        """The patient's id there."""
        return self.patient.partition("/")[2]


def honours_identifier(target: Target, resource_type: str = "DocumentReference") -> bool:
    """Whether a search by identifier means it: a random one must have no hits. Never probed by writing."""
    return _means(target, resource_type, "identifier", f"{URI}|urn:uuid:")


def _means(target: Target, resource_type: str, parameter: str, prefix: str) -> bool:
    """Whether it finds nothing for a value that nobody has; asked once for all of a delivery.

    One that finds something is asked once more: an EHR that answers a search with strangers may answer the next one so,
    too, and what does not mean its searches may be sent things twice.
    """
    asked = (resource_type, parameter)
    if asked not in target.means:
        target.means[asked] = any(_finds_nothing(target.client, *asked, prefix) for _ in range(2))
    return target.means[asked]


def _finds_nothing(client: Client, resource_type: str, parameter: str, prefix: str) -> bool:
    try:
        # The first page tells; a server that ignores the criteria has all its documents on the rest.
        return client.first_page(resource_type, {parameter: f"{prefix}{uuid.uuid4()}", "_count": "1"}) == []
    except EhrFailure as failure:
        if failure.retryable:
            raise
        return False


def is_about(target: Target, resource: Resource) -> bool:
    """Whether its subject is the mapped patient there. Two servers may both have a Patient/1."""
    ref = refs.parse(resource.get("subject", {}).get("reference", ""))
    return ref is not None and ref.local == target.patient and ref.base in ("", target.client.base)


def with_identifier(target: Target, resource_type: str, system: str, value: str) -> list[Resource]:
    """The resources with this identifier and this patient. The answer is compared, never trusted.

    Raises EhrFailure where others came too from a server that means such a search: that answer was to something else,
    and does not say that there are no more.
    """
    found = target.client.search(resource_type, {"identifier": f"{system}|{value}"})
    ours = [r for r in found if carries(r, system, value)]
    if len(ours) < len(found) and honours_identifier(target, resource_type):
        raise _no_answer(target, "identifier")
    return [r for r in ours if is_about(target, r)]


def of_patient(target: Target, resource_type: str, parameter: str = "patient") -> list[Resource]:
    """What a search for the patient's gives there, by "patient" or "subject"; strangers' too where it is not honoured.

    Raises EhrFailure where strangers' came from a server that means such a search.
    """
    place = "" if parameter == "patient" else "Patient/"
    found = target.client.search(resource_type, {parameter: f"{place}{target.patient_id}"})
    strangers = any(not is_about(target, r) for r in found)
    if strangers and _means(target, resource_type, parameter, place):
        raise _no_answer(target, "patient")
    return found


def _no_answer(target: Target, asked: str) -> EhrFailure:
    """It says neither that there is nothing nor that there is nothing more."""
    name = target.client.connection.name
    return EhrFailure("unreachable", f"{name}: a search by {asked} was answered with something else.")


def shown(ask: Callable[[], str]) -> str:
    """Where what was just written stands; "" when the EHR doesn't show it, which is no refusal of the write."""
    try:
        return ask()
    except EhrFailure as failure:
        if failure.retryable:
            raise
        return ""


def by_identifier(target: Target, resource: Resource) -> Resource | None:
    """What is there under the first identifier of a resource that we are about to send."""
    identifier = resource["identifier"][0]
    found = with_identifier(target, resource["resourceType"], identifier["system"], identifier["value"])
    return found[0] if found else None


def carries(resource: Resource, system: str, value: str) -> bool:
    """Whether it has this identifier, as any of its own."""
    held = [*resource.get("identifier", []), resource.get("masterIdentifier", {})]
    return any(i.get("system") == system and i.get("value") == value for i in held)


def is_same(target: Target, sent: Resource, there: Resource) -> bool:
    """Whether an answer to a conditional create is what we sent: type, identifier and patient."""
    identifier = sent.get("masterIdentifier") or sent["identifier"][0]
    return (
        there.get("resourceType") == sent["resourceType"]
        and carries(there, identifier["system"], identifier["value"])
        and is_about(target, there)
    )


def named(resource: Resource) -> set[str]:
    """The values of its identifiers."""
    held = [*resource.get("identifier", []), resource.get("masterIdentifier", {})]
    return {i.get("value", "") for i in held}


def documents_of(target: Target) -> list[Resource]:
    """The patient's DocumentReferences there."""
    return [r for r in all_documents(target) if is_about(target, r)]


def all_documents(target: Target) -> list[Resource]:
    """What a search for the patient's DocumentReferences gives there, see `of_patient`."""
    return of_patient(target, "DocumentReference")


def copies_among(
    target: Target, found: list[Resource], is_copy: Callable[[Resource], bool], *, thoroughly: bool
) -> list[Resource]:  # fmt: skip
    """Those of what a search for the patient's gave that are about the patient and copies.

    Raises EhrFailure where a copy may be there (`thoroughly`) and strangers' came instead: that answer does not say
    that there is none.
    """
    ours = [r for r in found if is_about(target, r)]
    copies = [r for r in ours if is_copy(r)]
    if thoroughly and not copies and len(ours) < len(found):
        raise EhrFailure("unreachable", f"{target.client.connection.name}: a search by patient is not honoured.")
    return copies


def content_of(client: Client, resource: Resource, place: int = 0) -> bytes:
    """The bytes of the first attachment of a document, report or message, inline or behind its url on the same server.

    `place` is that of another one. Empty when there are none, or they may not be read.
    """
    try:
        return read_content(client, resource, place)
    except EhrFailure as failure:
        if failure.retryable:
            raise
        return b""


def read_content(client: Client, resource: Resource, place: int = 0) -> bytes:
    """The same, empty when there are none. Raises EhrFailure when they may not be read."""
    form = _form(resource, place)
    if "data" in form:
        try:
            return base64.b64decode(form["data"])
        except (ValueError, TypeError):
            return b""
    url = str(form.get("url", ""))
    ref = refs.parse(url)
    if ref is None or ref.base not in ("", client.base):
        return b""
    return client.file(ref.local, str(form.get("contentType", "")))[1]


def _form(resource: Resource, place: int = 0) -> Resource:
    forms = [c.get("attachment", {}) for c in resource.get("content", [])]
    forms += resource.get("presentedForm", [])
    forms += [p["contentAttachment"] for p in resource.get("payload", []) if "contentAttachment" in p]
    return next((form for form in forms[place:] if isinstance(form, dict)), {})


def if_match(resource: Resource) -> dict[str, str]:
    """The header that an update of this resource as it was read needs; nothing where its version is not known."""
    version = resource.get("meta", {}).get("versionId")
    return {"If-Match": f'W/"{version}"'} if version else {}


def is_version(target: Target, document: Deliverable, resource: Resource) -> bool:
    """Whether it is this version. Where identifiers are dropped, the bytes tell."""
    return document.version_id in named(resource) or content_of(target.client, resource) == document.pdf


def same_documents(target: Target, document: Deliverable, *, thoroughly: bool) -> list[Resource]:
    """The patient's documents there that are this version, see `copies_among`."""
    found = all_documents(target)
    return copies_among(target, found, lambda r: is_version(target, document, r), thoroughly=thoroughly)


def best(found: Iterable[Resource], *, current: Callable[[str], bool]) -> Resource | None:
    """The first whose status is current, else the first; None of none."""
    return min(found, key=lambda r: not current(str(r.get("status"))), default=None)


def first(found: Iterable[Resource], *, current: Callable[[str], bool]) -> str:
    """The reference of the `best`; "" of none."""
    one = best(found, current=current)
    return f"{one['resourceType']}/{one['id']}" if one is not None else ""


def earlier(document: Deliverable, found: Iterable[Resource]) -> list[Resource]:
    """Those issued before the document, newest first. A late worker's old version must not supersede a newer one."""
    dated = [
        (times.interval(str(at)).low, r)
        for r in found
        if (at := r.get("date") or r.get("issued") or r.get("sent"))
        and r.get("status") != "entered-in-error"
        and document.version_id not in named(r)
    ]
    issued = times.interval(document.issued).low
    return [r for low, r in sorted(dated, key=lambda pair: -pair[0]) if low < issued]


def is_of_set(document: Deliverable, resource: Resource) -> bool:
    """Whether it is a version of this document: by the set id, or by the title where an EHR drops identifiers."""
    titles = [resource.get("description", ""), _form(resource).get("title", "")]
    mark = document.title.partition(", version")[0] + ", version"
    return document.set_id in named(resource) or any(str(title).startswith(mark) for title in titles)
