"""A copy that was verified once, read again later: what it is now, or that it can't be told. Nothing is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from fhir_secondop.ehr import documents, push
from fhir_secondop.ehr.documents import Deliverable
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.ehr.rungs import Rung
from fhir_secondop.ehr.target import Target, first, read_content
from fhir_secondop.model import Resource

_LOOKED_AT = ("patient", "status", "content")
_CODE = re.compile(r"[a-z-]{1,40}")


@dataclass(frozen=True, slots=True)
class Reread:
    """`state`: "there", "gone" (404 or 410, and found nowhere else), or "unread", which says nothing about the copy.

    `differs` is what speaks against it, by kind; `sha256` that of the content that was read.
    """

    state: str
    why: str = ""
    differs: Mapping[str, str] = field(default_factory=dict)
    status: str = ""
    version: str = ""
    sha256: str = ""


def reread(target: Target, rung: Rung, document: Deliverable, location: str) -> Reread:
    """The copy at that location as it is now. Raises EhrFailure where time may mend that it could not be read.

    One that is not there is looked for: an EHR may have given it another id.
    """
    try:
        there = target.client.read(location)
    except EhrFailure as failure:
        if failure.retryable:
            raise
        if failure.kind != "not-found":
            return Reread("unread", failure.kind)
        return _elsewhere(target, rung, document, location)
    if f"{there.get('resourceType')}/{there.get('id')}" != location:
        return Reread("unread", "something else was answered")
    return _compared(target, rung, document, there)


def _elsewhere(target: Target, rung: Rung, document: Deliverable, location: str) -> Reread:
    try:
        found = first(rung.copies(target, document), current=rung.current)
        if not found:
            return Reread("gone", "not found there")
        there = target.client.read(found)
    except EhrFailure as failure:
        if failure.retryable:
            raise
        return Reread("unread", failure.kind)
    return _compared(target, rung, document, there)


def _compared(target: Target, rung: Rung, document: Deliverable, there: Resource) -> Reread:
    try:
        content = read_content(target.client, there)
    except EhrFailure as failure:
        if failure.retryable:
            raise
        # The document stands there without its file.
        return Reread("gone" if failure.kind == "not-found" else "unread", f"its file: {failure.kind}")
    found = push.differences(target, rung, document, there, content)
    return Reread(
        "there",
        differs={kind: words for kind, words in found.items() if kind in _LOOKED_AT},
        status=status if _CODE.fullmatch(status := str(there.get("status"))) else "unknown",
        version=str(there.get("meta", {}).get("versionId", "")),
        sha256=documents.sha256(content),
    )
