"""The command line. Exits 0 done, 1 failed, 2 misused; an error is one line on stderr that says what to do."""

from __future__ import annotations

import base64
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click

from fhir_secondop import __version__
from fhir_secondop.cli import (
    alerts,
    audit,
    backup,
    checking,
    clients,
    connections,
    corpus,
    deliveries,
    directory,
    events,
    hl7,
    keys,
    package,
    stored,
)
from fhir_secondop.cli.output import Plain, json_option, print_, private_files, show_demo, show_people
from fhir_secondop.cli.remote import Remote, connected, read_json
from fhir_secondop.cli.verify import verify
from fhir_secondop.errors import SecondOpError, Unavailable


class _Group(click.Group):
    """Our failures become one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SecondOpError as error:
            for issue in error.issues[1:4]:
                click.echo(f"  {issue.expression}: {issue.diagnostics}", err=True)
            first = error.issues[0]
            where = f"{first.expression}: " if first.expression else ""
            click.echo(f"error: {where}{error.message}", err=True)
            ctx.exit(1)
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise  # click's own ways out; a broken pipe is the reader's wish, and click ends quietly on it
        except Exception as error:
            said = _said_of(error)
            if not said:
                raise
            click.echo(f"error: {said}", err=True)
            ctx.exit(1)


def _said_of(error: Exception) -> str:
    """What to do about a failure of the network, the database or a file; "" of any other, which is a fault of ours."""
    # Imported here: no command waits for these before it is known that it wants them.
    import requests
    from sqlalchemy.exc import OperationalError

    match error:
        case requests.JSONDecodeError():
            return "what answers there is not fhir_secondop; check --url."
        case requests.ConnectionError():
            return "nothing answers there; is the service running? Start it with: fhir-secondop serve"
        case requests.RequestException():
            return f"the request could not be sent ({type(error).__name__}); check --url."
        case OperationalError():
            return "the database can't be opened; check --database and its rights."
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return f"{where}{error.strerror or error}."
    return ""


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Connects second opinions with EHRs over FHIR R4.

    Try it: fhir-secondop demo --run-to-end
    """


@main.command()
@click.option("--dir", "folder", default="secondop-demo", show_default=True, type=click.Path(path_type=Path),
              help="Where the demo keeps its data.")  # fmt: skip
@click.option("--case", "case_name", default="breast-treatment-plan", show_default=True,
              help="A case of examples/, or a folder of that form.")  # fmt: skip
@click.option("--database", default="", help="A PostgreSQL URL for the service; SQLite in the folder by default.")
@click.option("--faults", is_flag=True, help="An EHR stops in mid-delivery, and a machine with a worker is lost.")
@click.option("--run-to-end", is_flag=True, help="Stop when the loop is done.")
@json_option
def demo(folder: Path, case_name: str, database: str, faults: bool, run_to_end: bool, as_json: bool) -> None:
    """Simulated EHRs, a real case from the request to aligned providers, and the service; loopback only.

    Goes on serving until stopped, or with --run-to-end exits: 0 only when the case ended aligned.

    Example: fhir-secondop demo --run-to-end
    """
    from fhir_secondop.sandbox import demo as demos
    from fhir_secondop.sandbox import trouble

    private_files()

    def say(text: str) -> None:
        if not as_json:
            click.echo(f"{time.strftime('%H:%M:%S')}  {text}")

    with demos.case_folder(case_name) as case:
        layout = demos.lay_out(folder, case, database)
        if run_to_end:
            board, timeline = (trouble if faults else demos).run_to_end(layout, say)
            print_({**board, "timeline": timeline}, as_json, _show_board)
            if not board["case"]["aligned"]:
                raise Unavailable("The case did not end aligned; the board says who is waited for.")
            return
        with (trouble if faults else demos).driven(layout, say) as (processes, board, timeline):
            known = demos.people(layout)
            people = [{"account": k, "name": known[k].name, "password": p} for k, p in processes.passwords.items()]
            print_({**board, "timeline": timeline, "url": layout.url, "people": people}, as_json, _show_board)
            if not as_json:
                show_people(layout.url, people)
                show_demo(layout.url, folder, board["case"]["id"])
            sys.stdout.flush()
            _until_stopped()


def _until_stopped() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return


@main.command()
@click.option("--config", "config_file", default="", help="The TOML file; ./secondop.toml by default.")
@click.option("--host", default=None, help="127.0.0.1 by default; this version listens on loopback only.")
@click.option("--port", type=int, default=None, help="8100 by default.")
@click.option("--database", default=None, help="A file for SQLite, or a PostgreSQL URL.")
@click.option("--auth", type=click.Choice(["tokens", "smart", "none"]), default=None, help="tokens by default.")
@click.option("--processes", type=click.IntRange(1, 64), default=1, show_default=True,
              help="As many server processes on the same port; a process uses one core.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 64), default=None,
              help="As many processes that pull and deliver; by default the first server process does.")  # fmt: skip
@click.option("--no-work", is_flag=True, help="Only serve; others work on the database: fhir-secondop work.")
def serve(
    config_file: str, host: str | None, port: int | None, database: str | None, auth: str | None, processes: int,
    workers: int | None, no_work: bool,
) -> None:  # fmt: skip
    """The service, with its embedded worker.

    Example: fhir-secondop serve --port 8100 --auth none
    """
    gc.disable()  # what a start makes stays: server.run goes on with the collector
    if workers and no_work:
        raise click.UsageError("Use either --workers or --no-work.")
    private_files()
    said = {"host": host, "port": port, "database": database, "auth": auth}
    with _counted_together() if processes + (workers or 0) > 1 else nullcontext():
        _serve(config_file, said, processes, works=not no_work, workers=workers or 0)


@contextmanager
def _counted_together() -> Iterator[None]:
    """Names the folder in which several processes count for /metrics: before anything that counts is imported."""
    with tempfile.TemporaryDirectory(prefix="secondop-meters-", ignore_cleanup_errors=True) as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        yield


def _serve(config_file: str, said: dict[str, Any], processes: int, *, works: bool, workers: int) -> None:
    from fhir_secondop import config
    from fhir_secondop.web import server

    settings = config.load(config_file, said={key: value for key, value in said.items() if value is not None})
    base = settings.public_url
    server.run(settings, f"fhir_secondop {__version__} at {base} (FHIR base {base}/fhir)", processes,
               works=works, workers=workers)  # fmt: skip


@main.command()
@click.option("--name", default="", help="Each worker of a database has its own; by default of machine and process.")
@click.option("--concurrency", type=click.IntRange(1, 256), default=None,
              help="Workflows of a kind at once in a worker, 16 by default; all of a database keep to it.")  # fmt: skip
@click.option("--config", "config_file", default="", help="The TOML file; ./secondop.toml by default.")
@click.option("--database", default=None, help="A file for SQLite, or a PostgreSQL URL.")
@click.option("--metrics-port", type=click.IntRange(1, 65535), default=None,
              help="Where a scraper reads what this worker counts, at /metrics.")  # fmt: skip
@click.option("--metrics-host", default="127.0.0.1", show_default=True, help="Where that port is listened on.")
def work(
    name: str, concurrency: int | None, config_file: str, database: str | None, metrics_port: int | None,
    metrics_host: str,
) -> None:  # fmt: skip
    """One more worker beside a running service: it pulls and delivers.

    What a worker leaves unfinished goes on at the others, and when one of the same name starts again.

    Example: fhir-secondop work --name worker-1
    """
    from fhir_secondop import config
    from fhir_secondop.web import server

    if name and (not name.replace("-", "").isalnum() or name in ("service", "local")):
        raise click.UsageError("--name: letters, digits and -; not service or local.")
    private_files()
    said = {"database": database, "worker_concurrency": concurrency}
    settings = config.load(config_file, said={key: value for key, value in said.items() if value is not None})
    executor = name or server.own_name()
    at = (metrics_host, metrics_port) if metrics_port else None
    server.work(settings, executor, f"fhir_secondop {__version__}: {executor} works", at)


@main.group()
def sandbox() -> None:
    """Simulated EHRs and payers."""


@sandbox.command()
@click.option("--shape", type=click.Choice(["full", "epic", "oracle", "athena", "meditech", "read-only", "dead"]),
              required=True)  # fmt: skip
@click.option("--port", type=int, required=True)
@click.option("--database", default="", help="Its SQLite file; beside the port number by default.")
@click.option("--quirk", "quirks", multiple=True, metavar="NAME[=VALUE]",
              help="One more quirk; profiles/shapes/README.md lists them.")  # fmt: skip
@click.option("--load", "paths", multiple=True, type=click.Path(exists=True, path_type=Path),
              help="A transaction Bundle to hold, .json or .json.gz, or a folder of them.")  # fmt: skip
@click.option("--auth", type=click.Choice(["none", "basic", "bearer", "smart"]), default="none", show_default=True,
              help="How one signs in there.")  # fmt: skip
@click.option("--secret-file", default="", help="basic: user:password. bearer: the token.")
@click.option("--client", "clients", multiple=True, metavar="ID=JWKS",
              help="smart: a client, and the file or URL of its public keys.")  # fmt: skip
def ehr(
    shape: str,
    port: int,
    database: str,
    quirks: tuple[str, ...],
    paths: tuple[Path, ...],
    auth: str,
    secret_file: str,
    clients: tuple[str, ...],
) -> None:
    """One simulated EHR, its base at /fhir.

    Example: fhir-secondop sandbox ehr --shape full --port 8201 --load records.json
    """
    from fhir_secondop.bootstrap import log_to_stderr
    from fhir_secondop.sandbox import ehr as ehrs
    from fhir_secondop.sandbox import signin
    from fhir_secondop.store.database import Database

    private_files()
    log_to_stderr("INFO")
    base = f"http://127.0.0.1:{port}/fhir"
    store = Database(database or f"ehr-{port}.sqlite")
    app = ehrs.build(shape, store, base, quirks, signin.rules(auth, secret_file, clients))
    store.migrate()
    found = [f for p in paths for f in (sorted(p.glob("*.json*")) if p.is_dir() else [p])]
    count = ehrs.load(store, base, found)
    click.echo(f"{shape} EHR at {base}, {count} resources")
    ehrs.serve(app, port)


@sandbox.command()
@click.option("--shape", type=click.Choice(["covered", "not-covered", "authorization", "lapsed", "error", "garbage",
                                            "down", "slow"]), required=True)  # fmt: skip
@click.option("--port", type=int, required=True)
def payer(shape: str, port: int) -> None:
    """One simulated payer, its base at /fhir: CoverageEligibilityRequest/$submit.

    Example: fhir-secondop sandbox payer --shape authorization --port 8301
    """
    from fhir_secondop.bootstrap import log_to_stderr
    from fhir_secondop.fhir import times
    from fhir_secondop.sandbox import ehr as ehrs
    from fhir_secondop.sandbox import payer as payers
    from fhir_secondop.store.database import now_ms

    log_to_stderr("INFO")
    app = payers.build(shape, lambda: times.instant(now_ms()))
    click.echo(f"{shape} payer at http://127.0.0.1:{port}/fhir")
    ehrs.serve(app, port)


@sandbox.command("hl7")
@click.option("--port", type=int, required=True)
@click.option("--quirk", default="", metavar="NAME[=VALUE]", help="How it fails; docs/hl7v2.md lists them. AA without.")
@click.option("--times", type=int, default=0, help="How many messages the quirk is for; all by default.")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="A folder for what it hears.")
def hl7_receiver(port: int, quirk: str, times: int, keep: Path | None) -> None:
    """One simulated receiver of HL7 v2 messages, by MLLP on loopback.

    Example: fhir-secondop sandbox hl7 --port 8401 --keep heard
    """
    from fhir_secondop.sandbox import hl7 as receivers

    private_files()
    if quirk:
        receivers.chosen(quirk)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    try:
        receivers.Receiver(quirk, times, keep).start(port)
    except OSError as error:
        raise Unavailable(f"Port {port} can't be listened on ({error.strerror}); choose another --port.") from error
    click.echo(f"HL7 v2 receiver at mllp://127.0.0.1:{port}")
    sys.stdout.flush()
    _until_stopped()


# ---- a case by hand -------------------------------------------------------------------------------------------


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@connected
def submit(file: Path, url: str, caller: str, token_file: str, as_json: bool) -> None:
    """Opens a case from a plain JSON request.

    Example: fhir-secondop submit examples/breast-treatment-plan/request.json --token-file token
    """
    opened = Remote(url, token_file, caller).call("POST", "", read_json(file))
    print_(opened, as_json, lambda plain: click.echo(f"case {plain['id']}"))


@main.command()
@click.argument("case_id")
@connected
def status(case_id: str, url: str, caller: str, token_file: str, as_json: bool) -> None:
    """How far a case has come.

    Example: fhir-secondop status 0f0c… --token-file token
    """
    print_(Remote(url, token_file, caller).call("GET", f"/{case_id}"), as_json, _show_status)


def _show_status(plain: Plain) -> None:
    click.echo(f"{plain['status']} ({plain['businessStatus']}), opened {plain['opened']}")
    for source in plain["gathering"]:
        click.echo(f"  records from {source['source']}: {source['status']} {source['why']}".rstrip())
    for task in plain["deliveries"]:
        click.echo(
            f"  {task['what']} version {task['version']} to {task['to']}: {task['status']}, "
            f"{task['businessStatus']} {task['why']}".rstrip()
        )


@main.command()
@click.argument("case_id")
@connected
def board(case_id: str, url: str, caller: str, token_file: str, as_json: bool) -> None:
    """What each provider holds, acknowledged and decided.

    Example: fhir-secondop board 0f0c… --token-file token
    """
    print_(Remote(url, token_file, caller).call("GET", f"/{case_id}/alignment"), as_json, _show_board)


def _show_board(plain: Plain) -> None:
    head = ("provider", "role", "version", "sent", "copy", "rung", "ack", "decision", "state")
    rows = [[str(row.get(name if name != "provider" else "name", "")) for name in head] for row in plain["providers"]]
    rows.append([plain["patient"]["name"], "patient", "", "", "", "", "", "", plain["patient"]["state"]])
    widths = [max(len(row[n]) for row in [list(head), *rows]) for n in range(len(head))]

    def line(cells: Any) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    click.echo()
    click.echo(line(head))
    click.echo(line(["-" * width for width in widths]))
    for row in rows:
        click.echo(line(row))
    click.echo()
    for notice in plain.get("notices", []):
        click.echo(f"Note: {notice}.")
    case = plain["case"]
    if case["aligned"]:
        click.echo(f"ALIGNED: everybody holds version {case['version']}; plan of record: {case['planOfRecord']}.")
        return
    click.echo("INFORMED, not yet aligned." if case["informed"] else "NOT YET ALIGNED.")
    for item in plain.get("waitingFor", []):
        click.echo(f"  waiting for {item}")


_READS = ("manifest", "completeness", "alignment", "package", "requests", "merged-record", "audit-trail",
          "match-reviewer")  # fmt: skip


@main.command()
@click.argument("operation")
@click.argument("case_id", required=False)
@click.option("--in", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The input, JSON.")
@click.option("--out", type=click.Path(path_type=Path), help="Where a PDF in the answer goes (cover-sheet).")
@connected
def case(
    operation: str, case_id: str | None, file: Path | None, out: Path | None, url: str, caller: str, token_file: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Any operation of the table, or "list".

    Example: fhir-secondop case completeness 0f0c… --token-file token
    """
    remote = Remote(url, token_file, caller)
    if operation == "list":
        found = remote.call("GET", "")
    elif case_id is None:
        raise click.UsageError("Name the case: fhir-secondop case OPERATION CASE.")
    else:
        body = read_json(file) if file else None
        reads = operation in _READS
        found = remote.call("GET" if reads and body is None else "POST", f"/{case_id}/{operation}", body or
                            (None if reads else {}))  # fmt: skip
    if out is not None and "pdf" in found:
        out.write_bytes(base64.b64decode(found.pop("pdf")))
        found["written"] = str(out)
    print_(found, as_json, lambda plain: click.echo(json.dumps(plain, indent=2, ensure_ascii=False)))


@main.command()
@click.argument("case_id")
@click.option("--to", default="", help="A part of a recipient's name; everybody otherwise.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done: on which rung, and why.")
@click.option("--show", is_flag=True, help="With --dry-run: the exact bytes that would be sent.")
@connected
def deliver(
    case_id: str, to: str, dry_run: bool, show: bool, url: str, caller: str, token_file: str, as_json: bool
) -> None:
    """Tries again what waits for a person, or with --dry-run says what each delivery would do.

    Example: fhir-secondop deliver 0f0c… --to Mockridge --dry-run --show --token-file token
    """
    remote = Remote(url, token_file, caller)
    if show and not dry_run:
        raise click.UsageError("--show goes with --dry-run.")
    if dry_run:
        found = remote.call("POST", f"/{case_id}/preview-delivery", {"to": to} if to else {})
        if not show:
            for row in found["deliveries"]:
                row["requests"] = [{k: v for k, v in r.items() if k != "body"} for r in row["requests"]]
        print_(found, as_json, _show_preview)
        return
    held = [d for d in remote.call("GET", f"/{case_id}")["deliveries"]
            if d["status"] == "on-hold" and to.casefold() in d["to"].casefold()]  # fmt: skip
    for row in held:
        remote.call("POST", f"/{case_id}/replay", {"task": row["task"], "changed": "deliver was called"})
    said = f"{len(held)} tried again" if held else "nothing waits for a person; see: fhir-secondop status CASE"
    print_({"replayed": [row["task"] for row in held]}, as_json, lambda plain: click.echo(said))


def _show_preview(plain: Plain) -> None:
    for row in plain["deliveries"]:
        rung = f"rung {row['rung']}" if row["rung"] else "not possible now"
        click.echo(f"{row['what']} version {row['version']} to {row['to']} ({row['status']}): {rung}, {row['why']}")
        if "there" in row:
            click.echo(f"  there already: {row['there']}, {row['copy']}")
        for request in row["requests"]:
            click.echo(f"  {request['method']} {request['url']}")
            for name, value in request["headers"].items():
                click.echo(f"  {name}: {value}")
            if "body" in request:
                click.echo(f"\n{request['body']}\n")


@main.command()
@click.option("--config", "config_file", default="", help="The TOML file; ./secondop.toml by default.")
@json_option
def config(config_file: str, as_json: bool) -> None:
    """The settings in force, and where each came from. Secrets are files; their content is never shown.

    Example: fhir-secondop config --config secondop.toml
    """
    from dataclasses import fields

    from sqlalchemy.engine import make_url

    from fhir_secondop import config as configs
    from fhir_secondop.ehr.origins import host_of

    settings = configs.load(config_file)
    rows: Plain = {}
    for field in fields(settings):
        if field.name in ("connections", "validators", "alerts", "hl7_senders", "origins"):
            continue
        value = getattr(settings, field.name)
        if field.name == "database" and "://" in value:
            value = make_url(value).render_as_string(hide_password=True)
        rows[field.name] = {"value": value, "from": settings.origins.get(field.name, "default")}
    rows["connections"] = {
        "value": {name: {"base": c.base, "auth": c.auth} for name, c in settings.connections.items()},
        "from": config_file or configs.DEFAULT_FILE,
    }
    rows["validators"] = {
        "value": {name: {"base": v.connection.base, "required": v.required} for name, v in settings.validators.items()},
        "from": config_file or configs.DEFAULT_FILE,
    }
    rows["alerts"] = {
        "value": {
            "email": settings.alerts.email.host if settings.alerts.email else "",
            "webhooks": {name: host_of(c.base) for name, c in settings.alerts.webhooks.items()},
            "levels": [level.after_minutes for level in settings.alerts.levels],
        },
        "from": config_file or configs.DEFAULT_FILE,
    }
    rows["hl7_senders"] = {
        "value": {name: {"facility": s.facility, "networks": list(s.networks)} for name, s in
                  settings.hl7_senders.items()},
        "from": config_file or configs.DEFAULT_FILE,
    }  # fmt: skip

    def show(plain: Plain) -> None:
        for name, row in plain.items():
            click.echo(f"{name} = {row['value']!r}  ({row['from']})")

    print_(rows, as_json, show)


for command in (
    alerts.alerts,
    clients.client,
    connections.connect,
    connections.doctor,
    deliveries.deliveries,
    keys.keys,
    corpus.corpus,
    audit.audit,
    directory.directory,
    events.events,
    package.package,
    checking.check,
    hl7.hl7,
    stored.db,
    backup.backup,
    backup.restore,
    verify,
):
    main.add_command(command)
