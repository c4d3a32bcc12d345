"""The files of checklists: read, checked, and the right one chosen. A site adds its own to ours.

profiles/checklists/README.md describes the format, profiles/schemas/checklist.json is its JSON Schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fhir_secondop.errors import Invalid, Issue, NotFound, Unsupported
from fhir_secondop.fhir import definitions, path
from fhir_secondop.model import Resource
from fhir_secondop.opinion.conditions import Condition, Seen, codes_of, meets

if TYPE_CHECKING:
    import jsonschema

Checklist = dict[str, Any]
FALL_BACK = "generic"


def load(name: str, folder: Path | None = None) -> Checklist:
    """The checklist of that name: the site's, or else ours. Raises NotFound; Invalid names the file and the item."""
    texts = _texts(folder)
    if name not in texts:
        raise NotFound(f"There is no checklist {name}; there are {', '.join(sorted(texts))}.")
    return _checked(f"{name}.json", texts[name])


def choose(reviewed: Iterable[Resource], folder: Path | None = None) -> Checklist:
    """The checklist for what is under review: the first item of it that one is for decides; else the generic one.

    A file of the site's folder replaces ours of the same name, and is asked before ours.
    """
    texts = _texts(folder)
    special = [found for name in texts if "for" in (found := _checked(f"{name}.json", texts[name]))]
    for resource in reviewed:
        for checklist in special:
            if meets(checklist["for"], Seen(resource)):
                return checklist
    return load(FALL_BACK, folder)


def _texts(folder: Path | None) -> dict[str, str]:
    """Name → text, the site's first."""
    theirs = sorted(folder.glob("*.json")) if folder else []
    shipped = files("fhir_secondop.profiles") / "checklists"
    ours = sorted((p for p in shipped.iterdir() if p.name.endswith(".json")), key=lambda p: p.name)
    found: dict[str, str] = {}
    for file in [*theirs, *ours]:
        found.setdefault(file.name.removesuffix(".json"), file.read_text("utf-8"))
    return found


@cache
def _validator() -> jsonschema.Draft202012Validator:
    import jsonschema  # where it is used: a start needs no checklist

    text = (files("fhir_secondop.profiles") / "schemas" / "checklist.json").read_text("utf-8")
    return jsonschema.Draft202012Validator(json.loads(text))


@cache
def _checked(file: str, text: str) -> Checklist:
    """The text as a checklist. Kept by its text: a file that is edited is read anew."""
    try:
        checklist = json.loads(text)
    except ValueError as error:
        raise Invalid(f"{file} is not JSON: {error}.", path=file) from error
    faults = sorted(_validator().iter_errors(checklist), key=lambda fault: [str(p) for p in fault.absolute_path])
    if faults:
        issues = [_issue(file, checklist, [str(p) for p in fault.absolute_path], fault.message) for fault in faults]
        raise Invalid(issues[0].diagnostics, issues=issues)
    codes = [item["code"] for item in checklist["items"]]
    twice = next((code for code in codes if codes.count(code) > 1), None)
    if twice is not None:
        raise Invalid(f"{file}, item {twice}: the code stands there twice.", path="items")
    for where, condition in _conditions(checklist):
        _check_condition(f"{file}, {where}", condition)
    found: Checklist = checklist
    return found


def _issue(file: str, checklist: Any, place: list[str], message: str) -> Issue:
    return Issue("error", "invalid", ".".join(place), f"{file}, {_item_at(checklist, place)}: {message}.")


def _item_at(checklist: Any, place: list[str]) -> str:
    """ "item images (words)", or where else in the file."""
    if len(place) > 1 and place[0] == "items":
        item = checklist["items"][int(place[1])]
        code = item.get("code", "without a code") if isinstance(item, Mapping) else "without a code"
        rest = ".".join(place[2:])
        return f"item {code}" + (f" ({rest})" if rest else "")
    return ".".join(place) or "the whole"


def _conditions(checklist: Checklist) -> Iterator[tuple[str, Condition]]:
    if "for" in checklist:
        yield "for", checklist["for"]
    for item in checklist["items"]:
        yield f"item {item['code']}", item
        for name in ("applies", "appliesRecord", "absentWhen"):
            if name in item:
                yield f"item {item['code']} ({name})", item[name]


def _check_condition(place: str, condition: Condition) -> None:
    """Raises Invalid if a type, value set or FHIRPath expression in it is none."""
    expression = condition if isinstance(condition, str) else condition.get("where", "true")
    try:
        path.evaluate(expression, {"resourceType": "Basic"})
        if not isinstance(condition, str):
            codes_of(tuple(condition.get("codes", ())))
    except Unsupported as error:
        raise Invalid(f"{place}: {expression!r} is no FHIRPath expression.", path=place) from error
    except Invalid as error:
        raise Invalid(f"{place}: {error.message}", path=place) from error
    if isinstance(condition, str):
        return
    for kind in condition.get("types", ()):
        if kind not in definitions.resource_types():
            raise Invalid(f"{place}: {kind} is no resource type of FHIR R4.", path=place)
    for part in (*condition.get("anyOf", ()), *([condition["except"]] if "except" in condition else ())):
        _check_condition(place, part)
