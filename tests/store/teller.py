"""Writes into cases from several threads, some of it in vain; says what it has committed."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from fhir_secondop.model import Resource
from fhir_secondop.store.case_events import Numbering
from fhir_secondop.store.database import Database
from tests.store.rows import DESK, create

THREADS = 6


class InVain(Exception):
    """The transaction is given up."""


def told(case_id: str, before: Resource | None, after: Resource) -> Iterator[str]:
    """As many events as the resource says, of none the same kind."""
    for number in range(after["extension"][0]["valueInteger"]):
        yield f"{after['code']['text']}.{number}"


TELLS = {"Basic": told}


def basic(text: str, events: int = 1) -> Resource:
    """A resource that tells of so many events."""
    number = {"url": "http://example.org/events", "valueInteger": events}
    return {"resourceType": "Basic", "extension": [number], "code": {"text": text}}


def opened(url: str) -> Database:
    """The database, whose writers number what happens in cases."""
    database = Database(url)
    database.numbering = Numbering(TELLS)
    return database


def main(url: str, name: str, each: int, *cases: str) -> None:
    """Each thread does so many transactions; a third of them fail at their very end."""
    database = opened(url)

    def write(thread: int) -> list[tuple[str, str]]:
        made, chance = [], random.Random(f"{name} {thread}")
        for number in range(each):
            case_id, text, many = chance.choice(cases), f"{name}-{thread}-{number}", chance.randint(1, 3)
            try:
                with database.transaction(DESK) as tx:
                    for zone in (case_id, f"{case_id}#draft")[: chance.randint(1, 2)]:
                        create(tx, basic(f"{text}{zone[len(case_id) :]}", many), case_id=zone)
                    if chance.random() < 1 / 3:
                        database.numbering.write(tx)  # as far as it comes: the rows are there already
                        raise InVain
            except InVain:
                continue
            made.append((case_id, text))
        return made

    with ThreadPoolExecutor(THREADS) as threads:
        print(json.dumps([pair for made in threads.map(write, range(THREADS)) for pair in made]))
    database.dispose()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
