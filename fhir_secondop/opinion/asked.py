"""Who was asked for something that is not there, and what it said: the manifest, read for one item of a checklist."""

from __future__ import annotations

from collections.abc import Iterable

from fhir_secondop.model import Answer

Said = tuple[str, Answer]
"""(name of the source, what it answered for one type)."""

# How the detail of a refusal begins when it is the source's rules that keep the data back, and not a fault.
_KEPT_BACK = ("policy", "scope", "the scope was not granted")
_WORDS = {
    "not-offered": "does not offer {}",
    "refused": "refused {}",
    "truncated": "broke off {}",
    "failed": "could not be read for {}",
    "not-asked": "was not asked for {}",
}


def concerning(types: Iterable[str], said: Iterable[Said]) -> list[Said]:
    """The lines of the manifest about these types; a source that could not be asked at all has one line for all."""
    wanted = {*types, "*"}
    return [(source, answer) for source, answer in said if answer.type in wanted]


def keeps_back(answer: Answer) -> bool:
    """Whether the source says that it withholds data of this type, or refuses it by its rules."""
    return answer.withheld or (answer.outcome == "refused" and answer.detail.startswith(_KEPT_BACK))


def in_words(types: Iterable[str], said: Iterable[Said]) -> str:
    """ "Lakeside sent 8 DiagnosticReport, none of them this, and does not offer ImagingStudy; Riverside refused …"."""
    by_source: dict[str, list[Answer]] = {}
    for source, answer in concerning(types, said):
        by_source.setdefault(source, []).append(answer)
    parts = [f"{source or 'a source'} {' and '.join(_of(answers))}" for source, answers in by_source.items()]
    return "; ".join(parts) or "no source was asked"


def _of(answers: list[Answer]) -> list[str]:
    """What one source said, as the ends of a sentence. Of a source that was not asked the manifest says why."""
    whole = [a.detail.rstrip(".") for a in answers if a.type == "*"]
    if whole:
        return [f"was not asked ({whole[0]})" if whole[0] else "was not asked"]
    sent = [f"{a.received} {a.type}" for a in answers if a.received]
    empty = [a.type for a in answers if not a.received and a.outcome == "answered"]
    ends = [f"sent {', '.join(sent)}, none of them this"] if sent else []
    if empty:
        ends.append(f"sent no {' or '.join(empty)}")
    for outcome, words in _WORDS.items():
        types = [a.type for a in answers if a.outcome == outcome]
        if types:
            ends.append(words.format(", ".join(types)))
    withheld = [a.type for a in answers if a.withheld]
    if withheld:
        ends.append(f"says that it withholds {', '.join(withheld)}")
    return ends
