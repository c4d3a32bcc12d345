"""Cases of ours: the examples and counterexamples of our profiles, examples/, and what the program composes of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from fhir_secondop.fhir import codec
from fhir_secondop.opinion import codes, document
from tests.conformance.cases import Case
from tests.fhir import test_own_profiles as ours
from tests.opinion import cases as stories

ROOT = Path(__file__).parents[2]
DEFINED = ("codesystems", "conceptmaps", "structures", "valuesets")
# Another commit has others, so that the table of verdicts need not have them.
KINDS = ("composed by us", "our definitions", "our examples", "our profiles: one fault", "our profiles: sound")


def cases() -> Iterator[Case]:
    yield from _of_profiles()
    yield from _of_examples()
    yield from _composed()


@cache
def definitions() -> str:
    """A digest of our profiles, value sets and code systems: what they say decides the verdicts of these cases."""
    files = sorted(path for folder in DEFINED for path in (ROOT / "profiles" / folder).glob("*.json"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _case(kind: str, name: str, resource: Any, valid: bool | None, *profiles: str) -> Case:
    urls = tuple(map(codes.extension, profiles))
    return Case(kind, f"{kind} / {name}", codec.dumps(resource), valid, urls, definitions())


def _of_profiles() -> Iterator[Case]:
    for profile, resources in ours.EXAMPLES.items():
        for number, resource in enumerate(resources):
            yield _case("our profiles: sound", f"{profile} {number}", resource, True, profile)
    for key, (profile, holds, fails, _) in ours.INVARIANTS.items():
        yield _case("our profiles: sound", f"{key} holds", holds, True, profile)
        yield _case("our profiles: one fault", key, fails, False, profile)
    for name, (profile, resource, _) in ours.REFUSED.items():
        yield _case("our profiles: one fault", name, resource, False, profile)


def _of_examples() -> Iterator[Case]:
    for path in sorted((ROOT / "examples").rglob("*.json")):
        text = path.read_text("utf-8")
        if "resourceType" in json.loads(text):
            yield Case("our examples", f"our examples / {path.relative_to(ROOT)}", text, True, against=definitions())
    for folder in DEFINED:
        for path in sorted((ROOT / "profiles" / folder).glob("*.json")):
            name, text = f"our definitions / {folder}/{path.name}", path.read_text("utf-8")
            yield Case("our definitions", name, text, True, against=definitions())


def _composed() -> Iterator[Case]:
    """Each resource of a case of the examples with a signed report, and the document that is signed."""
    for story in stories.EXAMPLES:
        case = stories.case_of(story)
        drafts = {"first": stories.draft_of(story), "amended": stories.amended_draft_of(story)}
        for resource in case.resources:
            yield _case("composed by us", f"{story} {resource['resourceType']}/{resource['id']}", resource, True)
        for version, draft in drafts.items():
            whole = stories.with_report(case, draft)
            made = stories.composed(case, draft, status="final")
            for resource in made:
                name = f"{story} {version} {resource['resourceType']}/{resource['id']}"
                yield _case("composed by us", name, resource, True)
            reviewer = case.directory.person(stories.person_ref("the-reviewer"))
            signed = document.bundle(whole, made, reviewer, 1, stories.NOW, "https://secondop.example/fhir")
            yield _case("composed by us", f"{story} {version} document", signed, True)
