"""The token endpoint over HTTP, on both databases: who gets a token, what it opens, and how it ends."""

from __future__ import annotations

import pytest

from tests.web.conftest import RSA, Door


@pytest.mark.parametrize("key", [None, RSA], ids=["ES384", "RS384"])
def test_a_registered_client_gets_a_token_and_reads_with_it(door: Door, key: object) -> None:
    form = door.form() if key is None else door.form(client_assertion=door.assertion(key=key))
    answer = door.ask(form)

    said = answer.json()
    assert answer.status_code == 200, said
    assert (said["token_type"], said["expires_in"], said["scope"]) == ("bearer", 300, "system/Patient.rs")
    assert (answer.headers["Cache-Control"], answer.headers["Pragma"]) == ("no-store", "no-cache")
    assert door.read(said["access_token"]).status_code == 200
    assert door.read(said["access_token"], "/fhir/Task").status_code == 403  # it may, but did not ask
