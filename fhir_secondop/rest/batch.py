"""A batch: each entry is the request that it says, asked by the same caller, with an answer of its own.

Each goes the way of any request, with its rights, its audit and its transaction; none depends on another, and what one
of them fails with is its own.
Source: https://hl7.org/fhir/R4/http.html#transaction
"""

from __future__ import annotations

import time
from collections.abc import Collection

from flask import Response

from fhir_secondop.errors import Invalid, SecondOpError, TooLarge, Unavailable, Unsupported, http_status
from fhir_secondop.fhir import codec, refs
from fhir_secondop.model import Caller, Resource
from fhir_secondop.rest import answers, disclosure, inner, outcome, patching
from fhir_secondop.rest.endpoint import Endpoint


def run(endpoint: Endpoint, caller: Caller, bundle: Resource, text: str) -> Response:
    """The batch-response: an entry for each one sent, in their order."""
    if "batch" not in endpoint.system:
        raise Unsupported("Batches are not offered here; see metadata.", path="Bundle.type")
    disclosure.access().operation = "batch"
    entries = bundle.get("entry", [])
    # What is wrong with a resource is its entry's matter.
    answers.valid({**bundle, **({"entry": [_bare(entry) for entry in entries]} if entries else {})}, text)
    texts = codec.entry_resources(text)
    known = {entry["fullUrl"] for entry in entries if entry.get("fullUrl", "").startswith("urn:")}
    limits = endpoint.limits
    ends, size, done = time.monotonic() + limits.max_batch_s, 0, []
    for place, entry in enumerate(entries):
        try:
            if time.monotonic() > ends:
                said = f"The batch has taken {limits.max_batch_s:g} seconds (max_batch_s)"
                raise Unavailable(f"{said}; nothing was done, send this entry again.")
            if size > limits.max_batch_bytes:
                said = f"The answers before this one have over {limits.max_batch_bytes} bytes (max_batch_bytes)"
                raise TooLarge(f"{said}; nothing was done, send this entry again.")
            answered = _entry(endpoint, place, entry, texts[place] if place < len(texts) else None, known)
        except SecondOpError as error:
            answered = inner.said(http_status(error), {"outcome": outcome.of_error(error)})
        size += len(answered)
        done.append(answered)
    return answers.done_answer("batch-response", done)


def _bare(entry: Resource) -> Resource:
    return {name: value for name, value in entry.items() if name != "resource"}


def _entry(endpoint: Endpoint, place: int, entry: Resource, text: str | None, known: Collection[str]) -> str:
    """Asks what an entry says; the text of its answer's entry."""
    asked, here = entry["request"], f"Bundle.entry[{place}]"
    address = inner.address(asked["url"], endpoint.base_url)
    if address is None:
        raise Invalid("This is no address below the base.", path=f"{here}.request.url")
    is_read = asked["method"] in ("GET", "HEAD")
    if not address[0] and not is_read:
        raise Invalid("A batch holds no other Bundle to run.", path=f"{here}.request.url")
    content = text or ""
    if asked["method"] == "PATCH":
        content = patching.sent_patch(entry.get("resource", {}), f"{here}.resource")
    elif text is not None and any(link in known for link in refs.find(entry["resource"])):
        raise Invalid(
            "In a batch no entry may refer to another; send them as a transaction.", path=f"{here}.resource"
        )  # fmt: skip
    answer = inner.ask(*address, asked, content)
    return inner.entry_of(endpoint, answer, is_write=not is_read and "$" not in address[0])
