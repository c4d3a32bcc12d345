"""An EHR that costs next to nothing and answers as slowly as it is told: for measuring what *we* cost.

One asyncio process, everything in memory: reads, searches by patient or identifier, conditional creates, updates,
transactions, and files made up when they are asked for. It declares what it does; it checks nothing.

  GET  /bench/stats   requests answered, the most at once, and seconds on its own clock from the first to the end of
                      the last
  POST /bench/forget  empties it of what was written, and the numbers with it

Example: python standin.py --port 8300 --latency-ms 50 --patients 16
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

JSON = "application/fhir+json"
SYSTEM = "https://standin.example/mrn"
PDF = "application/pdf"
Plain = dict[str, Any]
Answer = tuple[int, str, bytes, str]  # status, media type, body, location

_PATIENT = re.compile(rb'"Patient/([0-9]+)"')
_SEARCHED = ("DocumentReference", "DiagnosticReport", "Observation", "Encounter", "Condition")


def capability() -> Plain:
    """What it declares: searches by patient and identifier, conditional creates, transactions."""

    def row(kind: str, interactions: tuple[str, ...], parameters: tuple[str, ...]) -> Plain:
        return {
            "type": kind, "interaction": [{"code": code} for code in interactions], "conditionalCreate": True,
            "searchParam": [{"name": name, "type": "token"} for name in parameters],
        }  # fmt: skip

    rows = [row(kind, ("read", "search-type", "create", "update"), ("patient", "identifier")) for kind in _SEARCHED]
    rows += [row("Patient", ("read", "search-type"), ("identifier",)), row("Binary", ("read",), ())]
    rest = {"mode": "server", "interaction": [{"code": "transaction"}], "resource": rows}
    return {"resourceType": "CapabilityStatement", "status": "active", "kind": "instance", "fhirVersion": "4.0.1",
            "format": ["json"], "rest": [rest]}  # fmt: skip


def _bytes(number: int, size: int) -> bytes:
    """The bytes of file `number`: always the same, and made when they are wanted."""
    return random.Random(number).randbytes(size)


@dataclass
class Ehr:
    """What it holds. `files` documents of patient 1, of `size` bytes each, come as "binary", "json" or "inline"."""

    base: str
    patients: int
    files: int = 0
    size: int = 0
    how: str = "binary"
    per_page: int = 50
    refuse_every: int = 0
    written: dict[str, Plain] = field(default_factory=dict)  # by "Type/id"
    named: dict[str, list[str]] = field(default_factory=dict)  # "Type?system|value" → references
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    asked: int = 0
    under_way: int = 0
    most: int = 0
    first: float = 0.0
    last: float = 0.0

    def answer(self, method: str, url: str, headers: dict[str, str], body: bytes) -> Answer:
        """One request below /fhir."""
        parts = urlsplit(url)
        path = [p for p in parts.path.removeprefix("/fhir").split("/") if p]
        query = {k: v[0] for k, v in parse_qs(parts.query).items()}
        if method == "GET":
            if path == ["metadata"]:
                return _json(200, capability())
            return (
                self._search(path[0], query)
                if len(path) == 1
                else self._read(path[0], path[1], headers.get("accept", ""))
            )
        resource = json.loads(body)
        if self.refuse_every and any(int(n) % self.refuse_every == 0 for n in _PATIENT.findall(body)):
            return _json(422, {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "invalid"}]})
        if not path:
            return _json(200, self._transaction(resource))
        if method == "PUT":
            return self._put("/".join(path[:2]), resource)
        return self._create(path[0], resource, headers.get("if-none-exist", ""))

    # reading

    def _read(self, kind: str, id_: str, accept: str) -> Answer:
        if kind == "Patient":
            return _json(200, self._patient(int(id_)))
        if kind == "Binary":
            data = _bytes(int(id_), self.size)
            if self.how == "binary":
                return 200, PDF, data, ""
            return _json(200, {"resourceType": "Binary", "id": id_, "contentType": PDF,
                               "data": base64.b64encode(data).decode()})  # fmt: skip
        found = self.written.get(f"{kind}/{id_}")
        return _json(200, found) if found else _json(404, {"resourceType": "OperationOutcome", "issue": []})

    def _patient(self, number: int) -> Plain:
        return {
            "resourceType": "Patient", "id": str(number), "active": True, "birthDate": "1970-01-01",
            "identifier": [{"system": SYSTEM, "value": f"P-{number}"}], "gender": "female",
            "name": [{"use": "official", "family": "Benchley", "given": ["Pat"]}],
        }  # fmt: skip

    def _search(self, kind: str, query: dict[str, str]) -> Answer:
        identifier = query.get("identifier", "")
        if kind == "Patient":
            number = identifier.rpartition("|P-")[2]
            known = number.isdigit() and 1 <= int(number) <= self.patients
            return self._bundle([self._patient(int(number))] if known else [])
        if identifier:
            return self._bundle([self.written[r] for r in self.named.get(f"{kind}?{identifier}", [])])
        if kind == "DocumentReference" and query.get("patient", "").rpartition("/")[2] == "1" and self.files:
            start = int(query.get("_page", "0"))
            numbers = range(start + 1, min(start + self.per_page, self.files) + 1)
            following = start + self.per_page
            more = f"{self.base}/{kind}?patient=1&_page={following}" if following < self.files else ""
            return self._bundle([self._document(n) for n in numbers], more)
        about = f"Patient/{query.get('patient', '').rpartition('/')[2]}"
        theirs = [r for r in self.written.values() if r.get("subject", {}).get("reference") == about]
        return self._bundle([r for r in theirs if r["resourceType"] == kind])

    def _document(self, number: int) -> Plain:
        attachment: Plain = {"contentType": PDF, "title": f"File {number}"}
        if self.how == "inline":
            attachment["data"] = base64.b64encode(_bytes(number, self.size)).decode()
        else:
            attachment["url"] = f"{self.base}/Binary/{number}"
        return {"resourceType": "DocumentReference", "id": str(number), "status": "current",
                "subject": {"reference": "Patient/1"}, "date": "2026-01-01T00:00:00Z",
                "content": [{"attachment": attachment}]}  # fmt: skip

    def _bundle(self, found: list[Plain], more: str = "") -> Answer:
        links = [{"relation": "next", "url": more}] if more else []
        entries = [{"fullUrl": f"{self.base}/{r['resourceType']}/{r['id']}", "resource": r} for r in found]
        return _json(200, {"resourceType": "Bundle", "type": "searchset", "link": links, "entry": entries})

    # writing

    def _create(self, kind: str, resource: Plain, criteria: str) -> Answer:
        if criteria:
            there = self.named.get(f"{kind}?{parse_qs(criteria).get('identifier', [''])[0]}")
            if there:
                return _json(200, self.written[there[0]], f"{self.base}/{there[0]}/_history/1")
        reference = f"{kind}/w{next(self.numbers)}"
        _, _, body, _ = self._put(reference, resource)
        return 201, JSON, body, f"{self.base}/{reference}/_history/1"

    def _put(self, reference: str, resource: Plain) -> Answer:
        kind, _, id_ = reference.partition("/")
        version = int(self.written.get(reference, {}).get("meta", {}).get("versionId", "0")) + 1
        stored = {**resource, "id": id_, "meta": {"versionId": str(version)}}
        self.written[reference] = stored
        for identifier in [*resource.get("identifier", []), resource.get("masterIdentifier", {})]:
            listed = self.named.setdefault(f"{kind}?{identifier.get('system', '')}|{identifier.get('value', '')}", [])
            if reference not in listed:
                listed.append(reference)
        return _json(200, stored, f"{self.base}/{reference}")

    def _transaction(self, bundle: Plain) -> Plain:
        """Conditional creates and updates; references between the entries are resolved."""
        entries = bundle["entry"]
        answers: list[Plain] = []
        places: dict[str, str] = {}
        for entry in entries:
            kind = entry["resource"]["resourceType"]
            criteria = parse_qs(entry["request"].get("ifNoneExist", "")).get("identifier", [""])[0]
            there = self.named.get(f"{kind}?{criteria}", [""])[0] if criteria else ""
            posted = entry["request"]["method"] == "POST"
            reference = there or (f"{kind}/w{next(self.numbers)}" if posted else entry["request"]["url"])
            places[entry["fullUrl"]] = reference
            status = "200 OK" if there or not posted else "201 Created"
            answers.append({"response": {"status": status, "location": f"{reference}/_history/1"}})
        text = json.dumps([entry["resource"] for entry in entries])
        for url, reference in places.items():
            text = text.replace(f'"{url}"', f'"{reference}"')
        for entry, resource, answer in zip(entries, json.loads(text), answers, strict=True):
            if answer["response"]["status"] == "201 Created" or entry["request"]["method"] == "PUT":
                self._put(places[entry["fullUrl"]], resource)
        return {"resourceType": "Bundle", "type": "transaction-response", "entry": answers}

    # its own numbers

    def own(self, path: str) -> Answer:
        """What is below /bench."""
        if path == "/bench/forget":
            self.written.clear()
            self.named.clear()
            self.asked, self.most, self.first, self.last = 0, 0, 0.0, 0.0
        told = {"requests": self.asked, "most at once": self.most, "seconds": self.last - self.first,
                "written": len(self.written)}  # fmt: skip
        return 200, "application/json", json.dumps(told).encode(), ""


def _json(status: int, resource: Plain, location: str = "") -> Answer:
    return status, JSON, json.dumps(resource).encode(), location


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes] | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    method, url, _ = first.split(" ")
    return method, url, headers, body


async def serve(ehr: Ehr, port: int, latency_s: float) -> None:
    """Answers until it is ended."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (asked := await _read_request(reader)) is not None:
            began = time.monotonic()
            if asked[1].startswith("/bench"):
                status, kind, body, location = ehr.own(asked[1])
            else:
                ehr.first = ehr.first or began
                ehr.under_way += 1
                ehr.most = max(ehr.most, ehr.under_way)
                status, kind, body, location = ehr.answer(*asked)
                # The answer goes out that long after the question came in, whatever it cost to make.
                await asyncio.sleep(max(0.0, began + latency_s - time.monotonic()))
                ehr.under_way -= 1
                ehr.asked += 1
                ehr.last = time.monotonic()
            head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            head += f"Location: {location}\r\n\r\n" if location else "\r\n"
            writer.write(head.encode() + body)
            try:
                await writer.drain()
            except ConnectionError:
                break
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", port, limit=1 << 24)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--patients", type=int, default=1)
    parser.add_argument("--files", type=int, default=0, help="documents of patient 1")
    parser.add_argument("--size", type=int, default=4_000_000, help="bytes of each file")
    parser.add_argument("--how", choices=["binary", "json", "inline"], default="binary",
                        help="raw bytes, a Binary as FHIR JSON, or base64 in the document")  # fmt: skip
    parser.add_argument("--refuse-every", type=int, default=0, help="writes about every such patient are refused, 422")
    parser.add_argument("--per-page", type=int, default=50)
    told = parser.parse_args()
    ehr = Ehr(f"http://127.0.0.1:{told.port}/fhir", told.patients, told.files, told.size, told.how, told.per_page,
              told.refuse_every)  # fmt: skip
    asyncio.run(serve(ehr, told.port, told.latency_ms / 1000))


if __name__ == "__main__":
    main()
