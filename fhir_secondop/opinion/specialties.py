"""Which specialties are the same: by code, or by the pairs of profiles/specialties (NUCC and SNOMED CT)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from fhir_secondop.model import Resource

SAME, OTHER, UNKNOWN = "same", "other", "unknown"


def compare(mine: str, theirs: str) -> str:
    """SAME, OTHER or UNKNOWN of two codes ("system|code"): of two systems only what stands in a pair differs."""
    left, right = _meanings(mine), _meanings(theirs)
    if left & right:
        return SAME
    both_are_mapped = len(left) > 1 and len(right) > 1
    return OTHER if _system(mine) == _system(theirs) or both_are_mapped else UNKNOWN


def both_primary_care(mine: str, theirs: str) -> bool:
    """Whether both are specialties of primary care: what one of them decided is a question for the other."""
    return {mine, theirs} <= _primary_care()


def codings(concepts: list[Resource]) -> Iterator[tuple[str, str]]:
    """ "system|code" and the words of every Coding of these CodeableConcepts."""
    for concept in concepts:
        for coding in concept.get("coding", []):
            if "code" in coding:
                code = f"{coding.get('system', '')}|{coding['code']}"
                yield code, str(coding.get("display") or concept.get("text") or coding["code"])


def _meanings(code: str) -> frozenset[str]:
    return frozenset({code}).union(*(pair for pair in _pairs() if code in pair))


def _system(code: str) -> str:
    return code.rpartition("|")[0]


@cache
def _pairs() -> frozenset[frozenset[str]]:
    return frozenset(frozenset(pair) for pair in _file("nucc-snomed")["equivalent"])


@cache
def _primary_care() -> frozenset[str]:
    return frozenset(_file("primary-care")["primary_care"])


def _file(name: str) -> dict[str, Any]:
    text = (files("fhir_secondop.profiles") / "specialties" / f"{name}.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded
