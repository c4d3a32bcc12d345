"""Scopes asked for → scopes granted: SMART v2 (system/Type.rs) or, at an older EHR, v1 (system/Type.read).

Source: https://hl7.org/fhir/smart-app-launch/scopes-and-launch-context.html
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from fhir_secondop.sandbox.assertions import OAuthError

_V2 = re.compile(r"system/(\*|[A-Z][A-Za-z]+)\.((?=.)c?r?u?d?s?)")
_V1 = re.compile(r"system/(\*|[A-Z][A-Za-z]+)\.(read|write|\*)")
_LETTERS = {"read": "rs", "write": "cud", "*": "cruds"}


@dataclass(frozen=True, slots=True)
class Granted:
    """What is granted: `said` as the client's version of SMART writes it, `v2` as the endpoint understands it."""

    said: tuple[str, ...]
    v2: tuple[str, ...]


def grant(asked: str, *, v1: bool, denied: Collection[str], types: Iterable[str]) -> Granted:
    """What an EHR of one version grants; nothing of the denied types. Raises OAuthError invalid_scope."""
    pairs: list[tuple[str, str]] = []
    for scope in asked.split():
        match = (_V1 if v1 else _V2).fullmatch(scope)
        if match is None:
            raise OAuthError("invalid_scope", f"Scopes here are like system/Patient.{'read' if v1 else 'rs'}.")
        wild = match[1] == "*" and bool(denied)
        pairs += [(kind, match[2]) for kind in (types if wild else [match[1]]) if kind not in denied]
    if not pairs:
        raise OAuthError("invalid_scope", "None of these scopes can be granted.")
    return Granted(
        tuple(f"system/{kind}.{what}" for kind, what in pairs),
        tuple(f"system/{kind}.{_LETTERS.get(what, what)}" for kind, what in pairs),
    )
