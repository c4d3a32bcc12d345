"""A Binary as the bytes that it is: for whoever asks for no FHIR.

R4 would have the bytes go out for */* too; that stays the resource here, as for every other type.
Source: https://hl7.org/fhir/R4/binary.html#rest
"""

from __future__ import annotations

import base64

from flask import Response, request

from fhir_secondop.errors import NotAcceptable
from fhir_secondop.rest import formats
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.store.resources import Stored

_ANY = "application/octet-stream"


def is_wanted(endpoint: Endpoint, resource_type: str) -> bool:
    """Whether the bytes of a Binary are asked for, and not the resource."""
    asked = request.method in ("GET", "HEAD") and resource_type == "Binary" and "_format" not in request.args
    return asked and bool(formats.offers()) and not formats.is_fhir_taken(xml=endpoint.xml)


def answer(found: Stored) -> Response:
    """The bytes with their own content type, to be saved and never run. Raises NotAcceptable for another type."""
    kind = str(found.resource.get("contentType", _ANY))
    plain = kind.partition(";")[0].strip().lower()
    wanted = {_ANY, plain, plain.partition("/")[0] + "/*"}
    if not wanted & set(formats.offers()):
        raise NotAcceptable(f"This Binary is {kind}; ask for that, for {_ANY}, or for {formats.JSON}.")
    data = base64.b64decode(found.resource.get("data", ""))
    # Somebody else's file may be a page with a script; it is not shown at our address.
    headers = {"Content-Disposition": "attachment", "Content-Security-Policy": "default-src 'none'; sandbox",
               "X-Content-Type-Options": "nosniff", "ETag": found.etag}  # fmt: skip
    return Response(data, headers=headers, content_type=kind)
