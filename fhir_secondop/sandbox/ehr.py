"""One simulated EHR: a store of its own, the FHIR endpoint, and the quirks of its shape.

A shape is a file in profiles/shapes; a quirk is a row of `quirks.QUIRKS`. Nothing here knows what a second opinion is.
"""

from __future__ import annotations

import gzip
import os
import socket
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from flask import Flask
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from fhir_secondop.access import rights
from fhir_secondop.errors import Unavailable
from fhir_secondop.fhir import codec
from fhir_secondop.limits import Limits
from fhir_secondop.model import EVERYTHING, Caller, Ready
from fhir_secondop.rest.app import blueprint, log_requests
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.rest.transaction import entries_of
from fhir_secondop.sandbox import quirks as known_quirks
from fhir_secondop.sandbox.answers import Refused
from fhir_secondop.sandbox.quirks import QUIRKS
from fhir_secondop.sandbox.quirks_write import Check
from fhir_secondop.sandbox.signin import VISITOR, Door, Rules
from fhir_secondop.sandbox.traffic import wrapped
from fhir_secondop.store import bundles, resources, tables
from fhir_secondop.store.bundles import Entry
from fhir_secondop.store.database import Database, Transaction

SHAPES = ("full", "epic", "oracle", "athena", "meditech", "read-only", "dead")


@dataclass(frozen=True, slots=True)
class Checked:
    """The hooks of a simulated EHR: its quirks look at each write before it is committed."""

    checks: tuple[Check, ...]

    def before(self, caller: Caller, entries: Sequence[Entry], key: str) -> Sequence[Entry] | Ready:
        """Nothing is answered beforehand."""
        return entries

    def within(self, transaction: Transaction) -> None:
        """Refuses what a quirk refuses."""
        for change in transaction.changes if self.checks else ():
            if change.interaction != "delete":
                stored = resources.read(transaction.connection, EVERYTHING, change.type, change.id)
                for check in self.checks:
                    check(transaction, change, stored.resource)


def build(
    shape: str, database: Database, base_url: str, quirks: Iterable[str] = (), rules: Rules | None = None
) -> Flask:
    """The application of a simulated EHR; its FHIR base is at /fhir. `quirks` ("NAME" or "NAME=VALUE") go on top of
    the shape's, `rules` say how one signs in.
    """
    text = (files("fhir_secondop.profiles") / "shapes" / f"{shape}.toml").read_text("utf-8")
    facts: dict[str, Any] = tomllib.loads(text)
    wanted = known_quirks.chosen([*quirks, *facts["quirks"]])
    rows = [(QUIRKS[name], value) for name, value in wanted]
    endpoint = _endpoint(facts, database, base_url)
    door = Door(replace(rules or Rules(), quirks=wanted), base_url, endpoint.types())
    endpoint = replace(
        endpoint,
        authenticate=door.authenticate,
        hooks=Checked(tuple(row.check(value) for row, value in rows if row.check)),
    )
    for row, _ in rows:
        if row.shape:
            endpoint = row.shape(endpoint)
    app = Flask("fhir_secondop.sandbox", static_folder=None)
    log_requests(app)
    routes = blueprint(endpoint)
    routes.register_error_handler(Refused, lambda error: error.answer)
    app.register_blueprint(routes, url_prefix="/fhir")
    door.serve(app)

    @app.get("/healthz")
    def health() -> dict[str, str | int]:
        return {"status": "ok", "shape": shape, "pid": os.getpid()}

    arounds = [row.around(value) for row, value in rows if row.around]
    if arounds or door.asks:
        app.wsgi_app = wrapped(app.wsgi_app, [door.ask, *arounds, door.declare])  # type: ignore[method-assign]
    return app


def _endpoint(facts: dict[str, Any], database: Database, base_url: str) -> Endpoint:
    """What a shape's file says is offered, to everybody."""
    types = facts.get("types")
    search = facts.get("search")
    return Endpoint(
        database=database,
        base_url=base_url,
        software=facts["title"],
        authenticate=lambda request: VISITOR,
        visibility=lambda caller: EVERYTHING,
        allows=rights.allows,
        interactions=frozenset(facts.get("every_type", ())),
        by_type=None if types is None else {kind: frozenset(codes) for kind, codes in types.items()},
        searchable=None if search is None else {kind: frozenset(codes) for kind, codes in search.items()},
        system=frozenset(facts["system"]),
        conditional_create=facts["conditional_create"],
        conditional_changes=facts.get("conditional_changes", False),
        limits=Limits(max_page=facts["page_size"]),
        security="None: a simulation on loopback.",
    )


def load(database: Database, base_url: str, paths: Iterable[Path]) -> int:
    """Loads transaction Bundles (.json or .json.gz) into an EHR that is still empty; how many resources it took.

    A PUT keeps the id of the file, a POST gets one. An EHR that holds anything is left as it is.
    """
    with database.reading() as connection:
        held: int = connection.execute(sa.select(sa.func.count()).select_from(tables.resource)).scalar_one()
    if held:
        return held
    count = 0
    with database.transaction(VISITOR) as tx:
        for path in paths:
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            text = codec.text_of(data)
            entries = entries_of(codec.parse(text), text)
            bundles.apply(tx, entries, visibility=EVERYTHING, base_url=base_url, update_creates=True)
            count += len(entries)
    return count


class _KeepAlive(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: a query string may carry a patient's name."""


def server(app: Flask, port: int) -> BaseWSGIServer:
    """A simulated EHR that listens on loopback, to be started. Raises Unavailable when the port is taken."""
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            # Werkzeug would end the process with a page of advice.
            raise Unavailable(f"Port {port} can't be listened on ({error}); choose another --port.") from error
    return make_server("127.0.0.1", port, app, threaded=True, request_handler=_KeepAlive)


def serve(app: Flask, port: int) -> None:
    """Serves a simulated EHR on loopback until it is told to stop."""
    server(app, port).serve_forever()
