"""The EHR connections: added, shown, removed, and examined."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from fhir_secondop.cli import edited
from fhir_secondop.cli.output import Plain, config_option, json_option, print_
from fhir_secondop.cli.remote import Remote, connected
from fhir_secondop.errors import Invalid, NotFound

_AUTHS = ("none", "basic", "bearer", "smart")


@click.group()
def connect() -> None:
    """The EHR connections of the configuration file; pause, resume and status ask a running service."""


def _options(command: Any) -> Any:
    for option in reversed(
        (
            click.option("--base", default="", help="Its FHIR base URL; none where only HL7 v2 is spoken."),
            click.option("--vendor", default="generic", show_default=True, help="A file of profiles/vendors."),
            click.option("--role", type=click.Choice(["ehr", "repository", "payer"]), default="ehr", show_default=True),
            click.option("--organization", default="", help="Whose EHR it is: system|value, an NPI say."),
            click.option("--patient-system", default="", help="The system of its own patient identifiers."),
            click.option("--auth", type=click.Choice(_AUTHS), default="none", show_default=True),
            click.option("--username", default="", help="For basic."),
            click.option("--secret-file", default="", help="The file with the password or token: for basic, bearer."),
            click.option("--client-id", default="", help="For smart: what the EHR calls us."),
            click.option("--key-file", default="", help="For smart: our keys, where not the service's own."),
            click.option("--token-url", default="", help="For smart: where the EHR does not publish it."),
            click.option("--scopes", default="", help="For smart: exactly these, instead of what we would ask for."),
            click.option("--set", "more", multiple=True, metavar="KEY=VALUE",
                         help="Any other setting of a connection: timeout_s, ca_bundle, proxy, rate_per_s …"),
        )
    ):  # fmt: skip
        command = option(command)
    return command


@connect.command()
@click.argument("name")
@_options
@config_option
@json_option
def add(name: str, config_file: str, as_json: bool, more: tuple[str, ...], **given: str) -> None:
    """Adds a connection. Secrets stay in files: their paths are written, never what is in them.

    Example: fhir-secondop connect add riverside --base https://ehr.riverside.example/fhir --vendor epic
    """
    import tomlkit

    from fhir_secondop import config
    from fhir_secondop.ehr import vendors

    file = Path(config_file or config.DEFAULT_FILE)
    entry: dict[str, Any] = {k: v for k, v in given.items() if v and (k, v) not in _DEFAULTS}
    entry |= dict(_setting(text) for text in more)
    config.connection(name, entry, file)
    vendors.load(entry.get("vendor", "generic"))
    document = edited.document(file)
    connections = document.setdefault("connections", tomlkit.table(is_super_table=True))
    if name in connections:
        raise Invalid(f"{file} has a connection {name} already; remove it first, or choose another name.")
    connections[name] = tomlkit.item(entry)
    edited.write(file, document)
    print_({"added": name, "file": str(file), **entry}, as_json, lambda plain: click.echo(
        f"added {name} to {file}; look what it lets us do: fhir-secondop doctor {name}"))  # fmt: skip


_DEFAULTS = {("vendor", "generic"), ("role", "ehr"), ("auth", "none")}


def _setting(text: str) -> tuple[str, Any]:
    """KEY=VALUE, the value as TOML reads it, or as text."""
    import tomllib

    key, separator, value = text.partition("=")
    if not separator:
        raise click.UsageError(f"--set {text}: write KEY=VALUE.")
    try:
        return key.strip(), tomllib.loads(f"x = {value}")["x"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


@connect.command(name="list")
@config_option
@json_option
def list_(config_file: str, as_json: bool) -> None:
    """The connections.

    Example: fhir-secondop connect list
    """
    from fhir_secondop import config

    settings = config.load(config_file)
    rows = [{"name": c.name, "base": c.base or c.hl7 or c.hl7_folder, "vendor": c.vendor, "auth": c.auth,
             "role": c.role}
            for c in settings.connections.values()]  # fmt: skip

    def show(plain: Plain) -> None:
        for row in plain["connections"]:
            click.echo(f"{row['name']}  {row['base']}  {row['vendor']}  {row['auth']}  {row['role']}")
        if not rows:
            click.echo("none yet; add one: fhir-secondop connect add NAME --base URL")

    print_({"connections": rows}, as_json, show)


@connect.command()
@click.argument("name")
@config_option
@json_option
def show(name: str, config_file: str, as_json: bool) -> None:
    """A connection's settings; secrets are files, their content is not shown.

    Example: fhir-secondop connect show riverside
    """
    from dataclasses import asdict

    plain = asdict(_connection(config_file, name))
    plain["proxy"] = re.sub(r"//[^/@]*@", "//…@", plain["proxy"])

    def lines(said: Plain) -> None:
        for key, value in said.items():
            if value not in ("", None, ()):
                click.echo(f"{key} = {value!r}")

    print_(plain, as_json, lines)


def _connection(config_file: str, name: str) -> Any:
    from fhir_secondop import config

    found = config.load(config_file).connections.get(name)
    if found is None:
        raise NotFound(f"There is no connection {name}; see: fhir-secondop connect list")
    return found


@connect.command()
@click.argument("name")
@config_option
@json_option
def remove(name: str, config_file: str, as_json: bool) -> None:
    """Takes a connection out of the file. Files with secrets stay where they are.

    Example: fhir-secondop connect remove riverside
    """
    from fhir_secondop import config

    file = Path(config_file or config.DEFAULT_FILE)
    document = edited.document(file)
    if name not in document.get("connections", {}):
        raise NotFound(f"There is no connection {name}; see: fhir-secondop connect list")
    del document["connections"][name]
    edited.write(file, document)
    print_({"removed": name, "file": str(file)}, as_json, lambda plain: click.echo(f"removed {name} from {file}"))


@connect.command()
@click.argument("name")
@click.option("--reason", required=True, help="Why, for whoever looks at the connections; nothing of any patient.")
@connected
def pause(name: str, reason: str, url: str, caller: str, token_file: str, as_json: bool) -> None:
    """Nothing is sent to an EHR nor pulled from it until it is resumed. What is on the way finishes.

    Example: fhir-secondop connect pause riverside --reason "They move their servers" --token-file token
    """
    found = Remote(url, token_file, caller).api("POST", f"/connections/{quote(name)}/pause", {"reason": reason})
    print_(found, as_json, lambda plain: click.echo(f"{name} is paused since {plain['since']}"))


@connect.command()
@click.argument("name")
@connected
def resume(name: str, url: str, caller: str, token_file: str, as_json: bool) -> None:
    """What waits for a paused EHR goes on, within five minutes; one that did not answer is tried at once.

    Example: fhir-secondop connect resume riverside --token-file token
    """
    found = Remote(url, token_file, caller).api("POST", f"/connections/{quote(name)}/resume")
    print_(found, as_json, lambda plain: click.echo(f"{name} is asked again"))


@connect.command()
@connected
def status(url: str, caller: str, token_file: str, as_json: bool) -> None:
    """What waits for each EHR of a running service, and whether it is asked now.

    Example: fhir-secondop connect status --token-file token
    """

    def show(plain: Plain) -> None:
        for row in plain["connections"]:
            more = [row["state"], f"since {row['since']}" if "since" in row else "", row.get("why", "")]
            said = ", ".join(filter(None, more))
            click.echo(f"{row['name']}  {said}: {row['gathering']} gathering, {row['delivering']} being delivered, "
                       f"{row['held']} on hold, oldest {row.get('oldest', 'none')}")  # fmt: skip

    print_(Remote(url, token_file, caller).api("GET", "/connections"), as_json, show)


@click.command()
@click.argument("name", required=False)
@click.option("--write-plan", is_flag=True, help="Only on which rung we would deliver, and why.")
@click.option("--production", "fit", is_flag=True, help="What of this configuration is unfit for patients' data.")
@config_option
@json_option
def doctor(name: str | None, write_plan: bool, fit: bool, config_file: str, as_json: bool) -> None:
    """What an EHR lets us read and write, without writing to it or naming a patient. All connections without NAME.

    Example: fhir-secondop doctor riverside
    """
    from fhir_secondop import config
    from fhir_secondop.ehr import doctor as doctors
    from fhir_secondop.ehr.client import Client
    from fhir_secondop.store.database import now_ms

    settings = config.load(config_file)
    if fit:
        from fhir_secondop.cli import production

        said = production.report(settings)
        print_(said, as_json, production.show)
        sys.exit(0 if said["fit"] else 1)
    wanted = [_connection(config_file, name)] if name else list(settings.connections.values())
    if not wanted:
        raise NotFound("There are no connections yet; add one: fhir-secondop connect add NAME --base URL")
    today = datetime.now(UTC).date()
    found = [doctors.examine(Client(connection, now=now_ms), today).as_plain() for connection in wanted]
    if write_plan:
        found = [{"name": f["name"], "writePlan": f["writePlan"]} for f in found]
    plain = found[0] if name else {"connections": found}

    def show(_: Plain) -> None:
        for one in found:
            _show_plan(one) if write_plan else _show(one)

    print_(plain, as_json, show)
    if any(not f.get("ok", True) for f in found):
        sys.exit(1)


def _show_plan(found: Plain) -> None:
    plan = found["writePlan"]
    click.echo(f"{found['name']}: we would deliver on rung {plan['rung']}, {plan['why'].partition(' (')[0]}")
    for row in plan["notPossible"]:
        click.echo(f"  not: {row['way']}: {row['why']}")


def _show(found: Plain) -> None:
    vendor = found["vendor"]
    click.echo(f"{found['name']}  {found['base']}")
    click.echo(f"  vendor      {vendor['title']}; its oldest fact was verified {vendor['oldestDays']} days ago")
    if not found["ok"]:
        for problem in found["problems"]:
            click.echo(f"  ! {problem}")
        return
    click.echo(f"  server      FHIR {found['fhirVersion'] or '?'}  {found['software']}".rstrip())
    sign = found["signIn"]
    worked = {True: ", works", False: f", FAILED: {sign.get('why', '')}"}.get(sign.get("works"), "")
    click.echo(f"  sign-in     {sign['way']}{worked}")
    skew = found["clock"]["skewS"]
    click.echo(f"  clock       {'it sends no date' if skew is None else f'{round(skew)} s against ours'}")
    if found["certificate"]:
        click.echo(f"  certificate {found['certificate']['daysLeft']} days left")
    click.echo("  we can read")
    for row in found["read"]:
        if row["asked"]:
            more = f"  (+{len(row['asked']) - 1} more)" if len(row["asked"]) > 1 else ""
            click.echo(f"    {row['type']:<22}{row['asked'][0]}{more}{'  since' if row['incremental'] else ''}")
    missing = [f"{row['type']} ({row['because']})" for row in found["read"] if not row["asked"]]
    if missing:
        click.echo(f"  we can not read: {', '.join(missing)}")
    for row in found["write"]:
        ways = [way for way in ("create", "update", "conditionalCreate") if row[way]]
        said = ", ".join(ways) or "nothing"
        click.echo(f"  write       {row['type']:<20}{said}{' (' + row['because'] + ')' if row['because'] else ''}")
    if found["operations"]:
        click.echo(f"  operations  {', '.join(found['operations'])}")
    plan = found["writePlan"]
    click.echo(f"  deliver on  rung {plan['rung']}: {plan['why'].partition(' (')[0]}")
    for row in plan["notPossible"]:
        click.echo(f"              not {row['way']}: {row['why']}")
    for problem in found["problems"]:
        click.echo(f"  ! {problem}")
