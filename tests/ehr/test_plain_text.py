"""A text as an EHR can hold it: nothing is left out without saying so, and nothing becomes a question mark."""

from __future__ import annotations

import base64
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from fhir_secondop.ehr import plain_text, push
from fhir_secondop.ehr.ladder import choose
from fhir_secondop.opinion import render
from tests.ehr.conftest import Ehrs, document, held, target_at
from tests.opinion import generated

TEXTS = [render.report_text(generated.generate(seed).said) for seed in range(12)]
WHOLE = "https://secondop.example/cases/1 (call +1-202-555-0100)"
SECTIONS = ("WHY IT WAS ASKED", "ITEM BY ITEM", "QUESTIONS AND ANSWERS", "RECOMMENDATIONS", "HISTORY", "FINDINGS",
            "ASSESSMENT", "RECORDS REVIEWED", "INDEPENDENCE", "BLINDNESS", "SENT TO")  # fmt: skip


def has(text: str, title: str) -> bool:
    lines = text.split("\n")
    return any(line.startswith(title) and set(below) == {"-"} for line, below in pairwise(lines))


@given(text=st.sampled_from(TEXTS), limit=st.integers(200, 30_000))
@settings(deadline=None)
def test_what_does_not_fit_is_named_and_what_stays_is_whole(text: str, limit: int) -> None:
    told = plain_text.fitted(text, limit=limit, whole=WHOLE)

    assert len(told) <= limit
    if len(text) <= limit:
        assert told == text
    elif told:
        head, _, rest = text.partition("CONCLUSION\n----------\n")
        conclusion = rest[: rest.index("\nOverall concordance: ")]
        assert told.startswith(head.rstrip("\n"))
        assert conclusion in told
        assert told.index("NOT IN THIS COPY:") < told.index(conclusion)
        assert f"this system takes {limit} characters" in told
        assert f"The whole: {WHOLE}" in told
        for title in SECTIONS:
            assert has(told, title) + (f"\n- {title}\n" in told) == has(text, title), title


def test_the_recommendations_stay_longest() -> None:
    text = max(TEXTS, key=len)
    kept = [t for limit in range(1_000, len(text), 200) if (t := plain_text.fitted(text, limit=limit))]

    with_more = [t for t in kept if any(has(t, title) for title in SECTIONS[3:])]
    assert with_more
    assert has(text, "RECOMMENDATIONS")
    assert sum(has(t, "RECOMMENDATIONS") for t in kept) > sum(has(t, "QUESTIONS AND ANSWERS") for t in kept)


def test_a_conclusion_that_does_not_fit_is_not_cut() -> None:
    assert plain_text.fitted(max(TEXTS, key=len), limit=600) == ""


@pytest.mark.parametrize(
    ("written", "held"),
    [
        ("Müller Łukasz Þór Nguyễn naïve", "Muller Lukasz Thor Nguyen naive"), ("5 µg, 5 μg", "5 microg, 5 microg"),
        ("4×10⁹/L, 10⁻³, mm²", "4x10^9/L, 10^-3, mm^2"), ("1½ tablets", "1 1/2 tablets"),
        ("β-blocker, HLA-Β", "beta-blocker, HLA-Beta"), ("≥ 5 ± 1 – “so”…", '>= 5 +/- 1 - "so"...'),
        ("张", "[U+5F20]"), ("Иван", "[U+0418][U+0432][U+0430][U+043D]"), ("Ελ", "[U+0395][U+03BB]"),
        ("T₄", "T4"), ("Zoe\u0308", "Zoe"), ("Is it? \u202b", "Is it? [U+202B]"),
    ],
)  # fmt: skip
def test_a_letter_that_is_not_ascii_is_written_so_that_it_means_the_same(written: str, held: str) -> None:
    told = plain_text.fitted(f"SECOND OPINION\n==============\n{written}", ascii_only=True, whole=WHOLE)

    assert told.split("\n")[-1] == held
    assert told.isascii()
    assert f"As it was written: {WHOLE}" in told


@given(text=st.text(st.characters(codec="utf-8")))
def test_any_text_becomes_ascii_and_no_question_mark_comes_in(text: str) -> None:
    told = plain_text.fitted(text, ascii_only=True)

    assert told.isascii()
    assert told.count("?") == text.count("?")
    assert told == text or not text.isascii()


def test_an_ehr_gets_the_summary_that_it_can_hold_and_it_is_verified(ehrs: Ehrs) -> None:
    said = replace(document(), whole=WHOLE)
    said = replace(said, text=TEXTS[2].replace("Version:   ", f"Version:   ({said.version_id}) ", 1))
    limit = len(said.text) - 2_000
    base = ehrs("epic", load=(Path("examples/breast-treatment-plan/records/riverside.json"),))
    target = target_at(base, "Patient/1", text_only=True, text_limit=limit, text_ascii=True)
    rung = choose(target, said).rung
    assert rung is not None
    receipt = push.send(target, rung, said)
    assert receipt.copy == "verified"
    ((note,),) = [d["content"] for d in held(base, "DocumentReference") if d["description"] == said.title]
    stored = base64.b64decode(note["attachment"]["data"]).decode()
    assert stored.isascii()
    assert "NOT IN THIS COPY:" in stored
    assert 2_000 < len(stored) <= limit


def test_a_note_that_can_not_hold_the_conclusion_is_not_tried(ehrs: Ehrs) -> None:
    base = ehrs("epic", load=(Path("examples/breast-treatment-plan/records/riverside.json"),))
    chosen = choose(target_at(base, "Patient/1", text_only=True, text_limit=100), replace(document(), text=TEXTS[0]))
    assert "takes 100 characters, and its conclusion has more" in chosen.why
