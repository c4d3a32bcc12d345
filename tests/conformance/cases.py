"""A case: one resource text with one verdict."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """`kind`: by which agreement is counted; `name`: unique, and says how the case is made; `valid`: what is meant."""

    kind: str
    name: str
    text: str
    valid: bool | None = None
    profiles: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        return hashlib.sha256("\n".join((self.text, *self.profiles)).encode()).hexdigest()[:12]
