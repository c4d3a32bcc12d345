"""Quirks of files and their media types. Rows of the table in `quirks`."""

from __future__ import annotations

import base64
import hashlib

from werkzeug.wrappers import Response

from fhir_secondop.sandbox.answers import JSON, put_resource, resource_in
from fhir_secondop.sandbox.traffic import Around, Asked, GoOn

_KNOWN = ("application/fhir+json", "application/json", "*/*")


def _accepts(asked: Asked) -> set[str]:
    return {part.partition(";")[0].strip() for part in (asked.header("Accept") or "*/*").split(",")}


def not_acceptable(asked: Asked, go_on: GoOn) -> Response:
    """406 and no body, where another would say what it can do; the bytes of a file are asked for by their own type."""
    if _accepts(asked) & set(_KNOWN) or (asked.kind, asked.type) == ("read", "Binary"):
        return go_on(asked)
    return Response(b"", 406)


def raw_binary(value: str) -> Around:
    """A Binary's bytes as they are, unless FHIR is asked for; with "always" even then."""

    def around(asked: Asked, go_on: GoOn) -> Response:
        fhir = _accepts(asked) & {"application/fhir+json", "application/json"}
        if (asked.kind, asked.type) != ("read", "Binary") or (fhir and value != "always"):
            return go_on(asked)
        asked.environ["HTTP_ACCEPT"] = JSON
        answer = go_on(asked)
        binary = resource_in(answer)
        if binary is None:
            return answer
        return Response(base64.b64decode(binary.get("data", "")), 200, content_type=binary["contentType"])

    return around


def wrong_hash(asked: Asked, go_on: GoOn) -> Response:
    """Every DocumentReference states the hash and size of something else."""
    answer = go_on(asked)
    found = resource_in(answer) if asked.kind in ("read", "search") and asked.type == "DocumentReference" else None
    if found is None:
        return answer
    held = [e["resource"] for e in found.get("entry", [])] if found["resourceType"] == "Bundle" else [found]
    for document in held:
        for content in document.get("content", []):
            content["attachment"] |= {"hash": base64.b64encode(hashlib.sha1(b"another").digest()).decode(), "size": 7}
    put_resource(answer, found)
    return answer
