"""Does a reviewer speak the patient's language? Compared by BCP 47, or by the words in which both say it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes


def judged(needed: Sequence[Resource], spoken: Sequence[Resource]) -> tuple[str, str]:
    """pass, warn or unknown, and the fact. Another language is a warning: an interpreter helps."""
    if not needed:
        return "unknown", "the patient's language is not known"
    asked = ", ".join(map(words, needed))
    if not spoken:
        return "unknown", f"no language is stated; the patient's is {asked}"
    if _tags(needed) & _tags(spoken) or _texts(needed) & _texts(spoken):
        return "pass", f"speaks {asked}"
    stated = ", ".join(map(words, spoken))
    if all(_tags([one]) for one in (*needed, *spoken)):
        return "warn", f"speaks {stated}; the patient's language is {asked}: an interpreter is needed"
    return "unknown", f"{stated} can't be compared with {asked}"


def _tags(concepts: Iterable[Resource]) -> set[str]:
    """The primary subtags: es-MX is Spanish."""
    codings = (coding for concept in concepts for coding in concept.get("coding", []))
    return {str(c["code"]).split("-")[0].lower() for c in codings if c.get("system") == codes.LANGUAGE and "code" in c}


def _texts(concepts: Iterable[Resource]) -> set[str]:
    found = (text for one in concepts for text in (one.get("text"), *(c.get("display") for c in one.get("coding", []))))
    return {str(text).casefold() for text in found if text}


def words(concept: Resource) -> str:
    """A language for people."""
    codings = concept.get("coding", [])
    said = [concept.get("text"), *(c.get("display") for c in codings), *(c.get("code") for c in codings)]
    return str(next((text for text in said if text), "a language without a name"))
