"""The same facts stand in every form of a report: fifty generated ones, each form read back by a reader of its own."""

from __future__ import annotations

from typing import Any

import pytest

from fhir_secondop.fhir.validate import validate
from fhir_secondop.opinion import render
from tests.opinion import generated, readers

SEEDS = range(50)


def differing(found: dict[str, Any], said: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What two sets of facts don't have alike, by its name: found, said."""
    found, said = readers.squeezed(found), readers.squeezed(said)
    return {key: (found.get(key), said.get(key)) for key in {*found, *said} if found.get(key) != said.get(key)}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_facts_are_read_from_every_form(seed: int) -> None:
    made = generated.generate(seed)
    forms = dict(render.forms(made.said))

    assert differing(readers.of_text(forms["text/plain; charset=utf-8"].decode()), made.said) == {}
    assert differing(readers.of_xhtml(forms["text/html; charset=utf-8"].decode()), made.said) == {}
    assert differing(readers.of_bundle(made.bundle), made.said) == {}
    assert differing(readers.of_pdf(forms["application/pdf"]), made.said) == {}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_codes_of_the_report_say_what_its_words_say(seed: int) -> None:
    made = generated.generate(seed)
    resources = {e["fullUrl"].split("/fhir/")[1]: e["resource"] for e in made.bundle["entry"]}

    coded = readers.of_diagnostic_report(made.report, resources)

    assert len(coded) == 10
    assert differing(coded, {key: made.said[key] for key in coded}) == {}
    assert [fault for entry in made.bundle["entry"] for fault in validate(entry["resource"])] == []


def test_the_reports_have_each_part_and_lack_each_part_that_may_be_lacking() -> None:
    said = [generated.generate(seed).said for seed in SEEDS]

    for part in (
        "answers",
        "options",
        "recommendations",
        "prose",
        "records",
        "missing",
        "conflicts",
        "notices",
        "amendment",
    ):
        assert 1 < sum(bool(one[part]) for one in said) < len(said) - 1, part
    assert {one["status"] for one in said} == {"final", "amended", "corrected", "appended", "entered-in-error"}
    assert {len(one["blindness"]["reads"]) for one in said} == {0, 1, 2}
    assert any(item["missing"] for one in said for item in one["items"])
    sizes = sorted(len(render.report_text(one)) for one in said)
    assert sizes[0] < 2_500 < 20_000 < sizes[-1], sizes
