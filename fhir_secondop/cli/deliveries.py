"""Deliveries over all cases of a running service: found, looked into, tried again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urlencode

import click

from fhir_secondop.cli.output import Plain, print_
from fhir_secondop.cli.remote import Remote, connected

_AT_ONCE, _REHEARSED = 100, 5


@click.group()
def deliveries() -> None:
    """Deliveries of all cases: what waits, what waits for a person, and why."""


def _filters(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--older-than", "older", type=float, default=0.0, metavar="HOURS", help="Planned before that."),
        click.option("--case", "case_id", default="", help="Of this case."),
        click.option("--what", default="", help="report, plan, proposal or notice."),
        click.option("--reason", default="", help="Why it is not done: auth, unreachable, mismatch, waits …"),
        click.option("--ehr", default="", help="To this connection."),
    ):
        command = option(command)
    return command


def _given(ehr: str, reason: str, what: str, case_id: str, older: float) -> Plain:
    said = {"ehr": ehr, "reason": reason, "what": what, "case": case_id, "olderThanHours": older}
    return {name: value for name, value in said.items() if value}


@deliveries.command(name="list")
@click.option("--state", default="", help="planned, sending, unknown, on-hold, done, over; several by comma.")
@click.option("--dead", is_flag=True, help="Those that wait for a person: the same as --state on-hold.")
@click.option("--count", type=click.IntRange(1, 200), default=50, show_default=True)
@click.option("--after", default="", help="The next page: what the one before names.")
@_filters
@connected
def list_(
    state: str, dead: bool, count: int, after: str, ehr: str, reason: str, what: str, case_id: str, older: float,
    url: str, caller: str, token_file: str, as_json: bool,
) -> None:  # fmt: skip
    """Deliveries, those that were planned first at the top.

    Example: fhir-secondop deliveries list --dead --ehr riverside --token-file token
    """
    given = {**_given(ehr, reason, what, case_id, older), "count": count}
    given |= {"state": "on-hold" if dead else state} if dead or state else {}
    given |= {"after": after} if after else {}
    print_(Remote(url, token_file, caller).api("GET", f"/deliveries?{urlencode(given)}"), as_json, _show_list)


def _show_list(plain: Plain) -> None:
    for row in plain["deliveries"]:
        click.echo(f"{row['task']}  {row['planned']}  {row['ehr']}  {row['what']} {row['version']}  "
                   f"{row['state']} {row['reason']}".rstrip())  # fmt: skip
        for line in (row.get("why", ""), row.get("todo", "")):
            if line:
                click.echo(f"    {line}")
    click.echo(f"{len(plain['deliveries'])} of {plain['total']}")
    if "next" in plain:
        click.echo(f"the next page: --after {plain['next']}")


@deliveries.command()
@click.argument("task")
@connected
def show(task: str, url: str, caller: str, token_file: str, as_json: bool) -> None:
    """One delivery, with every attempt that was made.

    Example: fhir-secondop deliveries show 0f0c… --token-file token
    """
    print_(Remote(url, token_file, caller).api("GET", f"/deliveries/{quote(task, safe='')}"), as_json, _show_one)


def _show_one(row: Plain) -> None:
    click.echo(f"{row['what']} version {row['version']} to {row['to']} by {row['ehr']}: {row['state']} {row['reason']}")
    for one in row["attempts"]:
        rung = f"rung {one['rung']}" if one["rung"] else "no rung"
        again = f", replay {one['replay']}" if one["replay"] else ""
        click.echo(
            f"  {one['number']}. {one['at']}{again}  {rung}  {one['outcome']} {one['failure']} {one['why']}".rstrip()
        )
    if row.get("todo"):
        click.echo(f"  to do: {row['todo']}")


@deliveries.command()
@click.argument("tasks", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Everything on hold that the options leave.")
@click.option("--changed", default="", help="What has changed since: it stands in the Task, with who did it.")
@click.option("--dry-run", is_flag=True, help="Only say what would be sent, against what was tried before.")
@_filters
@connected
def replay(
    tasks: tuple[str, ...], everything: bool, changed: str, dry_run: bool, ehr: str, reason: str, what: str,
    case_id: str, older: float, url: str, caller: str, token_file: str, as_json: bool,
) -> None:  # fmt: skip
    """Tries again deliveries on hold: those that are named, or with an option all that it leaves.

    Without --reason, what is held for want of consent, or was superseded, stays. Done twice nothing more happens.

    Example: fhir-secondop deliveries replay --ehr riverside --reason auth --changed "New secret" --token-file token
    """
    given = _given(ehr, reason, what, case_id, older)
    if bool(tasks) == bool(given or everything):
        raise click.UsageError("Name deliveries, or say which by options, or --all.")
    if not dry_run and not changed.strip():
        raise click.UsageError("--changed: say what has changed, so that it is worth trying again.")
    remote = Remote(url, token_file, caller)
    named = list(dict.fromkeys(tasks))
    if dry_run:
        print_(_rehearsed(remote, given, named), as_json, _show_rehearsed)
    else:
        print_(_replayed(remote, given, named, changed), as_json, _show_replayed)


def _replayed(remote: Remote, given: Plain, named: list[str], changed: str) -> Plain:
    """Tries them again, many at a time, until none is left."""
    found: Plain = {"replayed": [], "refused": []}
    for part, after in _parts(given, named, _AT_ONCE):
        while True:
            said = remote.api("POST", "/deliveries/replay", {**part, "changed": changed})
            for name in found:
                found[name] += said[name]
            done = len(found["replayed"]) + len(found["refused"])
            _progress(done, done + said["left"] + after)
            if not said["left"] or not said["replayed"]:
                break
    return found


def _rehearsed(remote: Remote, given: Plain, named: list[str]) -> Plain:
    """Every delivery that would be tried again, a few at a time: each asks an EHR."""
    rows: list[Any] = []
    for part, after in _parts(given, named, _REHEARSED):
        page: Plain = {}
        while True:
            said = remote.api("POST", "/deliveries/replay", {**part, **page, "dryRun": True})
            rows += said["deliveries"]
            _progress(len(rows), len(rows) + said["left"] + after)
            if not said["left"] or "next" not in said:
                break
            page = {"after": said["next"]}
    return {"deliveries": rows}


def _parts(given: Plain, named: list[str], count: int) -> Iterator[tuple[Plain, int]]:
    """What to ask for, and how many come after it: what the options leave, or those that are named, `count` each."""
    if not named:
        yield {**given, "count": count}, 0
    for start in range(0, len(named), count):
        yield {"tasks": named[start : start + count], "count": count}, max(0, len(named) - start - count)


def _progress(done: int, whole: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{done} of {whole}", err=True, nl=done >= whole)


def _show_rehearsed(plain: Plain) -> None:
    for row in plain["deliveries"]:
        now = row["now"]
        click.echo(f"{row['task']}  {row['what']} version {row['version']} to {row['to']}")
        click.echo(f"  held: {row['held']}")
        for change in row["changes"]:
            click.echo(f"  - {change['what']}: {change['was']}")
            click.echo(f"  + {change['what']}: {change['now']}")
        if "there" in now:
            click.echo(f"  there already: {now['there']}, {now['copy']}; nothing would be sent")
            continue
        click.echo(f"  now: {'rung ' + now['rung'] if now['rung'] else 'not possible'}, {now['why']}")
        for one in row["requests"]:
            click.echo(f"    {one['method']} {one['url']}  {one['bytes']} bytes, SHA-256 {one['sha256'][:16]}…")


def _show_replayed(plain: Plain) -> None:
    for row in plain["refused"]:
        click.echo(f"{row['task']}: {row['why']}")
    click.echo(f"{len(plain['replayed'])} tried again" if plain["replayed"] else "nothing waits for a person")
