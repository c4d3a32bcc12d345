"""A delivery rehearsed: everything is read as it would be, and what would be written is kept instead of sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fhir_secondop.ehr.client import JSON, Client, Written
from fhir_secondop.fhir import codec
from fhir_secondop.model import Resource


@dataclass(frozen=True, slots=True)
class Request:
    """One request that would be sent, to the byte."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes


class Rehearsal(Client):
    """A client that writes nothing; what it would create gets a placeholder for the id that the EHR would give."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.requests: list[Request] = []

    def write(self, method: str, path: str, resource: Resource, headers: Mapping[str, str] | None = None) -> Written:
        """Keeps the request."""
        url = f"{self.base}/{path}" if path else self.base
        body = codec.dumps(resource).encode()
        self.requests.append(Request(method, url, {**(headers or {}), "Content-Type": JSON}, body))
        if method == "PUT" or not path:
            return Written(200, path, None)
        return Written(201, f"{path}/the-id-that-it-gives-{len(self.requests)}", None)

    def message(self, data: bytes, control_id: str) -> str:
        """Keeps the message."""
        where = self.connection.hl7 or f"{self.connection.hl7_folder}/{control_id}.hl7"
        self.requests.append(Request("HL7", where, {}, data))
        return "not sent"
