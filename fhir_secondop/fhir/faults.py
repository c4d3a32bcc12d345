"""Faults with their places: what the walk along the tables collects.

A place is a linked tuple and becomes text only when there is a fault to report.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fhir_secondop.errors import Issue

Place = tuple[Any, str, int | None, int]  # the place above, element, index, depth
MAX_FAULTS = 1000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class Walk:
    """The faults found so far, and what a resource's parts need to know of it: contained id → type, itself, what it
    is contained in (or itself again), and its place; and of the Bundle around it, fullUrl → type.
    """

    __slots__ = ("contained", "entries", "errors", "ids", "issues", "notes", "place", "resource", "root")

    def __init__(
        self,
        issues: list[Issue],
        contained: Mapping[str, str],
        resource: Mapping[str, Any] = MappingProxyType({}),
        root: Mapping[str, Any] | None = None,
        place: Place = (None, "", None, 0),
        notes: bool = False,
    ) -> None:
        self.issues = issues
        self.errors = 0
        self.entries: Mapping[str, str] = {}
        self.ids: set[str] = set()
        self.contained = contained
        self.resource = resource
        self.place = place
        self.notes = notes
        self.root = resource if root is None else root

    def fault(self, code: str, place: Place, diagnostics: str, *, severity: str = "error") -> None:
        """`diagnostics` never quotes a value: it may be a patient's.

        After MAX_FAULTS one says that there are more: three bytes can be three faults, each a hundred in the answer.
        """
        if severity == "error":
            self.errors += 1
        if len(self.issues) < MAX_FAULTS:
            self.issues.append(Issue(severity, code, expression(place), diagnostics))
        elif len(self.issues) == MAX_FAULTS:
            said = f"There are more faults than these {MAX_FAULTS}; they are not named."
            self.issues.append(Issue("error", "too-costly", "", said))

    def note(self, place: Place, diagnostics: str) -> None:
        """What was not checked, as information, where somebody has asked for it."""
        if self.notes:
            self.fault("not-supported", place, diagnostics, severity="information")

    def element_id(self, found: Any, place: Place) -> None:
        """Each element's id stands once in a resource.

        Source: https://hl7.org/fhir/R4/element.html#id
        """
        if isinstance(found, str):
            if found in self.ids:
                self.fault("duplicate", child(place, "id"), "is the id of another element of this resource too")
            self.ids.add(found)

    def unknown(self, key: str, place: Place, type_name: str) -> None:
        if _NAME.fullmatch(key):
            self.fault("structure", child(place, key), f"R4 has no element {key} in {type_name}")
        else:
            self.fault("structure", place, f"has a member whose name can't be that of an element of {type_name}")


def root(name: str) -> Place:
    return (None, name, None, 0)


def child(place: Place, name: str, index: int | None = None) -> Place:
    return (place, name, index, place[3] + 1)


def names_below(above: Place, place: Place) -> tuple[str, ...]:
    """The elements on the way from one place down to another."""
    names: list[str] = []
    while place[3] > above[3]:
        names.append(place[1])
        place = place[0]
    return tuple(reversed(names))


def expression(place: Place) -> str:
    """The place as FHIRPath: Patient.contact[0].name. A choice is named without its type: Observation.value."""
    parts: list[str] = []
    step: Place | None = place
    while step is not None:
        parts.append(step[1] if step[2] is None else f"{step[1]}[{step[2]}]")
        step = step[0]
    return ".".join(reversed(parts))
