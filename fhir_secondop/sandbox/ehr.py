"""One simulated EHR: a store of its own, the FHIR endpoint, and the quirks of its shape.

A shape is a file in profiles/shapes; a quirk is a row of QUIRKS. Nothing here knows what a second opinion is.
"""

from __future__ import annotations

import gzip
import os
import socket
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

from fhir_secondop.errors import Invalid, Unavailable
from fhir_secondop.fhir import codec
from fhir_secondop.model import EVERYTHING, Caller, Ready, Resource
from fhir_secondop.rest.app import blueprint, log_requests
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.rest.transaction import entries_of
from fhir_secondop.store import bundles, resources, tables
from fhir_secondop.store.bundles import Entry
from fhir_secondop.store.database import Database, Transaction

SHAPES = ("full", "epic", "read-only")
VISITOR = Caller("visitor", "Visitor", frozenset({"system"}), ("system/*.cruds",))

Check = Callable[[Resource], None]


def _text_only(resource: Resource) -> None:
    for content in resource.get("content", []):
        kind = content.get("attachment", {}).get("contentType", "")
        if not kind.startswith("text/plain"):
            raise Invalid(f"Content of type {kind} is not accepted; send text/plain.", path="DocumentReference.content")


def _note_needs_encounter(resource: Resource) -> None:
    if not resource.get("context", {}).get("encounter"):
        raise Invalid("A note needs an existing encounter.", path="DocumentReference.context.encounter")


# What a created or updated DocumentReference must satisfy.
QUIRKS: dict[str, Check] = {"text-only": _text_only, "note-needs-encounter": _note_needs_encounter}
# What takes a capability away from the shape.
LACKS = {
    "no-transaction": lambda endpoint: replace(endpoint, system=frozenset()),
    "no-conditional-create": lambda endpoint: replace(endpoint, conditional_create=False),
}


@dataclass(frozen=True, slots=True)
class Quirky:
    """The hooks of a simulated EHR: its quirks look at each write before it is committed."""

    checks: tuple[Check, ...]

    def before(self, caller: Caller, entries: Sequence[Entry], key: str) -> Sequence[Entry] | Ready:
        """Nothing is answered beforehand."""
        return entries

    def within(self, transaction: Transaction) -> None:
        """Refuses what a quirk refuses."""
        for change in transaction.changes:
            if change.type == "DocumentReference" and change.interaction != "delete":
                stored = resources.read(transaction.connection, EVERYTHING, change.type, change.id)
                for check in self.checks:
                    check(stored.resource)


def build(shape: str, database: Database, base_url: str, quirks: Iterable[str] = ()) -> Flask:
    """The application of a simulated EHR; its FHIR base is at /fhir."""
    text = (files("fhir_secondop.profiles") / "shapes" / f"{shape}.toml").read_text("utf-8")
    facts: dict[str, Any] = tomllib.loads(text)
    wanted = [*facts["quirks"], *quirks]
    unknown = [q for q in wanted if q not in QUIRKS and q not in LACKS]
    if unknown:
        raise Invalid(f"Unknown quirk {unknown[0]}; known are {', '.join(sorted([*QUIRKS, *LACKS]))}.")
    endpoint = Endpoint(
        database=database,
        base_url=base_url,
        software=facts["title"],
        authenticate=lambda request: VISITOR,
        visibility=lambda caller: EVERYTHING,
        allows=lambda caller, resource_type, letter: True,
        hooks=Quirky(tuple(QUIRKS[q] for q in wanted if q in QUIRKS)),
        interactions=frozenset(facts.get("every_type", ())),
        by_type={t: frozenset(i) for t, i in facts["types"].items()} if "types" in facts else None,
        system=frozenset(facts["system"]),
        conditional_create=facts["conditional_create"],
        max_count=facts["page_size"],
        security="None: a simulation on loopback.",
    )
    for quirk in wanted:
        if quirk in LACKS:
            endpoint = LACKS[quirk](endpoint)
    app = Flask("fhir_secondop.sandbox", static_folder=None)
    log_requests(app)
    app.register_blueprint(blueprint(endpoint), url_prefix="/fhir")

    @app.get("/healthz")
    def health() -> dict[str, str | int]:
        return {"status": "ok", "shape": shape, "pid": os.getpid()}

    return app


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


def serve(app: Flask, port: int) -> None:
    """Serves a simulated EHR on loopback until it is told to stop."""
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            # Werkzeug would end the process with a page of advice.
            raise Unavailable(f"Port {port} can't be listened on ({error}); choose another --port.") from error
    make_server("127.0.0.1", port, app, threaded=True, request_handler=_KeepAlive).serve_forever()
