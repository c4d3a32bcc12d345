"""Commands that measure: how many of the gaps planted in invented records the checklists find."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

Plain = dict[str, Any]


@click.group()
def corpus() -> None:
    """Invented records with planted gaps: how good the checklists are."""


@corpus.command()
@click.option("--records", "count", type=click.IntRange(1, 100_000), default=200, show_default=True,
              help="How many records to invent.")  # fmt: skip
@click.option("--seed", type=int, default=7, show_default=True, help="The same seed gives the same records.")
@click.option("--checklists", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="A folder with your own checklists.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, for machines.")
def gaps(count: int, seed: int, folder: Path | None, as_json: bool) -> None:
    """Plants known gaps in invented records and says which of them were found, and what else was called a gap.

    Example: fhir-secondop corpus gaps --records 200 --seed 7
    """
    from fhir_secondop.sandbox import corpus as corpora

    measured = corpora.measure(count, seed, folder)
    plain = {
        "records": count,
        "seed": seed,
        "items": len(measured.verdicts),
        "gaps": _plain(measured.gaps),
        "states": {state: _plain(score) for state, score in measured.states.items()},
        "wrong": [
            {"record": v.record, "kind": v.kind, "item": v.item, "expected": v.expected, "found": v.found}
            for v in measured.wrong
        ],
    }
    if as_json:
        click.echo(json.dumps(plain, ensure_ascii=False))
    else:
        _show(plain)


def _plain(score: Any) -> Plain:
    return {
        "expected": score.expected,
        "found": score.found,
        "right": score.right,
        "precision": round(score.precision, 4),
        "recall": round(score.recall, 4),
    }


def _show(plain: Plain) -> None:
    click.echo(f"{plain['records']} records (seed {plain['seed']}), {plain['items']} items")
    click.echo(f"{'state':16}{'planted':>9}{'found':>9}{'precision':>11}{'recall':>9}")
    for state, score in [*plain["states"].items(), ("all gaps", plain["gaps"])]:
        numbers = f"{score['expected']:9}{score['found']:9}{score['precision']:11.3f}{score['recall']:9.3f}"
        click.echo(f"{state:16}{numbers}")
    for wrong in plain["wrong"][:20]:
        found = wrong["found"] or "not on the list"
        click.echo(f"  record {wrong['record']} ({wrong['kind']}), {wrong['item']}: {wrong['expected']}, but {found}")
    if len(plain["wrong"]) > 20:
        click.echo(f"  and {len(plain['wrong']) - 20} more; --json has them all")
