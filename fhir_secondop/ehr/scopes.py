"""SMART scopes: which we ask for, in version 2 and 1, and what those that were granted allow.

Source: https://hl7.org/fhir/smart-app-launch/scopes-and-launch-context.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_SCOPE = re.compile(r"system/(?P<type>\*|[A-Za-z]+)\.(?P<rights>\*|read|write|[cruds]+)(?:\?.*)?")
_V1 = {"read": "rs", "write": "cud", "*": "cruds"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """The types that we read and search, and those that we also create and update."""

    read: tuple[str, ...]
    written: tuple[str, ...]

    def tries(self, configuration: dict[str, Any]) -> list[str]:
        """Scope strings to ask for, one after the other until one is taken.

        Version 2 first, unless the server says that it knows only version 1.
        """
        declared = configuration.get("capabilities")
        declared = declared if isinstance(declared, list) else []
        if "permission-v1" in declared and "permission-v2" not in declared:
            return [self.v1()]
        return [self.v2(), self.v1()]

    def v2(self) -> str:
        """ "system/Condition.rs system/DocumentReference.rs system/DocumentReference.cu …".

        Reading and writing apart: a server that grants no writing would else refuse the reading with it.
        """
        return " ".join(
            [f"system/{kind}.rs" for kind in dict.fromkeys((*self.read, *self.written))]
            + [f"system/{kind}.cu" for kind in dict.fromkeys(self.written)]
        )

    def v1(self) -> str:
        """ "system/Condition.read system/DocumentReference.read system/DocumentReference.write …"."""
        kinds = dict.fromkeys((*self.read, *self.written))
        return " ".join(
            [f"system/{kind}.read" for kind in kinds] + [f"system/{kind}.write" for kind in dict.fromkeys(self.written)]
        )


def useful(granted: Iterable[str] | None) -> bool:
    """Whether these scopes allow anything at all. None is not known, which may."""
    return granted is None or any(_SCOPE.fullmatch(scope) for scope in granted)


def permits(granted: Iterable[str] | None, resource_type: str, letter: str) -> bool:
    """Whether one of these scopes allows c, r, u, d or s on a type. None is not known, which permits."""
    if granted is None:
        return True
    for scope in granted:
        match = _SCOPE.fullmatch(scope)
        if match and match["type"] in ("*", resource_type) and letter in _V1.get(match["rights"], match["rights"]):
            return True
    return False
