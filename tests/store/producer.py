"""A process that writes to a store, for tests in which two processes do so at once.

python -m tests.store.producer URL MODE COUNT NAME; prints one line per write.
"""

from __future__ import annotations

import sys

from fhir_secondop.errors import SecondOpError
from fhir_secondop.fhir import codec
from fhir_secondop.model import EVERYTHING
from fhir_secondop.store import bundles
from fhir_secondop.store.database import Database
from tests.store.rows import BASE, DESK, create


def main(url: str, mode: str, count: int, name: str) -> None:
    """`create`: resources one by one. `conditional`: for each number, the same patient by either identifier."""
    database = Database(url)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(count):
        if mode == "create":
            with database.transaction(DESK) as tx:
                stored = create(tx, {"resourceType": "Basic", "code": {"text": name}})
            print(stored.id, stored.updated, flush=True)
        else:
            print(conditional(database, number, name), flush=True)


def conditional(database: Database, number: int, name: str) -> str:
    """One conditional create of patient `number`, which has two identifiers: each writer asks by its own."""
    patient = {
        "resourceType": "Patient",
        "identifier": [
            {"system": "urn:x:a", "value": f"{number}"},
            {"system": "urn:x:b", "value": f"{number}"},
        ],
    }
    entry = bundles.Entry(
        0, "POST", "Patient", body=codec.compose(patient), resource=patient,
        if_none_exist=f"identifier=urn:x:{name}|{number}",
    )  # fmt: skip
    try:
        with database.transaction(DESK) as tx:
            outcome = bundles.apply(tx, [entry], visibility=EVERYTHING, base_url=BASE)[0]
    except SecondOpError as error:
        return f"{type(error).__name__} -"
    assert outcome.stored is not None
    return f"{outcome.status} {outcome.stored.id}"


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
