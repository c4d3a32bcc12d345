"""The page of what was learned: who reads it, that its plots are drawings and nothing else, that it hides the few."""

from __future__ import annotations

import csv
import io

import pytest
from lxml import etree

from fhir_secondop.opinion.learned import MEASURES, Outcome
from fhir_secondop.service import learned
from fhir_secondop.web.pages import words
from tests.web.pages.conftest import Clinic

USUAL = {m: categories[0] for m, categories in MEASURES.items()}
DAYS = {"since-request": 5, "since-complete": 4}
TIMES = (("Oncology", "full", 40), ("Oncology", "partial", 25), ("Surgery <&>", "full", 30),
         ("Surgery <&>", "discordant", 14), ("Rarity", "full", 7))  # fmt: skip
MANY = [
    Outcome((name, "pre procedure"), {**USUAL, "concordance": said}, DAYS)
    for name, said, times in TIMES
    for _ in range(times)
]


@pytest.fixture
def many(bare: Clinic, monkeypatch: pytest.MonkeyPatch) -> Clinic:
    """A clinic with the outcomes of 116 cases; that real cases give such is shown in tests/service."""
    monkeypatch.setattr(learned, "_outcomes", lambda context: iter(MANY))
    return Clinic(bare.world)


def test_the_numbers_stand_in_tables_and_the_few_do_not(many: Clinic) -> None:
    shown = many.text("/learned")
    assert "116 cases with a signed report." in shown
    assert "Oncology (specialty) 65" in shown
    assert "Rarity (specialty) withheld withheld" in shown
    assert " 7 " not in shown
    assert "Loop closure" in shown
    raw = many.get("/learned").get_data(as_text=True)
    assert "Surgery &lt;&amp;&gt;" in raw
    assert "style=" not in raw


def test_each_plot_is_a_drawing_without_script_or_style_that_says_its_numbers(many: Clinic) -> None:
    for measure in (*MEASURES, "turnaround"):
        assert f"/learned/{measure}.svg" in many.get("/learned").get_data(as_text=True)
        answer = many.get(f"/learned/{measure}.svg")
        assert answer.status_code == 200
        assert answer.content_type.startswith("image/svg+xml")
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert 'aria-label="' + words.MEASURES[measure] in answer.get_data(as_text=True)
        drawn = etree.fromstring(answer.get_data())
        assert {etree.QName(e).localname for e in drawn.iter()} <= {"svg", "rect", "text", "g", "title"}
        assert not [a for e in drawn.iter() for a in e.attrib if a == "style" or a.startswith("on")]
    assert "Oncology: full 40" in many.get("/learned/concordance.svg").get_data(as_text=True)
    assert "Rarity" not in many.get("/learned/concordance.svg").get_data(as_text=True)
    assert many.get("/learned/nothing.svg").status_code == 404


def test_the_file_says_the_same(many: Clinic) -> None:
    answer = many.get("/learned.csv")
    assert answer.content_type.startswith("text/csv")
    read = list(csv.DictReader(io.StringIO(answer.get_data(as_text=True))))
    cases = {(row["breakdown"], row["group"]): row["number"] for row in read if row["measure"] == "cases"}
    assert cases["all", ""] == "116"
    assert cases["specialty", "Rarity"] == "withheld"
    assert all(row["number"] in ("<11", "withheld") or row["measure"].startswith("business-days")
               or int(row["number"]) >= 11 for row in read)  # fmt: skip


def test_who_has_no_such_role_sees_no_numbers_and_no_way_to_them(many: Clinic) -> None:
    for who in ("pcp", "surgeon", "reviewer"):
        for path in ("/learned", "/learned.csv", "/learned/loop.svg"):
            assert many.get(path, who).status_code == 403
        assert "/learned" not in many.get("/", who).get_data(as_text=True)
    assert 'href="/learned"' in many.get("/").get_data(as_text=True)
    assert many.get("/learned", "operator").status_code == 200


def test_before_there_are_cases_the_page_says_so_little(bare: Clinic) -> None:
    shown = bare.text("/learned")
    assert "<11 cases with a signed report." in shown
    assert "svg" not in bare.get("/learned").get_data(as_text=True)
