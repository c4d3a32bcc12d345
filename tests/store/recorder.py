"""A process that writes and reads with an audit until it is killed: python -m tests.store.recorder URL.

Prints the id of each write once it is acknowledged.
"""

from __future__ import annotations

import sys

from fhir_secondop.store.audit.audit import Audit
from fhir_secondop.store.audit.rows import Access, access_rows
from fhir_secondop.store.database import Database, now_ms
from tests.store.rows import put


def main(url: str) -> None:
    database = Database(url)
    database.audit = Audit(database, strict=False, now=now_ms)
    while True:
        stored = put(database, {"resourceType": "Basic", "code": {"text": "x"}})
        print(stored.id, flush=True)
        database.audit.put(access_rows(Access(caller="desk", type="Basic", id=stored.id), "R", 200, now_ms()))


if __name__ == "__main__":
    main(sys.argv[1])
