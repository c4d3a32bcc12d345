"""A hostile EHR: a FHIR server of its own process that keeps to nothing, and tells the truth only to the test.

Several places, each a port with a store of its own and one shape (which rung of the ladder it allows). Of each request
a random number of its place's seed and its number there decides what becomes of it: how it is stored and how it is
answered, independently of each other. What it really stored, by whose request, is at /truth of the control port.

Its clock is the test's: a write that lands late waits until the test has set the clock ahead.

Example: python -m tests.faults.peer '{"seed": 7, "control": 8400, "elsewhere": 8401, "places": {"full": 8402}}'
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import heapq
import itertools
import json
import random
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trustme

from tests.faults.wire import Answer, json_answer, listener

Plain = dict[str, Any]
SYSTEM = "https://hostile.example/mrn"
NPI = "http://hl7.org/fhir/sid/us-npi"
DATES = "1970-01-{:02d}"

SHAPES: dict[str, tuple[str, ...]] = {
    # what may be created there; "transaction" and "conditional" are said of the server
    "full": ("transaction", "conditional", "DocumentReference", "DiagnosticReport", "Observation"),
    "tls": ("transaction", "conditional", "DocumentReference", "DiagnosticReport", "Observation"),
    "single": ("conditional", "DocumentReference", "DiagnosticReport", "Observation"),
    "filing": ("DocumentReference",),
    "notes": ("DocumentReference",),
    "messages": ("Communication",),
}

# How often a write is stored so; the rest is stored as it came.
STORING = {
    "stored late": 0.05, "not stored": 0.03, "stored twice": 0.03, "fields dropped": 0.03, "bytes changed": 0.02,
    "refused": 0.01, "criteria ignored": 0.03,
}  # fmt: skip
# How often a write is answered so, whatever was stored; the rest is told the truth.
ANSWERING = {
    "answered late": 0.02, "never answered": 0.02, "cut off after": 0.04, "200 with an error": 0.02, "500": 0.02,
    "page for people": 0.01, "malformed": 0.01, "another resource": 0.02, "redirected": 0.005, "slow bytes": 0.02,
    "500 MB": 0.002, "length too long": 0.01, "length too short": 0.01,
}  # fmt: skip
# How often a read or search is answered so.
READING = {
    "answered late": 0.002, "never answered": 0.002, "cut off before": 0.008, "200 with an error": 0.002, "500": 0.005,
    "page for people": 0.001, "malformed": 0.001, "another resource": 0.002, "redirected": 0.0005, "slow bytes": 0.01,
    "500 MB": 0.0005, "length too long": 0.002, "length too short": 0.001, "criteria ignored": 0.01,
}  # fmt: skip
STORMS = {"429 with Retry-After": 0.001, "429 without": 0.001, "503": 0.001}
BAD_CERTIFICATES = 0.1


def _one(rng: random.Random, table: dict[str, float], other: str) -> str:
    at = rng.random()
    for name, share in table.items():
        at -= share
        if at < 0:
            return name
    return other


def outcome(code: str = "exception") -> Plain:
    """An OperationOutcome that says no."""
    return {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": code}]}


@dataclass
class World:
    """What all places share: the clock, what lands late, and what came to the other host."""

    seed: int
    ports: dict[str, int]
    elsewhere: str = ""
    ahead_ms: int = 0
    calm: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    late: list[tuple[int, int, Callable[[], None]]] = field(default_factory=list)
    order: Any = field(default_factory=itertools.count)
    copies: list[Plain] = field(default_factory=list)
    wrong_patients: list[Plain] = field(default_factory=list)
    strayed: list[Plain] = field(default_factory=list)

    def now(self) -> int:
        """The test's time, ms."""
        return time.time_ns() // 1_000_000 + self.ahead_ms

    def land(self) -> None:
        """Stores what is due by now."""
        while self.late and self.late[0][0] <= self.now():
            heapq.heappop(self.late)[2]()


@dataclass
class Place:
    """One EHR. `doctor` is the NPI of whoever saw its patients."""

    world: World
    name: str
    base: str
    doctor: str
    held: dict[str, Plain] = field(default_factory=dict)  # by "Type/id"
    named: dict[str, list[str]] = field(default_factory=dict)  # "Type?system|value" → references
    of_patient: dict[str, list[str]] = field(default_factory=dict)  # "Type?Patient/id" → references
    asked: int = 0
    ids: Any = field(default_factory=lambda: itertools.count(1))
    storm: int = 0
    storming: str = ""
    fates: dict[int, str] = field(default_factory=dict)  # what became of each request

    # ---- one request

    def answer(self, method: str, url: str, headers: dict[str, str], body: bytes) -> Answer:
        """What becomes of it."""
        self.world.land()
        self.asked += 1
        rng = random.Random(f"{self.world.seed}/{self.name}/{self.asked}")
        parts = urlsplit(url)
        path = [p for p in parts.path.removeprefix("/fhir").split("/") if p]
        query = {k: v[0] for k, v in parse_qs(parts.query).items()}
        if self.world.calm or path == ["metadata"]:
            return self._honestly(method, path, query, headers, body, rng, "as it came")
        found = self._storm(rng)
        if found:
            return found
        writes = method != "GET"
        how = _one(rng, ANSWERING if writes else READING, "honest")
        storing = _one(rng, STORING, "as it came") if writes else ""
        if method == "PUT" and storing not in ("stored late", "not stored", "refused"):
            storing = "as it came"
        if writes and rng.random() < 0.01:
            how, storing = "cut off before", "not stored"
        if how == "another resource" and "if-none-exist" in headers:
            storing = "not stored"  # to this server something else was there already
        if how == "redirected" and writes and storing != "not stored":
            how, storing = rng.choice((("see other", storing), (how, "not stored")))
        self._count(f"{'write' if writes else 'read'}: {how}", f"write: {storing}" if storing else "")
        self.fates[self.asked] = f"{storing}, {how}"
        if how == "cut off before":
            return Answer(how=how)
        if how == "criteria ignored":
            return self._other(path, rng) if path[1:] == [] else self._read(path)
        honest = self._honestly(method, path, query, headers, body, rng, storing)
        return self._told(how, honest, path, rng)

    def _count(self, *names: str) -> None:
        self.world.counts.update(name for name in names if name)

    def _storm(self, rng: random.Random) -> Answer | None:
        if not self.storm:
            self.storming = _one(rng, STORMS, "")
            self.storm = rng.randint(3, 12) if self.storming else 0
        if not self.storm:
            return None
        self.storm -= 1
        self._count(self.storming)
        status = 503 if self.storming == "503" else 429
        return Answer(status, b"", how="honest", retry_after="2" if "with " in self.storming else "")

    def _told(self, how: str, honest: Answer, path: list[str], rng: random.Random) -> Answer:
        """The answer as it is told."""
        if how == "200 with an error":
            return json_answer(200, outcome())
        if how == "500":
            return json_answer(500, outcome())
        if how == "page for people":
            return Answer(200, b"<html><body>We are back soon.</body></html>", kind="text/html")
        if how == "malformed":
            return Answer(honest.status, honest.body[: max(1, len(honest.body) // 2)], honest.location)
        if how == "redirected":
            return Answer(rng.choice((301, 302, 307, 308)), b"", f"{self.world.elsewhere}/{'/'.join(path)}")
        if how == "see other":
            return Answer(303, b"", honest.location or f"{self.world.elsewhere}/{'/'.join(path)}")
        if how == "another resource":
            return self._another(path, rng)
        honest.how = how
        return honest

    def _another(self, path: list[str], rng: random.Random) -> Answer:
        """Some other resource than the one that was meant, with its place, as if it were it."""
        if not path:
            return json_answer(200, {"resourceType": "Bundle", "type": "transaction-response", "entry": []})
        there = [r for r in self.held if r.startswith(path[0])]
        if there and path[0] != "Patient":
            reference = rng.choice(there)
            return json_answer(200, self.held[reference], f"{self.base}/{reference}")
        return json_answer(200, self.patient(f"p{rng.randint(1, 10**6)}"))

    def _other(self, path: list[str], rng: random.Random) -> Answer:
        """A search that passes over what it was asked: strangers, and no criterion holds."""
        if path == ["Patient"]:
            return self._bundle([self.patient(f"p{rng.randint(1, 10**6)}") for _ in range(rng.randint(1, 3))])
        recent = [r for ref, r in list(self.held.items())[-200:] if ref.startswith(f"{path[0]}/")]
        return self._bundle(recent[-20:])

    # ---- as a server does

    def _honestly(
        self, method: str, path: list[str], query: dict[str, str], headers: dict[str, str], body: bytes,
        rng: random.Random, storing: str,
    ) -> Answer:  # fmt: skip
        if method == "GET":
            if path == ["metadata"]:
                return json_answer(200, self.capability())
            return self._search(path[0], query) if len(path) == 1 else self._read(path)
        if storing == "refused":
            return json_answer(rng.choice((400, 403, 409, 422)), outcome())
        resource = json.loads(body)
        if not path:
            return self._transaction(resource, rng, storing)
        self._check_patients([resource])
        if method == "PUT":
            return self._update("/".join(path[:2]), resource, rng, storing)
        criteria = parse_qs(headers.get("if-none-exist", "")).get("identifier", [""])[0]
        there = self._by_criteria(path[0], criteria, storing)
        if there:
            return json_answer(200, self.held[there], f"{self.base}/{there}/_history/1")
        return self._create(path[0], resource, rng, storing)

    def reports(self) -> list[Plain]:
        """Each report with a document in it, as it stands now."""
        return [
            {"reference": reference, "subject": r["subject"]["reference"], "sha256": _sha256(r), "right": True}
            for reference, r in self.held.items()
            if r["resourceType"] == "DiagnosticReport" and r.get("presentedForm")
        ]

    def capability(self) -> Plain:
        """What it declares."""
        shape = SHAPES[self.name]

        def row(kind: str, interactions: tuple[str, ...]) -> Plain:
            return {"type": kind, "interaction": [{"code": code} for code in interactions],
                    "conditionalCreate": "conditional" in shape,
                    "searchParam": [{"name": n, "type": "token"} for n in ("patient", "identifier")]}  # fmt: skip

        rows = [row(k, ("read", "search-type", "create", "update")) for k in shape if k[0].isupper()]
        rows += [row("Patient", ("read", "search-type")), row("Encounter", ("read", "search-type"))]
        system = [{"code": "transaction"}] if "transaction" in shape else []
        return {"resourceType": "CapabilityStatement", "status": "active", "kind": "instance", "fhirVersion": "4.0.1",
                "format": ["json"], "rest": [{"mode": "server", "interaction": system, "resource": rows}]}  # fmt: skip

    def patient(self, id_: str) -> Plain:
        """Patient "p7", whose number there is H-7."""
        number = int(id_.removeprefix("p") or "0")
        return {"resourceType": "Patient", "id": id_, "active": True, "gender": "female",
                "identifier": [{"system": SYSTEM, "value": f"H-{number}"}], "birthDate": DATES.format(1 + number % 28),
                "name": [{"use": "official", "family": "Benchley", "given": ["Pat"]}]}  # fmt: skip

    def _encounter(self, patient: str) -> Plain:
        who = {"individual": {"identifier": {"system": NPI, "value": self.doctor}}}
        return {"resourceType": "Encounter", "id": f"e-{patient}", "status": "finished", "class": {"code": "AMB"},
                "subject": {"reference": f"Patient/{patient}"}, "participant": [who],
                "period": {"start": "2026-11-02T09:00:00Z"}}  # fmt: skip

    def _bundle(self, found: list[Plain]) -> Answer:
        entries = [{"fullUrl": f"{self.base}/{r['resourceType']}/{r['id']}", "resource": r} for r in found]
        return json_answer(200, {"resourceType": "Bundle", "type": "searchset", "entry": entries})

    def _read(self, path: list[str]) -> Answer:
        if path[0] == "Patient":
            return json_answer(200, self.patient(path[1]))
        found = self.held.get("/".join(path[:2]))
        return json_answer(200, found) if found else json_answer(404, outcome("not-found"))

    def _search(self, kind: str, query: dict[str, str]) -> Answer:
        identifier, about = query.get("identifier", ""), query.get("patient", "").rpartition("/")[2]
        if kind == "Patient":
            number = identifier.rpartition("|H-")[2]
            return self._bundle([self.patient(f"p{number}")] if number.isdigit() else [])
        if kind == "Encounter":
            return self._bundle([self._encounter(about)])
        if identifier:
            found = [r for one in identifier.split(",") for r in self.named.get(f"{kind}?{one}", [])]
            return self._bundle([self.held[r] for r in dict.fromkeys(found)])
        return self._bundle([self.held[r] for r in self.of_patient.get(f"{kind}?Patient/{about}", [])])

    def _by_criteria(self, kind: str, criteria: str, storing: str) -> str:
        if not criteria or storing == "criteria ignored" or "conditional" not in SHAPES[self.name]:
            return ""
        return next(iter(self.named.get(f"{kind}?{criteria}", [])), "")

    # ---- writing

    def _create(self, kind: str, resource: Plain, rng: random.Random, storing: str) -> Answer:
        reference = f"{kind}/{self.name[0]}{next(self.ids)}"
        place = f"{self.base}/{reference}/_history/1"
        if storing == "not stored":
            return Answer(201, b"", place)
        if storing == "stored late":
            self._later(rng, lambda number=self.asked: self._store(reference, resource, "us", number))
            return Answer(202, b"", rng.choice((place, "")))
        stored = self._store(reference, _spoilt(resource, rng, storing), "us", self.asked, sent=resource)
        if storing == "stored twice":
            self._store(f"{kind}/{self.name[0]}{next(self.ids)}", resource, "peer", self.asked)
        return json_answer(201, stored, place)

    def _update(self, reference: str, resource: Plain, rng: random.Random, storing: str) -> Answer:
        if reference not in self.held:
            return json_answer(404, outcome("not-found"))
        if storing == "stored late":
            self._later(rng, lambda: self._replace(reference, resource))
        elif storing != "not stored":
            self._replace(reference, resource)
        return json_answer(200, {**resource, "id": reference.partition("/")[2]}, f"{self.base}/{reference}")

    def _later(self, rng: random.Random, act: Callable[[], None] | Callable[[], Plain]) -> None:
        due = self.world.now() + rng.randint(500, 55_000)
        heapq.heappush(self.world.late, (due, next(self.world.order), act))  # type: ignore[arg-type]

    def _replace(self, reference: str, resource: Plain) -> None:
        before = self.held[reference]
        self._forget(reference, before)
        version = int(before["meta"]["versionId"]) + 1
        self._keep(reference, {**resource, "id": before["id"], "meta": {"versionId": str(version)}})

    def _forget(self, reference: str, resource: Plain) -> None:
        for key in _keys(resource):
            self.named[key].remove(reference)

    def _keep(self, reference: str, stored: Plain) -> None:
        self.held[reference] = stored
        for key in _keys(stored):
            self.named.setdefault(key, []).append(reference)
        about = self.of_patient.setdefault(f"{stored['resourceType']}?{stored['subject']['reference']}", [])
        if reference not in about:
            about.append(reference)

    def _store(self, reference: str, stored: Plain, by: str, number: int, sent: Plain | None = None) -> Plain:
        whole = {**stored, "id": reference.partition("/")[2], "meta": {"versionId": "1"}}
        self._keep(reference, whole)
        sent = sent or stored
        own = sent.get("masterIdentifier") or sent["identifier"][0]
        self.world.copies.append({
            "place": self.name, "reference": reference, "type": sent["resourceType"], "key": own["value"], "by": by,
            "order": next(iter(_orders(sent)), ""), "request": number, "at": self.world.now(),
            "subject": stored["subject"]["reference"], "right": _read(stored) == _read(sent),
            "found": bool(_keys(whole)), "sha256": _sha256(stored),
        })  # fmt: skip
        return whole

    def _transaction(self, bundle: Plain, rng: random.Random, storing: str) -> Answer:
        """Conditional creates and updates; references between the entries are resolved."""
        entries = bundle["entry"]
        self._check_patients([entry["resource"] for entry in entries])
        answers: list[Plain] = []
        places: dict[str, str] = {}
        for entry in entries:
            kind, asked = entry["resource"]["resourceType"], entry["request"]
            criteria = parse_qs(asked.get("ifNoneExist", "")).get("identifier", [""])[0]
            there = self._by_criteria(kind, criteria, storing)
            posted = asked["method"] == "POST"
            reference = there or (f"{kind}/{self.name[0]}{next(self.ids)}" if posted else asked["url"])
            places[entry["fullUrl"]] = reference
            status = "200 OK" if there or not posted else "201 Created"
            answers.append({"response": {"status": status, "location": f"{reference}/_history/1"}})
        answer = json_answer(200, {"resourceType": "Bundle", "type": "transaction-response", "entry": answers})
        if storing == "not stored":
            return answer
        text = json.dumps([entry["resource"] for entry in entries])
        for url, reference in places.items():
            text = text.replace(f'"{url}"', f'"{reference}"')
        number = self.asked

        def store() -> None:
            for entry, resource, said in zip(entries, json.loads(text), answers, strict=True):
                reference = places[entry["fullUrl"]]
                if entry["request"]["method"] == "PUT":
                    self._replace(reference, resource)
                elif said["response"]["status"] == "201 Created":
                    self._store(reference, _spoilt(resource, rng, storing), "us", number, sent=resource)
                    if storing == "stored twice":
                        self._store(f"{resource['resourceType']}/{self.name[0]}{next(self.ids)}", resource, "peer",
                                    number)  # fmt: skip

        if storing == "stored late":
            self._later(rng, store)
        else:
            store()
        return answer

    def _check_patients(self, sent: list[Plain]) -> None:
        """What is about another patient than the order that it answers."""
        for resource in sent:
            orders = _orders(resource)
            # What lost its order here comes back without it, when a copy is marked as superseded.
            if orders and resource["subject"]["reference"] != f"Patient/p{orders[0].removeprefix('H-')}":
                self.world.wrong_patients.append({"place": self.name, "type": resource["resourceType"]})


def _orders(resource: Plain) -> list[str]:
    """The numbers of the orders that it answers."""
    cited = [*resource.get("basedOn", []), *resource.get("context", {}).get("related", [])]
    return [c["identifier"]["value"] for c in cited if "identifier" in c]


def _keys(resource: Plain) -> list[str]:
    own = [*resource.get("identifier", []), resource.get("masterIdentifier", {})]
    return list(dict.fromkeys(f"{resource['resourceType']}?{i['system']}|{i['value']}" for i in own if "value" in i))


def _attachments(resource: Plain) -> list[Plain]:
    return [*(c["attachment"] for c in resource.get("content", [])), *resource.get("presentedForm", []),
            *(p["contentAttachment"] for p in resource.get("payload", []) if "contentAttachment" in p)]  # fmt: skip


def _content(resource: Plain) -> bytes:
    return b"".join(base64.b64decode(form.get("data", "")) for form in _attachments(resource)[:1])


def _sha256(resource: Plain) -> str:
    return hashlib.sha256(_content(resource)).hexdigest()


def _read(resource: Plain) -> bytes | list[bytes]:
    """What a person reads: of a note the words, however they are set."""
    is_text = any(form.get("contentType", "").startswith("text/plain") for form in _attachments(resource)[:1])
    return _content(resource).split() if is_text else _content(resource)


def _spoilt(resource: Plain, rng: random.Random, storing: str) -> Plain:
    if storing == "fields dropped":
        lost = {"identifier", "masterIdentifier"} if rng.random() < 0.6 else set()
        lost |= set(rng.sample(("category", "relatesTo", "context", "description", "type", "author"), 3))
        return {name: value for name, value in resource.items() if name not in lost}
    if storing == "bytes changed":
        changed: Plain = json.loads(json.dumps(resource))
        for form in _attachments(changed):
            data = bytearray(base64.b64decode(form["data"]))
            data[rng.randrange(len(data))] ^= 1
            form["data"] = base64.b64encode(data).decode()
        return changed
    return resource


def tls(folder: str, world: World) -> ssl.SSLContext:
    """A server's TLS that shows a good certificate, or now and then an expired, another host's or a stranger's one.

    The CA is written to `folder`/ca.pem.
    """
    ca, rng = trustme.CA(), random.Random(f"{world.seed}/tls")
    ca.cert_pem.write_to_path(f"{folder}/ca.pem")
    bad = {
        "certificate expired": ca.issue_cert(
            "localhost", not_before=datetime(2020, 1, 1), not_after=datetime(2021, 1, 1)
        ),
        "certificate of another host": ca.issue_cert("elsewhere.example"),
        "certificate of an unknown CA": trustme.CA().issue_cert("localhost"),
    }

    def context(cert: trustme.LeafCert) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        cert.configure_cert(made)
        return made

    contexts = {name: context(cert) for name, cert in bad.items()}
    good = context(ca.issue_cert("localhost"))

    def choose(sock: Any, name: str, first: ssl.SSLContext) -> None:
        if not world.calm and rng.random() < BAD_CERTIFICATES:
            chosen = rng.choice(sorted(contexts))
            world.counts[chosen] += 1
            sock.context = contexts[chosen]

    good.sni_callback = choose
    return good


def control(world: World, places: list[Place]) -> Callable[..., Answer]:
    """What the test asks: /advance?ahead=ms, /calm, /truth."""

    def act(method: str, url: str, headers: dict[str, str], body: bytes) -> Answer:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        if parts.path == "/advance":
            world.ahead_ms = int(query["ahead"][0])
            world.land()
        elif parts.path == "/calm":
            world.calm = True
        elif parts.path == "/truth":
            return json_answer(200, {
                "did": dict(world.counts), "copies": world.copies, "wrong_patients": world.wrong_patients,
                "strayed": world.strayed, "requests": {p.name: p.asked for p in places},
                "fates": {p.name: p.fates for p in places}, "reports": {p.name: p.reports() for p in places},
            })  # fmt: skip
        return json_answer(200, {})

    return act


async def serve(told: Plain) -> None:
    """Answers until it is ended."""
    world = World(told["seed"], told["places"], f"http://127.0.0.1:{told['elsewhere']}/fhir")
    places = []
    for number, (name, port) in enumerate(told["places"].items()):
        base = f"https://localhost:{port}/fhir" if name == "tls" else f"http://127.0.0.1:{port}/fhir"
        places.append(Place(world, name, base, str(8_100_000_000 + number)))

    def stray(method: str, url: str, headers: dict[str, str], body: bytes) -> Answer:
        world.strayed.append({"method": method, "credentials": "authorization" in headers})
        return json_answer(404, outcome())

    timeout_s = told["timeout_s"]
    servers = []
    for place in places:
        secured = tls(told["folder"], world) if place.name == "tls" else None
        servers.append(await asyncio.start_server(
            listener(place.answer, timeout_s), "127.0.0.1", told["places"][place.name], limit=1 << 24, ssl=secured
        ))  # fmt: skip
    for act, port, pause_s in ((stray, told["elsewhere"], 0.0), (control(world, places), told["control"], 0.02)):
        servers.append(await asyncio.start_server(
            listener(act, timeout_s, pause_s), "127.0.0.1", port, limit=1 << 24
        ))  # fmt: skip
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
