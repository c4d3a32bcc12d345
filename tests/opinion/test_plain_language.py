"""The report in plain language: the same facts, in words that need no medicine, and nobody is called wrong."""

from __future__ import annotations

import re

import pytest

from fhir_secondop.opinion import codes, plain_language
from tests.opinion import generated

TABLES = (
    plain_language.OVERALL, plain_language.DIAGNOSIS, plain_language.TREATMENT, plain_language.WEIGHT,
    plain_language.STRENGTH,
)  # fmt: skip
SENTENCES = [
    sentence
    for said in (
        *(words for table in TABLES for words in table.values()), plain_language.WITHDRAWN, plain_language.NEWER,
        *plain_language.ASK, *plain_language.ASK_IF_DIFFERENT,
    )
    for sentence in re.split(r"(?<=[.?]) ", said)
    if sentence
]  # fmt: skip


def syllables(word: str) -> int:
    return max(1, len(re.findall("[aeiouy]+", re.sub("e$", "", word.lower()))))


def test_every_code_has_words_and_no_two_codes_of_an_axis_the_same() -> None:
    assert set(plain_language.DIAGNOSIS) == set(codes.DIAGNOSIS_CODES)
    assert set(plain_language.TREATMENT) == set(codes.TREATMENT_CODES)
    assert set(plain_language.WEIGHT) == {"", *codes.SIGNIFICANCES}
    for table in (plain_language.DIAGNOSIS, plain_language.TREATMENT, plain_language.OVERALL):
        assert len(set(table.values())) == len(table)


def test_the_words_are_those_of_a_sixth_grade() -> None:
    words = [word for sentence in SENTENCES for word in re.findall("[A-Za-z]+", sentence)]
    # Flesch-Kincaid grade level, with syllables counted by groups of vowels.
    grade = 0.39 * len(words) / len(SENTENCES) + 11.8 * sum(map(syllables, words)) / len(words) - 15.59

    assert grade < 6
    assert [s for s in SENTENCES if len(s.split()) > 15] == []
    assert [s for s in SENTENCES if re.search("concord|indetermin|escalat|refut|error|wrong", s)] == []


@pytest.mark.parametrize("seed", range(50))
def test_the_plain_words_say_what_the_facts_say(seed: int) -> None:
    said = generated.generate(seed).said
    told = plain_language.of_facts(said)

    if said["status"] == "entered-in-error":
        assert told == {"withdrawn": plain_language.WITHDRAWN}
        return
    words = {"diagnosis": plain_language.DIAGNOSIS, "treatment": plain_language.TREATMENT}
    axes = {about: axis for axis, about in plain_language.SCOPE.items()}
    back = [
        (i["title"], axes[i["about"]], next(c for c, w in words[axes[i["about"]]].items() if w == i["says"]))
        for i in told["items"]
    ]
    assert back == [(i["title"], i["axis"], i["concordance"]) for i in said["items"]]
    assert told["conclusion"] == said["conclusion"]
    assert [a["text"] or a["cannot"] for a in told["answers"]] == [
        a["text"] or a["cannotAnswer"] for a in said["answers"]
    ]
    assert [(o["text"], o["says"]) for o in told["options"]] == [
        (o["text"], plain_language.PREFERENCE[o["preference"]]) for o in said["options"]
    ]
    assert [s["text"] for s in told["suggested"]] == [r["text"] for r in said["recommendations"]]
    overall = next(code for code, words_ in plain_language.OVERALL.items() if words_ == told["overall"])
    assert said["overall"].startswith(overall)
    assert bool(told["about"]) is ("only" in said["overall"])
    assert bool(told["urgent"]) is (said["significance"] == "critical")
    assert bool(told["newer"]) is (said["version"] > 1)
