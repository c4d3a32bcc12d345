"""The bytes of Attachments: their hash, and a resource without them.

Source: https://hl7.org/fhir/R4/datatypes.html#Attachment
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any


def digest(data: bytes) -> str:
    """What Attachment.hash says of these bytes: SHA-1, which R4 wants, in base64."""
    return base64.b64encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode()


def without_data(value: Any, longest: int) -> Any:
    """A resource, or a part of one, in which size and hash stand for data of more than `longest` characters.

    Data that nobody can decode goes without them.
    """
    if isinstance(value, list):
        return [without_data(each, longest) for each in value]
    if not isinstance(value, dict):
        return value
    if "contentType" not in value or len(value.get("data", "")) <= longest:
        return {name: without_data(each, longest) for name, each in value.items()}
    kept = {name: each for name, each in value.items() if name != "data"}
    try:
        data = base64.b64decode(value["data"])
    except ValueError:
        return kept
    return {**kept, "size": len(data), "hash": digest(data)}
