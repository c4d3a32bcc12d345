"""An endpoint behind a client that needs no network, as these tests ask for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask

from fhir_secondop.access import rights
from fhir_secondop.model import Caller
from fhir_secondop.rest.app import blueprint
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.store.database import Database, now_ms
from tests.store.rows import BASE


def client_of(database: Database, authenticate: Callable[[Any], Caller], **options: Any) -> Any:
    """A client whose addresses begin with /fhir."""
    endpoint = Endpoint(
        database=database, base_url=BASE, software="test", authenticate=authenticate,
        visibility=lambda caller: rights.visibility(caller, now_ms()), allows=rights.allows, **options,
    )  # fmt: skip
    app = Flask("test", static_folder=None)
    app.register_blueprint(blueprint(endpoint), url_prefix="/fhir")
    return app.test_client()
