"""The corpus of planted gaps: the checklists find all of them and nothing else; a broken checklist does not."""

from __future__ import annotations

import ast
import copy
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fhir_secondop.cli.corpus import corpus as command
from fhir_secondop.fhir.validate import validate
from fhir_secondop.opinion import checklist
from fhir_secondop.sandbox import corpus, corpus_plants, corpus_records, corpus_truth

COUNT, SEED = 200, 7


def test_every_planted_gap_is_found_and_nothing_else_is_called_one() -> None:
    measured = corpus.measure(COUNT, SEED)

    assert measured.wrong == []
    assert (measured.gaps.precision, measured.gaps.recall) == (1.0, 1.0)
    assert {state: (s.precision, s.recall) for state, s in measured.states.items()} == dict.fromkeys(
        checklist.STATES, (1.0, 1.0)
    )
    assert measured.gaps.expected > 250
    assert all(score.expected > 20 for score in measured.states.values())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_records_that_no_checklist_was_tuned_on_are_judged_as_well(seed: int) -> None:
    assert corpus.measure(COUNT, seed).wrong == []


def test_the_same_seed_gives_the_same_records_and_another_seed_others() -> None:
    assert list(corpus.records(9, SEED)) == list(corpus.records(9, SEED))
    assert list(corpus.records(9, SEED)) != list(corpus.records(9, SEED + 1))


def test_the_records_are_valid_r4_and_no_two_resources_share_an_id() -> None:
    for record in corpus.records(COUNT, SEED):
        assert [i for r in [*record.reviewed, *record.resources] for i in validate(r) if i.severity == "error"] == []
        keys = [(r["resourceType"], r["id"]) for r in record.resources]
        assert len(set(keys)) == len(keys)


def test_the_corpus_is_varied() -> None:
    records = list(corpus.records(COUNT, SEED))
    plants = Counter(plant for r in records for plant in r.planted.values())
    assert set(plants) == set(corpus_plants._PLANTS)
    assert min(plants.values()) >= 5
    assert Counter(r.kind for r in records).keys() == set(corpus_truth.KINDS)
    assert sum(1 for r in records if not r.planted) >= 10  # complete ones: nothing may be called missing in them
    outcomes = {(a.outcome, a.withheld) for r in records for _, a in r.said}
    assert outcomes >= {("answered", False), ("answered", True), ("refused", False), ("not-offered", False)}
    texts = json.dumps([r.resources for r in records])
    for form in (f for kind in corpus_truth.KINDS for fs in corpus_records.forms()[kind]["items"].values() for f in fs):
        assert form["text"] in texts or form["code"].partition("|")[2] in texts


def test_the_records_are_written_without_knowing_the_checklists() -> None:
    for module in (corpus_records, corpus_plants, corpus_truth):
        source = Path(str(module.__file__)).read_text("utf-8")
        imported = [n.module or "" for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ImportFrom)]
        assert not any("opinion" in name for name in imported)
        assert 'checklists"' not in source


Checklist = dict[str, Any]


def item(checklist_file: Checklist, code: str) -> dict[str, Any]:
    found: dict[str, Any] = next(i for i in checklist_file["items"] if i["code"] == code)
    return found


def without(code: str, *members: str) -> Callable[[Checklist], None]:
    def broken(file: Checklist) -> None:
        for member in members:
            del item(file, code)[member]

    return broken


def with_words(code: str, *words: str) -> Callable[[Checklist], None]:
    def broken(file: Checklist) -> None:
        del item(file, code)["codes"]
        item(file, code)["words"] = list(words)

    return broken


def never_chosen(file: Checklist) -> None:
    file["for"] = {"words": ["unicorn"]}


def lacking(code: str) -> Callable[[Checklist], None]:
    def broken(file: Checklist) -> None:
        file["items"] = [i for i in file["items"] if i["code"] != code]

    return broken


@pytest.mark.parametrize(
    ("name", "broken", "suffers"),
    [
        ("breast", with_words("her2", "unicorn"), ("missing", "precision")),
        ("breast", without("pathology-report", "except"), ("missing", "recall")),
        ("breast", without("operative-report", "appliesRecord", "appliesText"), ("not-applicable", "recall")),
        ("breast", lacking("mammography-report"), ("missing", "recall")),
        ("spine", without("spine-mri-report", "maxAgeDays"), ("stale", "recall")),
        ("spine", without("spine-mri-report", "codes"), ("missing", "precision")),
        ("spine", never_chosen, ("missing", "recall")),
        ("generic", without("allergies", "absentWhen"), ("known-absent", "recall")),
        ("generic", without("medications", "where"), ("missing", "recall")),
        ("generic", without("notes", "except"), ("missing", "recall")),
    ],
)
def test_a_broken_checklist_scores_less(
    tmp_path: Path, name: str, broken: Callable[[Checklist], None], suffers: tuple[str, str]
) -> None:
    file = copy.deepcopy(checklist.load(name))
    broken(file)
    (tmp_path / f"{name}.json").write_text(json.dumps(file), "utf-8")

    measured = corpus.measure(COUNT, SEED, tmp_path)

    state, measure = suffers
    assert getattr(measured.states[state], measure) < 1
    assert {v.kind for v in measured.wrong} == {name}


def test_a_score_counts_what_is_right_of_what_is_found_and_of_what_is_true() -> None:
    def verdict(expected: str, found: str) -> corpus.Verdict:
        return corpus.Verdict(0, "breast", "images", expected, found)

    measured = corpus.Measured(
        [verdict("missing", "missing"), verdict("missing", "present"), verdict("present", "missing"),
         verdict("present", "missing"), verdict("stale", "missing"), verdict("", "present")]
    )  # fmt: skip

    missing = measured.states["missing"]
    assert (missing.expected, missing.found, missing.right) == (2, 4, 1)
    assert (missing.precision, missing.recall) == (0.25, 0.5)
    assert (measured.gaps.precision, measured.gaps.recall) == (0.5, 2 / 3)
    assert (measured.states["withheld"].precision, measured.states["withheld"].recall) == (1.0, 1.0)


def test_the_command_prints_precision_and_recall() -> None:
    ran = CliRunner().invoke(command, ["gaps", "--records", "30", "--seed", "7", "--json"])

    plain = json.loads(ran.output)
    assert ran.exit_code == 0
    assert (plain["records"], plain["seed"], plain["wrong"]) == (30, 7, [])
    assert (plain["gaps"]["precision"], plain["gaps"]["recall"]) == (1.0, 1.0)
    assert set(plain["states"]) == set(checklist.STATES)
    shown = CliRunner().invoke(command, ["gaps", "--records", "30", "--seed", "7"]).output
    assert "30 records (seed 7)" in shown
    assert "precision" in shown
    assert "recall" in shown


def test_the_command_measures_a_sites_own_checklists_and_names_what_is_wrong(tmp_path: Path) -> None:
    file = copy.deepcopy(checklist.load("breast"))
    with_words("her2", "unicorn")(file)
    (tmp_path / "breast.json").write_text(json.dumps(file), "utf-8")

    arguments = ["gaps", "--records", "30", "--checklists", str(tmp_path)]
    plain = json.loads(CliRunner().invoke(command, [*arguments, "--json"]).output)
    shown = CliRunner().invoke(command, arguments).output

    assert plain["gaps"]["precision"] < 1
    assert {"kind": "breast", "item": "her2", "expected": "present", "found": "missing"}.items() <= plain["wrong"][
        0
    ].items()
    assert "her2: present, but missing" in shown
