"""What has happened in a case, in its order."""

from __future__ import annotations

import click

from fhir_secondop.cli.output import Plain, print_
from fhir_secondop.cli.remote import Remote, connected


@click.command()
@click.argument("case_id")
@click.option("--after", type=click.IntRange(0), default=0, show_default=True,
              help="The number of the last event that you have.")  # fmt: skip
@click.option("--wait", type=click.IntRange(0, 30), default=0, show_default=True,
              help="For how many seconds to wait when there is none.")  # fmt: skip
@click.option("--count", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many at most.")
@connected
def events(
    case_id: str, after: int, wait: int, count: int, url: str, caller: str, token_file: str, as_json: bool
) -> None:  # fmt: skip
    """What has happened in a case, numbered without holes; asked again with --after it goes on from there.

    Example: fhir-secondop events 0f0c… --after 12 --wait 30 --token-file token
    """
    remote = Remote(url, token_file, caller)
    print_(remote.call("GET", f"/{case_id}/events?after={after}&wait={wait}&count={count}"), as_json, _show)


def _show(plain: Plain) -> None:
    for event in plain["events"]:
        at, evidence = event.get("at", ""), event.get("evidence", "")
        click.echo(f"{event['number']:>5}  {at:<24}  {event['kind']:<26}  {evidence}".rstrip())
    click.echo(f"The last event is {plain['last']}.")
