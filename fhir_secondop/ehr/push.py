"""Deliver one version of a document to one EHR, and believe nothing that was not read back."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

from fhir_secondop.ehr import documents
from fhir_secondop.ehr.documents import Deliverable
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.ehr.rungs import Rung
from fhir_secondop.ehr.target import Target, best, content_of, first, is_about
from fhir_secondop.errors import Conflict
from fhir_secondop.fhir import refs
from fhir_secondop.model import Receipt, Resource

SIGNED = "signed document"
"""What is said to have been dropped where it did not arrive whole."""
_SPACE = re.compile(r"\s+")


def check_patient(target: Target) -> None:
    """Reads the patient there once more. Raises Conflict when the record is inactive or was merged into another."""
    patient = target.client.read(target.patient)
    if patient.get("active") is False:
        raise Conflict("The patient's record there is inactive; a person must look.")
    if any(link.get("type") == "replaced-by" for link in patient.get("link", [])):
        raise Conflict("The patient's record there was replaced by another; a person must look.")


def look(target: Target, rung: Rung, document: Deliverable, *, begun: bool = False) -> Receipt | None:
    """The receipt of a copy of this version that is there already, verified as after sending; None if there is none.

    Where sending had `begun` a copy is also looked for that lost its identifier. What a worker that was killed after
    sending left undone, the mark on earlier copies, is done.
    """
    copies = rung.copies(target, document, thoroughly=begun)
    if not copies:
        return None
    found = first(copies, current=rung.current)
    return _superseding(target, rung, document, verify(target, rung, document, found, how="found there"))


def at(target: Target, rung: Rung, document: Deliverable, location: str) -> Receipt:
    """The receipt of the copy that is said to be there, whether or not a search shows it."""
    return _superseding(target, rung, document, verify(target, rung, document, location, how="found there"))


def send(target: Target, rung: Rung, document: Deliverable) -> Receipt:
    """Sends, then reads back. The caller has looked before."""
    older = rung.older(target, document) if document.version > 1 else []
    location = rung.send(target, document, older)
    if not rung.reads_back:
        return Receipt("accepted", "unverifiable", rung.number, location, {"how": "sent", "why": "not to be read back"})
    return _superseding(target, rung, document, verify(target, rung, document, location, how="sent"))


def _superseding(target: Target, rung: Rung, document: Deliverable, receipt: Receipt) -> Receipt:
    """The receipt with whether the earlier copies there are marked, after marking those that are not.

    A copy that does not hold what we sent replaces nothing.
    """
    if document.version == 1 or receipt.copy == "mismatch":
        return receipt
    try:
        older = rung.older(target, document)
        for old in older:
            rung.supersede(target, old)
        marked = all(not rung.current(str(r.get("status"))) for r in rung.older(target, document)) if older else True
    except EhrFailure as failure:
        if failure.retryable:
            raise
        older, marked = [{}], False  # it shows us no more: what stands there is not known to be marked
    if not older:
        return receipt
    return replace(receipt, evidence={**receipt.evidence, "superseded": "marked" if marked else "unmarked"})


def verify(target: Target, rung: Rung, document: Deliverable, location: str, *, how: str) -> Receipt:
    """Reads the copy back: mapped patient, current, our version, same bytes or same normalised text.

    Where its place may not be read, the copy that a search shows is taken. What can't be read is unverifiable; what
    differs is a mismatch, and says in what.
    """
    if not location:
        return Receipt("accepted", "unverifiable", rung.number, evidence={"how": how, "why": "no location was given"})
    try:
        there = target.client.read(location)
    except EhrFailure as failure:
        if failure.retryable:
            raise
        found = _searched(target, rung, document)
        if found is None:
            return Receipt("accepted", "unverifiable", rung.number, location, {"how": how, "why": failure.kind})
        there, location = found, f"{found['resourceType']}/{found['id']}"
    content = content_of(target.client, there)
    faults = differences(target, rung, document, there, content)
    several = _several(target, rung, document, there)
    sent = rung.sample(target, document)
    dropped = tuple(sorted(name for name in sent if name not in there))
    if any(content_of(target.client, there, place) != data for place, data in _signed(document, sent)):
        dropped += (SIGNED,)
    evidence = {
        "how": how,
        "sha256": documents.sha256(content),
        "read-version": str(there.get("meta", {}).get("versionId", "")),
    }
    if several:
        evidence["duplicates"] = several
    if faults:
        evidence["why"] = "; ".join(faults.values())
    return Receipt("accepted", "mismatch" if faults else "verified", rung.number, location, evidence, dropped)


def _searched(target: Target, rung: Rung, document: Deliverable) -> Resource | None:
    """The copy of this version that a search shows: the place that was given may be another's, or not be shown."""
    try:
        copies = rung.copies(target, document)
    except EhrFailure as failure:
        if failure.retryable:
            raise
        return None
    return best(copies, current=rung.current)


def _several(target: Target, rung: Rung, document: Deliverable, there: Resource) -> str:
    """What of this version is there more than once ("2 DocumentReference"), whoever stored it again; "" of nothing, and
    where the EHR does not show us.
    """
    shown = _standing(target, rung, document, there) or _standing(target, rung, document, there)
    if shown is None:
        return ""
    copies, parts = shown
    standing = {r.get("id") for r in [there, *copies] if r.get("status") != "entered-in-error"}
    several = Counter({rung.type: len(standing)})
    for (kind, _), ids in _by_identifier(parts).items():
        several[kind] = max(several[kind], len(ids))
    return ", ".join(f"{count} {kind}" for kind, count in several.items() if count > 1)


def _standing(
    target: Target, rung: Rung, document: Deliverable, there: Resource
) -> tuple[list[Resource], list[Resource]] | None:
    """The copies of this version there, and what stands beside them; None where it refuses to show them.

    Who asks asks twice: it did show us, before we sent.
    """
    try:
        copies = rung.copies(target, document)
        if there.get("id") not in [r["id"] for r in copies]:
            # It lost what it is searched by, or the search does not mean it.
            copies = rung.copies(target, document, thoroughly=True)
        return copies, rung.parts(target, document)
    except EhrFailure as failure:
        if failure.kind == "validation":  # it says no FHIR: that is no answer, and another may be
            raise EhrFailure("unreachable", failure.message) from failure
        if failure.retryable:
            raise
        return None


def _by_identifier(parts: list[Resource]) -> dict[tuple[str, str], set[str]]:
    """The ids of what counts, by type and our identifier, which is the first."""
    found: dict[tuple[str, str], set[str]] = {}
    for part in parts:
        if part.get("status") != "entered-in-error":
            found.setdefault((part["resourceType"], part["identifier"][0].get("value", "")), set()).add(part["id"])
    return found


def _signed(document: Deliverable, sent: Resource) -> list[tuple[int, bytes]]:
    """What goes along of the signed document, and at which place: what is not there any more can't mislead."""
    parts = len(sent.get("content", []))
    return [(1, document.signed), (2, document.signature.encode())] if parts == 3 else []


def differences(target: Target, rung: Rung, document: Deliverable, there: Resource, content: bytes) -> dict[str, str]:
    """What speaks against a copy, by its kind: "patient", "status", "content", "references"."""
    faults = {}
    if not is_about(target, there):
        faults["patient"] = "it is about another patient"
    if not rung.current(str(there.get("status"))):
        faults["status"] = f"its status is {there.get('status')}"
    ours = documents.text_for(document, target.client.site).encode() if rung.as_text() else document.pdf
    same = content == ours or (rung.as_text() and _normalised(content) == _normalised(ours))
    if not same:
        faults["content"] = "its content differs from what was sent"
    if any(r.startswith("urn:uuid:") or "?" in r for r in refs.find(there)):
        faults["references"] = "a reference of the transaction was not resolved"
    return faults


def _normalised(content: bytes) -> str:
    return _SPACE.sub(" ", content.decode("utf-8", "replace")).strip()
