"""A file of the case's record, or of its signed report, for whoever may see the case."""

from __future__ import annotations

import base64
import binascii

from fhir_secondop.errors import NotFound
from fhir_secondop.fhir import refs
from fhir_secondop.model import Caller, Resource
from fhir_secondop.opinion import lines
from fhir_secondop.service.context import Context
from fhir_secondop.store import resources


def read(context: Context, caller: Caller, case_id: str, reference: str, place: int) -> tuple[bytes, str]:
    """The bytes and the content type of one file of a copy ("DocumentReference/…"). Raises NotFound."""
    visibility = context.visibility(caller)
    kind, _, resource_id = reference.partition("/")
    gone = NotFound("The case has no such file.")
    with context.database.reading() as connection:
        stored = resources.find(connection, visibility, kind, resource_id)
        if stored is None or stored.deleted or stored.case_id != case_id:
            raise gone
        listed = lines.attachments(stored.resource)
        if not 0 <= place < len(listed):
            raise gone
        one = listed[place]
        if not one.get("data"):
            ref = refs.parse(str(one.get("url", "")))
            local = ref.local if ref else ""
            if not local.startswith("Binary/"):
                raise NotFound("This file was not brought along; its source names it only.")
            binary = resources.find(connection, visibility, "Binary", local.removeprefix("Binary/"))
            if binary is None or binary.deleted or binary.case_id != case_id:
                raise gone
            one = {**one, **binary.resource}
    return _bytes(one), str(one.get("contentType", "application/octet-stream"))


def _bytes(attachment: Resource) -> bytes:
    try:
        return base64.b64decode(attachment.get("data", ""))
    except (binascii.Error, ValueError) as error:
        raise NotFound("This file can't be read: its text is no base64.") from error
