"""A case: one resource text with one verdict."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """`kind`: by which agreement is counted; `name`: unique, and says how the case is made; `valid`: what is meant.

    `against`: a digest of the definitions that it is judged by, where those are not R4's alone.
    """

    kind: str
    name: str
    text: str
    valid: bool | None = None
    profiles: tuple[str, ...] = ()
    against: str = ""

    @property
    def hash(self) -> str:
        parts = (self.text, *self.profiles, self.against) if self.against else (self.text, *self.profiles)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
