"""The full simulated EHR in this process: `send` on both databases, `sqlite_send` where that makes no difference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fhir_secondop.sandbox import ehr
from fhir_secondop.store.database import Database
from tests.rest.served import Send, sender
from tests.store.rows import BASE


@pytest.fixture
def send(database: Database) -> Send:
    """The full simulated EHR, in this process, on both databases."""
    return sender(ehr.build("full", database, BASE))


@pytest.fixture
def sqlite_send(tmp_path: Any) -> Iterator[Send]:
    """As `send`, where the database makes no difference."""
    database = Database(str(tmp_path / "one.sqlite"))
    database.migrate()
    yield sender(ehr.build("full", database, BASE))
    database.dispose()
