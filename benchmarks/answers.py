"""The memory of the service while it answers with large resources: it must not grow with what is asked for.

The service runs as an operator starts it, over documents with an attachment of 1 MB inside. Each way to ask gets a
service of its own, and reads page by page with `_count=1000` to the end: every document once.

  search   GET DocumentReference
  sorted   the same by _sort=-_id
  xml      the first page of it in XML, which is made whole
  history  GET DocumentReference/_history

python benchmarks/answers.py [--documents 1000] [--size-mb 1] [--how search] [--json] [--database URL]
"""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import requests
import rig

from fhir_secondop.fhir import codec
from fhir_secondop.model import Caller
from fhir_secondop.store import resources
from fhir_secondop.store.database import Database

DESK = {"Authorization": "Bearer desk", "Accept": "application/fhir+json"}
HOWS = {
    "search": "DocumentReference?_count=1000",
    "sorted": "DocumentReference?_count=1000&_sort=-_id",
    "xml": "DocumentReference?_count=1000&_format=xml",
    "history": "DocumentReference/_history?_count=1000",
}


def filled(url: str, documents: int, size: int) -> None:
    """A database of so many documents, each with so many bytes inside."""
    database = Database(url)
    database.migrate()
    desk = Caller("desk", "Desk", frozenset({"coordinator"}), ("system/*.cruds",))
    for number in range(documents):
        data = base64.b64encode(os.urandom(size * 3 // 4)).decode()
        attachment = {"contentType": "application/octet-stream", "data": data}
        document = {"resourceType": "DocumentReference", "status": "current", "content": [{"attachment": attachment}]}
        text = json.dumps(document)
        with database.transaction(desk) as tx:
            resources.create(tx, *codec.split(text), base_url="http://x.example/fhir", resource_id=f"d{number}")
    database.dispose()


def asked(url: str, pid: int, how: str) -> dict[str, Any]:
    """Reads all pages; the service's memory before and at its peak."""
    idle, _ = rig.rss_mb(pid)
    began, pages, sizes = time.monotonic(), 0, 0
    seen: list[str] = []
    following = f"{url}/fhir/{HOWS[how]}"
    while following:
        answer = requests.get(following, headers=DESK, timeout=300)
        if answer.status_code != 200:
            sys.exit(f"{how}: {answer.status_code} {answer.text[:300]}")
        pages, sizes = pages + 1, max(sizes, len(answer.content))
        following = ""
        if how != "xml":
            page = answer.json()
            seen += [entry["resource"]["id"] for entry in page.get("entry", [])]
            following = next((link["url"] for link in page["link"] if link["relation"] == "next"), "")
    _, peak = rig.rss_mb(pid)
    return {"idle": idle, "peak": peak, "pages": pages, "largest page": sizes / 1e6, "documents": len(seen),
            "each once": len(seen) == len(set(seen)), "seconds": round(time.monotonic() - began, 1)}  # fmt: skip


def main() -> None:
    """Runs it."""
    parser = rig.arguments(__doc__)
    parser.add_argument("--how", action="append", choices=list(HOWS), help="all by default")
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--size-mb", type=float, default=1.0, help="of each attachment")
    parser.add_argument("--database", default="", help="of PostgreSQL, empty; else SQLite")
    chosen = parser.parse_args()
    said: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-answers-") as name:
        folder = Path(name)
        database = chosen.database or str(folder / "service.sqlite")
        filled(database, chosen.documents, round(chosen.size_mb * 1e6))
        for how in chosen.how or HOWS:
            with rig.served(folder, [], database, max_page=1000) as (url, process):
                said[how] = asked(url, process.pid, how)
                rig.say(f"{how}: {said[how]}")
    if chosen.json:
        print(json.dumps(said, indent=1))
        return
    head = ["", "idle MB", "peak MB", "pages", "largest page MB", "documents", "each once", "s"]
    print(rig.table(head, [[how, *row.values()] for how, row in said.items()]))


if __name__ == "__main__":
    main()
