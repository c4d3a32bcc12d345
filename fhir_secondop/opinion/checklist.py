"""What a reviewer needs, and what of it is there: a checklist is a file, an item a FHIRPath condition."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from fhir_secondop.fhir import path
from fhir_secondop.model import Resource


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a checklist. `state`: present, missing or not-applicable; `evidence` are references."""

    code: str
    title: str
    state: str
    evidence: tuple[str, ...] = ()
    because: str = ""


@cache
def load(name: str) -> dict[str, Any]:
    """The checklist file of that name in profiles/checklists."""
    text = (files("fhir_secondop.profiles") / "checklists" / f"{name}.json").read_text("utf-8")
    checklist: dict[str, Any] = json.loads(text)
    return checklist


def evaluate(checklist: dict[str, Any], gathered: Iterable[Resource], reviewed: Iterable[Resource]) -> list[Item]:
    """The state of each item: `gathered` are the pulled resources, `reviewed` what is under review."""
    by_type: dict[str, list[Resource]] = {}
    for resource in gathered:
        by_type.setdefault(resource["resourceType"], []).append(resource)
    under_review = list(reviewed)
    return [_evaluate(item, by_type, under_review) for item in checklist["items"]]


def _evaluate(item: dict[str, Any], by_type: dict[str, list[Resource]], reviewed: list[Resource]) -> Item:
    if "applies" in item and not any(_holds(item["applies"], r) for r in reviewed):
        return Item(item["code"], item["title"], "not-applicable", because=f"needed {item['appliesText']}")
    found = [
        f"{r['resourceType']}/{r['id']}"
        for kind in item["types"]
        for r in by_type.get(kind, [])
        if _holds(item["where"], r)
    ]
    if found:
        return Item(item["code"], item["title"], "present", tuple(found))
    # Missing is not negative: it says that nobody sent it, not that it does not exist.
    return Item(item["code"], item["title"], "missing", because="no source sent it")


def _holds(condition: str, resource: Resource) -> bool:
    return condition == "true" or path.evaluate(condition, resource) == [True]
