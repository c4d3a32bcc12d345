"""Writes into a database from eight threads until it is killed; says each id when its transaction is left."""

from __future__ import annotations

import sys
import threading
import uuid

from fhir_secondop.store.database import Database
from tests.store.rows import DESK, create


def main(url: str) -> None:
    """Runs until it is killed."""
    database = Database(url)

    def write() -> None:
        while True:
            name = uuid.uuid4().hex
            with database.transaction(DESK) as tx:
                create(tx, {"resourceType": "Basic", "code": {"text": "x"}}, resource_id=name)
            sys.stdout.write(f"{name}\n")
            sys.stdout.flush()

    for _ in range(8):
        threading.Thread(target=write).start()


if __name__ == "__main__":
    main(sys.argv[1])
