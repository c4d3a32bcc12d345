"""From what is registered: each caller × resource × route, and whether the answer is what the small model says.

It takes up what a later change registers by itself where it can, and fails by name on a route, an operation or a search
parameter type that it has no rule for.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from fhir_secondop.fhir import codec, definitions, parameters
from fhir_secondop.store import tables
from fhir_secondop.store.search_types import KINDS
from tests.access.stage import CALLERS, NOBODY, SEES, Held, Stage
from tests.service.test_review import example
from tests.web.pages.visitors import COOKIE

Plain = dict[str, Any]
EVERYONE = (*CALLERS, NOBODY)
_ZONE = re.compile(r"zone-([a-z0-9.]+)-end")
FHIR = "application/fhir+json"

# Who may call an operation on a case that it sees, by the caller's relation to alpha: everybody else is refused, and
# nothing is changed. "sees" is everybody who sees the case, "record" who sees its record, too.
OPERATIONS: dict[str, str] = {
    "gather": "staff", "candidates": "desk", "confirm-patient": "desk", "manifest": "sees", "completeness": "record",
    "requests": "sees", "request-item": "staff", "merged-record": "record", "unlink": "staff", "link": "staff",
    "independence": "record", "match-reviewer": "desk", "check-coverage": "staff", "reassign": "desk",
    "ask-reviewer": "desk", "accept": "reviewer", "decline": "reviewer",
    "withdraw": "reviewer", "submit-report": "reviewer", "sign": "reviewer", "amend-report": "reviewer",
    "verify": "sees",
    "alignment": "sees", "acknowledge": "recipient", "decide": "recipient", "plan-of-record": "owner",
    "disclosures": "sees", "replay": "desk", "preview-delivery": "desk", "cover-sheet": "desk",
    "package": "sees", "cancel": "placer", "audit-trail": "audit", "invite-patient": "intake",
    "revoke-invite": "intake", "blind-first": "desk", "first-read": "reviewer", "break-blind": "reviewer",
    "compare": "sees", "third-opinion": "asker", "ask-follow-up": "asker",
    "clocks": "sees", "pause": "staff", "resume": "staff", "schedule": "staff",
    "show-preliminary": "reviewer",
    "propose": "reviewer", "withdraw-proposal": "reviewer", "answer-proposal": "recipient", "proposal-result": "staff",
    "raise-urgent": "reviewer", "record-call": "called",
}  # fmt: skip
MAY: dict[str, set[str]] = {
    "desk": {"desk"}, "staff": {"desk", "clinic", "reviewer"}, "sees": SEES["alpha"] - {"only-laboratory"},
    "record": SEES["alpha.record"] - {"only-laboratory"},
    "reviewer": {"reviewer"}, "recipient": {"pcp", "surgeon"}, "owner": {"surgeon"},
    "placer": {"desk", "pcp"}, "asker": {"desk", "clinic", "pcp", "surgeon", "patient"},
    "called": {"desk", "clinic", "reviewer", "pcp", "surgeon"},
    "audit": {"desk", "patient"}, "intake": {"desk", "clinic"},
}  # fmt: skip
_REVIEWER = {"reviewer": example("review.json")["reviewer"]}
# What each takes, so that what is refused is refused for who asks and not for what was sent.
BODIES: dict[str, Plain] = {
    "candidates": {"task": "x"}, "confirm-patient": {"task": "x", "patient": "none"}, "request-item": {"item": "x"},
    "unlink": {"group": "x", "reason": "x"}, "link": {"reason": "x", "group": "x"}, "independence": _REVIEWER,
    "reassign": {"reason": "no-capacity"},
    "ask-reviewer": _REVIEWER, "decline": {"reason": "no-capacity"}, "withdraw": {"reason": "no-capacity"},
    "submit-report": example("review.json")["draft"], "amend-report": {"kind": "amended", "reason": "x"},
    "acknowledge": {"version": 1}, "decide": {"version": 1, "decision": "adopt"},
    "plan-of-record": {"version": 1, "decision": "adopt", "text": "x"}, "replay": {"task": "x", "changed": "x"},
    "invite-patient": {"relationship": "self", "name": "x"}, "revoke-invite": {"task": "x"},
    "blind-first": {"on": True}, "first-read": {"assessment": "x"}, "break-blind": {"reason": "x"},
    "third-opinion": {"reason": "x"}, "ask-follow-up": {"text": "x"},
    "pause": {"reason": "awaiting-tests"}, "schedule": {"mode": "record-only"},
    "propose": {"kind": "test", "text": "x"}, "withdraw-proposal": {"proposal": 1, "reason": "x"},
    "answer-proposal": {"proposal": 1, "outcome": "accepted"},
    "proposal-result": {"proposal": 1, "result": "Observation/x"},
    "raise-urgent": {"finding": "x"}, "record-call": {"with": "x", "readBack": "x"},
    "cover-sheet": {"task": "x"}, "cancel": {"reason": "no-capacity"},
}  # fmt: skip

# Every route of the program, and what asks it here. A route that is not listed makes the generator fail.
ROUTES: dict[str, str] = {
    "/fhir/": "transaction, batch, search", "/fhir/_search": "search", "/fhir/_history": "history",
    "/fhir/metadata": "public", "/fhir/$<code>": "system operation",
    "/fhir/<t>": "search, create, conditional", "/fhir/<t>/_search": "search",
    "/fhir/<t>/<i>": "read, update, patch, delete",
    "/fhir/<t>/<i>/_history": "history", "/fhir/<t>/<i>/_history/<v>": "vread",
    "/fhir/<t>/$<code>": "everything, document", "/fhir/<t>/<i>/<u>": "through", "/fhir/<t>/_history": "history",
    "/fhir/<t>/<i>/$<code>": "operation, everything, document", "/fhir/<path:rest>": "nowhere",
    "/api/second-opinions": "list, open", "/api/second-opinions/<case_id>": "case",
    "/api/second-opinions/<case_id>/<code>": "operation",
    "/ack/<token>": "link", "/ack/<token>/document.pdf": "link",
    "/ack/<token>/report.json": "link", "/ack/<token>/report.jws": "link", "/upload/<token>": "link",
    "/fhir/openapi.json": "public", "/api/openapi.json": "public",
    "/api/schemas/<any('second-opinion-request','report-draft'):name>.json": "public",
    "/learned": "page without a case", "/learned.csv": "page without a case",
    "/learned/<measure>.svg": "page without a case", "/metrics": "page without a case",
    "/": "page", "/my": "page", "/connections": "page without a case", "/connections/<name>": "page without a case",
    "/my/<case_id>": "page", "/cases/<case_id>": "page", "/cases/<case_id>/confirm/<task_id>": "page",
    "/cases/<case_id>/cover-sheet/<task_id>.pdf": "page", "/cases/<case_id>/deliveries/<task_id>": "page",
    "/cases/<case_id>/do/<code>": "form", "/cases/<case_id>/files/<kind>/<resource_id>/<int:place>": "page",
    "/cases/<case_id>/independence": "form", "/cases/<case_id>/preview": "page",
    "/cases/<case_id>/preview.pdf": "page", "/cases/<case_id>/records": "page", "/cases/<case_id>/report.pdf": "page",
    "/cases/<case_id>/reviewers": "page", "/cases/<case_id>/report.html": "page",
    "/cases/<case_id>/report.txt": "page", "/cases/<case_id>/first-read": "page",
    "/cases/<case_id>/review": "page, form", "/cases/<case_id>/sign": "form",
    "/cases/<case_id>/signed/<int:version>/report.json": "page",
    "/cases/<case_id>/signed/<int:version>/report.jws": "page", "/cases/<case_id>/tasks/<task_id>/cancel": "form",
    "/sign-in": "sign-in", "/sign-in/again": "sign-in", "/sign-in/callback": "sign-in", "/sign-out": "sign-in",
    "/case-link/<token>": "link", "/assets/<path:filename>": "public",
    "/docs": "public", "/.well-known/jwks.json": "public", "/.well-known/document-keys.json": "public",
    "/healthz": "public", "/readyz": "public",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Combination:
    """One request by one caller, and the rule that its answer must keep: "" or what is wrong with it."""

    who: str
    what: str
    ask: Callable[[], str]


@dataclass
class Generator:
    """Combinations over a stage. `leaks` are the broken ones, in words."""

    stage: Stage
    seed: int
    counted: Counter[str] = field(default_factory=Counter)
    leaks: list[str] = field(default_factory=list)

    def run(self, most: int, *, until_leak: bool = False, only: str = "") -> None:
        """Asks so many combinations, drawn over all kinds or of one; with `until_leak` no more after the first leak."""
        drawn = random.Random(self.seed)
        kinds = {name: list(found) for name, found in self._kinds().items() if only in ("", name)}
        for found in kinds.values():
            drawn.shuffle(found)
        chosen: list[tuple[str, Combination]] = []
        share = most // len(kinds)
        rest: list[tuple[str, Combination]] = []
        for name, found in kinds.items():
            chosen += [(name, c) for c in found[:share]]
            rest += [(name, c) for c in found[share:]]
        drawn.shuffle(rest)
        if until_leak:  # any kind may be the one that shows it
            drawn.shuffle(chosen)
        for name, one in [*chosen, *rest[: max(0, most - len(chosen))]]:
            self.counted[name] += 1
            wrong = one.ask()
            if wrong:
                self.leaks.append(f"{name}: {one.who}: {one.what}: {wrong}")
                if until_leak:
                    return

    def _kinds(self) -> dict[str, Iterator[Combination]]:
        return {
            "read": self._reads(), "history": self._histories(), "search": self._searches(),
            "through": self._throughs(), "everything": self._everythings(),
            "document": self._documents(),
            "transaction": self._transactions(), "batch": self._batches(), "write": self._writes(),
            "refer": self._referring(),
            "conditional create": self._conditional(), "operation": self._operations(), "list": self._lists(),
            "several": self._severals(), "link": self._links(), "page": self._pages(), "form": self._forms(),
        }  # fmt: skip

    # ---- asking

    def call(self, who: str, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
        kind = FHIR if path.startswith("/fhir") else "application/json"
        kind = "application/json-patch+json" if method == "PATCH" else kind
        signed_in = {} if who == NOBODY else {"Authorization": f"Bearer {who}"}
        answer = self.stage.world.client.open(
            path, method=method, data=codec.dumps(body) if body is not None else None,
            content_type=kind if body is not None else None, headers={**signed_in, **headers},
        )  # fmt: skip
        return answer.status_code, answer.get_data().decode("utf-8", "replace")

    def spilled(self, who: str, text: str) -> str:
        """The zones of which the text shows something that they may not see."""
        shown = set(_ZONE.findall(text))
        shown |= {zone for zone, word in self.stage.words.items() if word in text}
        told = sorted(zone for zone in shown if not self.stage.sees(who, zone))
        only = {"only-tasks": "Task", "only-laboratory": "Observation"}.get(who)
        if only and '"resourceType":"Bundle"' in text:
            told += sorted(_kinds_in(json.loads(text)) - {only, "OperationOutcome"})
        return f"it shows {', '.join(told)}" if told else ""

    def expect(self, who: str, allowed: bool, status: int, text: str) -> str:
        """Nothing that may not be seen is shown, and it is answered just when it may be."""
        spilled = self.spilled(who, text)
        if spilled:
            return spilled
        if status >= 500:
            return f"it answers {status}"
        if allowed != (status < 300):
            return f"it answers {status}, though they {'may' if allowed else 'may not'}"
        return ""

    def like_nothing(self, who: str, method: str, path: str, local: str, body: Any = None) -> str:
        """What may not be seen is answered just like what isn't there."""
        id_ = local.partition("/")[2]
        other = str(uuid.UUID(int=random.Random(local).getrandbits(128), version=4))
        said = self.call(who, method, path, body)
        sent = json.loads(codec.dumps(body).replace(id_, other)) if body is not None else None
        none = self.call(who, method, path.replace(id_, other), sent)
        if said[0] != none[0] or said[1].replace(id_, "ID") != none[1].replace(other, "ID"):
            return f"{said[0]} {said[1][:200]} tells it from what isn't there: {none[0]} {none[1][:200]}"
        return ""

    def _scope(self, who: str, kind: str, letter: str) -> bool:
        granted = [] if who == NOBODY else CALLERS[who][1]
        said = (scope.partition("?")[0].partition("/")[2].partition(".") for scope in granted)
        return any(named in ("*", kind) and letter in letters for named, _, letters in said)

    def _sees(self, who: str, held: Held, letter: str) -> bool:
        return self._scope(who, held.stored.type, letter) and self.stage.sees_it(who, held)

    def _each(self) -> Iterator[tuple[str, Held]]:
        for held in self.stage.held:
            for who in EVERYONE:
                yield who, held

    # ---- reading

    def _reads(self) -> Iterator[Combination]:
        for who, held in self._each():
            allowed = self._sees(who, held, "r")
            for method in ("GET", "HEAD"):
                yield self._one(who, method, f"/fhir/{held.local}", allowed)
            yield self._one(who, "GET", f"/fhir/{held.local}/$validate", allowed)
            if not allowed:
                yield self._unseen(who, held, "GET", f"/fhir/{held.local}")
                yield self._unseen(who, held, "GET", f"/fhir/{held.local}/$validate")

    def _histories(self) -> Iterator[Combination]:
        for who, held in self._each():
            allowed = self._sees(who, held, "r")
            yield self._one(who, "GET", f"/fhir/{held.local}/_history", allowed)
            for path in (f"{held.stored.type}/_history", "_history", f"_history?_type=Task,{held.stored.type}"):
                yield Combination(who, path, self._of_types(who, held, path))
            for version in held.versions[:2]:
                yield self._one(who, "GET", f"/fhir/{held.local}/_history/{version}", allowed)
            if not allowed:
                yield self._unseen(who, held, "GET", f"/fhir/{held.local}/_history")
                yield self._unseen(who, held, "GET", f"/fhir/{held.local}/_history/1")

    def _of_types(self, who: str, held: Held, path: str) -> Callable[[], str]:
        named = ("Task", held.stored.type) if "Task," in path else (held.stored.type,)
        allowed = bool(who != NOBODY and self._any_scope(who, "r"))
        if path != "_history":
            allowed = all(self._scope(who, kind, "r") for kind in named)

        def ask() -> str:
            found, following = self._walk(who, f"/fhir/{path}{'&' if '?' in path else '?'}_count=500", allowed)
            if found is None:
                return following
            is_there = held.local in found
            wanted = self.stage.sees_it(who, held) and self._scope(who, held.stored.type, "r")
            return "" if is_there == wanted else f"{held.local} is there: {is_there}"

        return ask

    def _any_scope(self, who: str, letter: str) -> bool:
        granted = [] if who == NOBODY else CALLERS[who][1]
        return any(letter in scope.partition("?")[0].rpartition(".")[2] for scope in granted)

    def _walk(self, who: str, path: str, allowed: bool) -> tuple[set[str] | None, str]:
        """What all pages of it show ("Type/id"); or None, and what is wrong with the refusal ("": nothing)."""
        found: set[str] = set()
        while path:
            status, text = self.call(who, "GET", path)
            wrong = self.expect(who, allowed, status, text)
            if wrong or status >= 300:
                return None, wrong
            bundle = json.loads(text)
            found |= {entry["fullUrl"].partition("/fhir/")[2] for entry in bundle.get("entry", [])}
            following = [link["url"] for link in bundle["link"] if link["relation"] == "next"]
            path = "/fhir" + following[0].partition("/fhir")[2] if following else ""
        return found, ""

    def _one(self, who: str, method: str, path: str, allowed: bool, body: Any = None) -> Combination:
        def ask() -> str:
            return self.expect(who, allowed, *self.call(who, method, path, body))

        return Combination(who, f"{method} {path}", ask)

    def _unseen(self, who: str, held: Held, method: str, path: str, body: Any = None) -> Combination:
        return Combination(who, f"{method} {path}", lambda: self.like_nothing(who, method, path, held.local, body))

    # ---- searching

    def _searches(self) -> Iterator[Combination]:
        """By id, and by each parameter with a value that the resource has."""
        known = {held.local: list(self._criteria(held)) for held in self.stage.held}
        for who, held in self._each():
            for criteria in known[held.local]:
                yield Combination(who, f"{held.stored.type}?{criteria}", self._searching(who, held, criteria))

    def _criteria(self, held: Held) -> Iterator[str]:
        yield f"_id={held.stored.id}"
        with self.stage.world.context.database.reading() as connection:
            for code, parameter in definitions.search_parameters(held.stored.type).items():
                if parameter.type not in KINDS:
                    continue
                table = KINDS[parameter.type].table
                row = connection.execute(
                    sa.select(table).where(table.c.rid == held.stored.rid, table.c.param == code).limit(1)
                ).first()
                if row is not None and (parameter.type != "reference" or row.target):
                    yield f"{quote(code)}={quote(_value(parameter.type, row), safe='|/:')}"

    def _searching(self, who: str, held: Held, criteria: str) -> Callable[[], str]:
        def ask() -> str:
            base = f"/fhir/{held.stored.type}"
            status, text = self.call(who, "GET", f"{base}?{criteria}&_total=accurate&_count=500")
            # The self link says what was asked, whoever asked it.
            text = re.sub(r'"link":\[[^]]*\],?', "", text)
            wrong = self.expect(who, self._scope(who, held.stored.type, "s"), status, text)
            if wrong or status >= 300:
                return wrong
            bundle = json.loads(text)
            found = {e["resource"]["id"] for e in bundle.get("entry", [])}
            if (held.stored.id in found) != self.stage.sees_it(who, held):
                return f"it {'finds' if held.stored.id in found else 'does not find'} {held.local} of {held.zone}"
            if bundle["total"] != len(found):
                return f"its total is {bundle['total']}, and it shows {len(found)}"
            counted = json.loads(self.call(who, "GET", f"{base}?{criteria}&_count=0")[1])["total"]
            return "" if counted == len(found) else f"_count=0 counts {counted}, and it shows {len(found)}"

        return ask

    # ---- searching through references, in orders, by parts

    def _throughs(self) -> Iterator[Combination]:
        """Along each reference between two that are held: chained, backwards, included; nothing is found or shown by
        way of what may not be seen.
        """
        for near, code, far in self._edges():
            one, other = near.stored, far.stored
            ways = (
                (near, f"{one.type}?_id={one.id}&{code}:{other.type}._id={other.id}", "ss", "match"),
                (far, f"{other.type}?_id={other.id}&_has:{one.type}:{code}:_id={one.id}", "ss", "match"),
                (far, f"{one.type}?_id={one.id}&_include={one.type}:{code}", "sr", "include"),
                (near, f"{other.type}?_id={other.id}&_revinclude={one.type}:{code}", "ss", "include"),
            )
            if code in definitions.compartment("Patient").get(one.type, ()) and other.type == "Patient":
                ways += ((near, f"{far.local}/{one.type}?_id={one.id}", "ss", "match"),)
            for who in EVERYONE:
                for found, path, letters, mode in ways:
                    first, second = (near, far) if path.startswith(f"{one.type}?") else (far, near)
                    if path.startswith(f"{far.local}/"):  # like a search by its reference
                        first, second = near, near
                    yield Combination(who, path, self._through(who, path, found, (first, second), letters, mode))
        for who, held in self._each():
            for asked in (
                "_summary=true",
                "_summary=text",
                "_summary=data",
                "_elements=id",
                "_sort=-_lastUpdated",
            ):
                yield Combination(who, f"{held.stored.type}?{asked}", self._excerpt(who, held, asked))

    def _edges(self) -> list[tuple[Held, str, Held]]:
        """What of what is held points to what, and by which parameter."""
        by_rid = {held.stored.rid: held for held in self.stage.held}
        by_local = {held.local: held for held in self.stage.held}
        columns = tables.reference.c
        with self.stage.world.context.database.reading() as connection:
            rows = connection.execute(sa.select(columns.rid, columns.param, columns.target).distinct()).all()
        # A part of a composite has its rows, too; it is no parameter by itself.
        return [
            (by_rid[row.rid], row.param, by_local[row.target])
            for row in rows
            if row.rid in by_rid and row.target in by_local and "$" not in row.param
        ]

    def _through(
        self, who: str, path: str, found: Held, ways: tuple[Held, Held], letters: str, mode: str
    ) -> Callable[[], str]:
        def ask() -> str:
            status, text = self.call(who, "GET", f"/fhir/{path}")
            text = re.sub(r',"link":\[[^]]*\]', "", text)
            first, second = (
                self._scope(who, held.stored.type, letter) for held, letter in zip(ways, letters, strict=True)
            )
            # An include of a type that one may not read is as if it wasn't there; a chain through it is refused.
            wrong = self.expect(who, first and (second or mode == "include"), status, text)
            if wrong or status >= 300:
                return wrong
            shown = [e for e in json.loads(text).get("entry", []) if e["resource"].get("id") == found.stored.id]
            is_there = any(e["search"]["mode"] in (mode, "match") for e in shown)
            wanted = second and all(self.stage.sees_it(who, held) for held in ways)
            return "" if is_there == wanted else f"it {'finds' if is_there else 'does not find'} {found.local}"

        return ask

    def _excerpt(self, who: str, held: Held, asked: str) -> Callable[[], str]:
        def ask() -> str:
            status, text = self.call(who, "GET", f"/fhir/{held.stored.type}?{asked}&_count=500")
            wrong = self.expect(who, self._scope(who, held.stored.type, "s"), status, text)
            if wrong or status >= 300:
                return wrong
            found = {e["resource"]["id"] for e in json.loads(text).get("entry", [])}
            is_there = held.stored.id in found
            return "" if is_there == self.stage.sees_it(who, held) else f"{held.local} is there: {is_there}"

        return ask

    # ---- the operations that others have defined

    def _everythings(self) -> Iterator[Combination]:
        """Of each patient, and of all: what belongs to them and may be seen, page by page, and nothing else of it."""
        by_rid = {held.stored.rid: held for held in self.stage.held}
        columns = tables.reference.c
        with self.stage.world.context.database.reading() as connection:
            rows = connection.execute(sa.select(columns.rid, columns.type, columns.param, columns.target)).all()
        members = definitions.compartment("Patient")
        mine: dict[str, dict[str, Held]] = {}
        for row in rows:
            if row.rid in by_rid and row.param in members.get(row.type, ()):
                mine.setdefault(row.target, {})[by_rid[row.rid].local] = by_rid[row.rid]
        for who in EVERYONE:
            yield Combination(who, "Patient/$everything", self._everything(who, "", mine))
            for held in (h for h in self.stage.held if h.stored.type == "Patient"):
                path = f"{held.local}/$everything"
                if self._sees(who, held, "r"):
                    of_it = {held.local: mine.get(held.local, {})}
                    yield Combination(who, path, self._everything(who, held.local, of_it))
                else:
                    yield self._unseen(who, held, "GET", f"/fhir/{path}")

    def _everything(self, who: str, patient: str, members: dict[str, dict[str, Held]]) -> Callable[[], str]:
        def ask() -> str:
            path, found = f"/fhir/{patient or 'Patient'}/$everything?_count=40", set()
            allowed = self._scope(who, "Patient", "r") and bool(patient or self._scope(who, "Patient", "s"))
            while path:
                status, text = self.call(who, "GET", path)
                text = re.sub(r'("diagnostics":)"[^"]*"', r'\1""', text)  # names what is pointed to and not shown
                wrong = self.expect(who, allowed, status, text)
                if wrong or status >= 300:
                    return wrong
                bundle = json.loads(text)
                matches = [e["fullUrl"] for e in bundle.get("entry", []) if e["search"]["mode"] == "match"]
                found |= {url.partition("/fhir/")[2] for url in matches}
                following = [link["url"] for link in bundle["link"] if link["relation"] == "next"]
                path = "/fhir/" + following[0].partition("/fhir/")[2] if following else ""
            for local, of_it in members.items():
                sees = bool(patient) or any(h.local == local and self.stage.sees_it(who, h) for h in self.stage.held)
                for held in of_it.values():
                    if (held.local in found) != (sees and self._sees(who, held, "s")):
                        return f"{held.local} of {local} is there: {held.local in found}"
            return ""

        return ask

    def _documents(self) -> Iterator[Combination]:
        """$document, $summary and $docref: of what may be seen it tells, of the rest as of what isn't there."""
        for who, held in self._each():
            for kind, code in (("Composition", "document"), ("Patient", "summary")):
                if held.stored.type == kind:
                    path = f"/fhir/{held.local}/${code}"
                    if self._sees(who, held, "r"):
                        yield Combination(who, path, self._telling(who, path, held))
                    else:
                        yield self._unseen(who, held, "GET", path)
            if held.stored.type == "DocumentReference":
                path = f"/fhir/DocumentReference/$docref?patient={self._patient_of(held)}&_count=500"
                yield Combination(who, path, self._referenced(who, path, held))

    def _patient_of(self, held: Held) -> str:
        return str(held.stored.resource.get("subject", {}).get("reference", "x")).rpartition("/")[2]

    def _telling(self, who: str, path: str, held: Held) -> Callable[[], str]:
        def ask() -> str:
            status, text = self.call(who, "GET", path)
            # A document that would not be whole is refused, a summary without the scopes, too.
            wrong = self.spilled(who, text) or ("" if status in (200, 403, 422) else f"it answers {status}")
            return wrong or ("" if status > 200 or held.stored.id in text else f"{held.local} is not in it")

        return ask

    def _referenced(self, who: str, path: str, held: Held) -> Callable[[], str]:
        def ask() -> str:
            status, text = self.call(who, "GET", path)
            wrong = self.expect(who, self._scope(who, "DocumentReference", "s"), status, text)
            if wrong or status >= 300:
                return wrong
            found = {e["resource"].get("id") for e in json.loads(text).get("entry", [])}
            is_there = held.stored.id in found
            named = held.stored.resource.get("subject", {}).get("reference", "").startswith("Patient/")
            return "" if is_there == (named and self.stage.sees_it(who, held)) else f"{held.local} is there: {is_there}"

        return ask

    # ---- writing

    def _transactions(self) -> Iterator[Combination]:
        for who, held in self._each():
            entry = {"request": {"method": "GET", "url": held.local}}
            bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
            allowed = self._sees(who, held, "r")
            yield self._one(who, "POST", "/fhir", allowed, bundle)
            if not allowed:
                yield self._unseen(who, held, "POST", "/fhir", bundle)
            for url in (f"{held.local}/_history", f"{held.stored.type}?_id={held.stored.id}"):
                yield Combination(who, f"{url} in a transaction", self._alike(who, url))

    def _alike(self, who: str, url: str) -> Callable[[], str]:
        """In a transaction something is read as it is by itself."""

        def ask() -> str:
            sent = {
                "resourceType": "Bundle",
                "type": "transaction",
                "entry": [{"request": {"method": "GET", "url": url}}],
            }
            status, text = self.call(who, "POST", "/fhir", sent)
            alone, said = self.call(who, "GET", f"/fhir/{url}")
            if status != alone:
                return f"it answers {status}, and by itself {alone}"
            if status >= 300:
                return self.spilled(who, text)
            shown, by_itself = (json.loads(each) for each in (text, said))
            [entry] = shown["entry"]
            return "" if entry["resource"].get("entry") == by_itself.get("entry") else "it shows something else"

        return ask

    def _batches(self) -> Iterator[Combination]:
        """Each entry has the answer that it would have by itself."""
        for who, held in self._each():
            yield Combination(who, f"a batch about {held.local}", self._batch(who, held))

    def _batch(self, who: str, held: Held) -> Callable[[], str]:
        urls = (held.local, f"{held.local}/_history", f"{held.stored.type}?_id={held.stored.id}")

        def ask() -> str:
            entries = [{"request": {"method": "GET", "url": url}} for url in urls]
            sent = {"resourceType": "Bundle", "type": "batch", "entry": entries}
            status, text = self.call(who, "POST", "/fhir", sent)
            wrong = self.expect(who, who != NOBODY, status, text)
            if wrong or status >= 300:
                return wrong
            for url, entry in zip(urls, json.loads(text)["entry"], strict=True):
                alone, _ = self.call(who, "GET", f"/fhir/{url}")
                if int(entry["response"]["status"][:3]) != alone:
                    return f"{url} answers {entry['response']['status']}, and by itself {alone}"
            return ""

        return ask

    def _writes(self) -> Iterator[Combination]:
        """What belongs to a case is not written by anybody's PUT, PATCH or DELETE, by its id or by criteria; what can't
        be seen is not even there.
        """
        for who, held in self._each():
            if held.zone.startswith("loose") and self._sees(who, held, "u"):
                continue
            # Nothing is changed by it: the same content would be, by those who may.
            changed = {**held.stored.resource, "language": "en"}
            patch = [{"op": "add", "path": "/language", "value": "en"}]
            for address in (held.local, f"{held.stored.type}?_id={held.stored.id}"):
                for method, body in (("PUT", changed), ("PATCH", patch), ("DELETE", None)):
                    yield Combination(who, f"{method} {address}", self._unchanged(who, method, address, body))
                    if not self._sees(who, held, "r"):
                        yield self._unseen(who, held, method, f"/fhir/{address}", body)

    def _unchanged(self, who: str, method: str, address: str, body: Any) -> Callable[[], str]:
        def ask() -> str:
            before = self._rows()
            status, text = self.call(who, method, f"/fhir/{address}", body)
            if self._rows() != before:
                return f"it wrote, answering {status}"
            return self.expect(who, False, status, text)

        return ask

    def _rows(self) -> int:
        with self.stage.world.context.database.reading() as connection:
            count: int = connection.execute(sa.select(sa.func.count()).select_from(tables.version)).scalar_one()
        return count

    def _referring(self) -> Iterator[Combination]:
        """Who creates something that refers to what it can't see is answered as if that wasn't there."""
        for who, held in self._each():
            if not self._scope(who, "Basic", "c") or self._sees(who, held, "r"):
                continue
            for kind in ("Basic", "Consent"):
                yield Combination(who, f"{kind} about {held.local}", self._refer(who, kind, held))

    def _refer(self, who: str, kind: str, held: Held) -> Callable[[], str]:
        def ask() -> str:
            said = [self.call(who, "POST", f"/fhir/{kind}", _about(kind, local), Prefer="return=minimal")
                    for local in (held.local, f"{held.stored.type}/{uuid.uuid4()}")]  # fmt: skip
            if said[0] != said[1]:
                return f"{said[0]} tells it from what isn't there: {said[1]}"
            with self.stage.world.context.database.reading() as connection:
                in_cases = sa.select(sa.func.count()).select_from(tables.resource).where(
                    tables.resource.c.type == kind, tables.resource.c.owner == who,
                    tables.resource.c.case_id.is_not(None),
                )  # fmt: skip
                found = connection.execute(in_cases).scalar_one()
            return f"it became part of a case ({found})" if found else ""

        return ask

    def _conditional(self) -> Iterator[Combination]:
        """If-None-Exist finds only what may be seen."""
        for who, held in self._each():
            named = [i for i in _identifiers(held.stored.resource) if "value" in i and "system" in i]
            if not named or not self._scope(who, held.stored.type, "c") or held.stored.type in ("Task", "Consent"):
                continue
            criteria = f"identifier={named[0]['system']}|{named[0]['value']}&_id={held.stored.id}"
            yield Combination(who, f"create {held.stored.type} unless there", self._unless(who, held, criteria, held))
        for near, code, far in self._edges():
            one, other = near.stored, far.stored
            for who in EVERYONE:
                ways = (
                    (near, f"_id={one.id}&{code}:{other.type}._id={other.id}", far),
                    (far, f"_id={other.id}&_has:{one.type}:{code}:_id={one.id}", near),
                )
                for held, criteria, through in ways:
                    if held.stored.type in ("Task", "Consent") or not self._scope(who, held.stored.type, "c"):
                        continue
                    what = f"create {held.stored.type} unless {criteria}"
                    yield Combination(who, what, self._unless(who, held, criteria, through))

    def _unless(self, who: str, held: Held, criteria: str, through: Held) -> Callable[[], str]:
        """`through` is what the criteria go through, or the resource itself."""

        def ask() -> str:
            path = f"/fhir/{held.stored.type}"
            body = self._copied(held)
            hidden = next((each for each in (through, held) if not self._sees(who, each, "s")), None)
            if hidden is not None:
                return self._same_as_new(who, path, criteria, held, hidden)
            status, text = self.call(who, "POST", path, body, **{"If-None-Exist": criteria})
            return self.spilled(who, text) or ("" if status in (200, 412) else f"it answers {status}")

        return ask

    def _copied(self, held: Held) -> Plain:
        """The same resource without the words by which its content is known again."""
        text = codec.dumps({k: v for k, v in held.stored.resource.items() if k != "meta"})
        for word in self.stage.words.values():
            text = text.replace(word, "copied")
        return codec.parse(text)

    def _same_as_new(self, who: str, path: str, criteria: str, held: Held, hidden: Held) -> str:
        """It is created, or refused for another reason; either way as if the other wasn't there."""
        body = self._copied(held)
        other = criteria.replace(hidden.stored.id, str(uuid.uuid4()))
        said = [self.call(who, "POST", path, body, **{"If-None-Exist": c, "Prefer": "return=minimal"})
                for c in (criteria, other)]  # fmt: skip
        return "" if said[0] == said[1] else f"{said[0]} tells it from {said[1]}"

    # ---- operations

    def _operations(self) -> Iterator[Combination]:
        for row in self.stage.world.service.operations:
            if row.type == "":
                continue
            if row.code not in OPERATIONS:
                raise AssertionError(f"The model has no rule for the operation {row.code}: add it to OPERATIONS.")
            for name in self.stage.cases:
                for who in EVERYONE:
                    yield from self._operation(who, name, row)

    def _operation(self, who: str, name: str, row: Any) -> Iterator[Combination]:
        targets = [h for h in self.stage.held if h.zone == name and h.stored.type == row.type]
        case_id = self.stage.cases[name]
        if row.type == "ServiceRequest":
            targets = [h for h in targets if h.stored.id == case_id]
        body = BODIES.get(row.code, {})
        for held in targets[:4]:
            doors = [("POST", f"/fhir/{held.local}/${row.code}", _parameters(body))]
            if row.reads:
                doors.append(("GET", f"/fhir/{held.local}/${row.code}", None))
            if row.type == "ServiceRequest":
                doors.append(("POST", f"/api/second-opinions/{held.stored.id}/{row.code}", body))
            for method, path, sent in doors:
                yield Combination(who, f"{method} {path}", self._operating(who, held, row, method, path, sent))

    def _operating(
        self, who: str, held: Held, row: Any, method: str, path: str, sent: Plain | None
    ) -> Callable[[], str]:
        def ask() -> str:
            if row.code == "audit-trail" and who == "auditor":  # who did what in any case, and none of its content
                return self.spilled(who, self.call(who, method, path, sent)[1])
            scope = self._scope(who, row.type, "r" if row.reads else "u")
            sees = self.stage.sees(who, held.zone, row.type) and scope
            if not sees:
                return self.like_nothing(who, method, path, held.local, sent) or self.spilled(
                    who, self.call(who, method, path, sent)[1]
                )
            if held.zone != "alpha" or (who in MAY[OPERATIONS[row.code]] and not row.reads):
                return ""  # it may: what it does is the business of other tests
            before = self._rows()
            status, text = self.call(who, method, path, sent)
            if self._rows() != before:
                return f"it wrote, answering {status}"
            allowed = who in MAY[OPERATIONS[row.code]]
            if not allowed and status not in (403, 404):
                return f"it answers {status}, not that they may not"
            return self.expect(who, allowed and status < 300, status, text)

        return ask

    # ---- what has no resource in its address

    def _lists(self) -> Iterator[Combination]:
        for who in EVERYONE:
            yield Combination(who, "GET /api/second-opinions", self._listing(who))
            for kind in sorted({h.stored.type for h in self.stage.held}):
                yield Combination(who, f"GET /fhir/{kind}, page by page", self._paging(who, kind))
            for name, case_id in self.stage.cases.items():
                allowed = self._scope(who, "ServiceRequest", "r") and self.stage.sees(who, name, "ServiceRequest")
                yield self._one(who, "GET", f"/api/second-opinions/{case_id}", allowed)
                yield self._one(who, "GET", f"/fhir/nowhere/{case_id}", False)

    def _listing(self, who: str) -> Callable[[], str]:
        def ask() -> str:
            status, text = self.call(who, "GET", "/api/second-opinions")
            wrong = self.expect(who, self._scope(who, "ServiceRequest", "r"), status, text)
            if wrong or status >= 300:
                return wrong
            shown = {c["id"] for c in json.loads(text)["cases"]}
            own = {case_id for name, case_id in self.stage.cases.items() if self.stage.sees(who, name)}
            return "" if shown == own else f"it shows {len(shown)} cases, and should {len(own)}"

        return ask

    def _paging(self, who: str, kind: str) -> Callable[[], str]:
        def ask() -> str:
            path, found = f"/fhir/{kind}?_count=7", set()
            while path:
                status, text = self.call(who, "GET", path)
                wrong = self.expect(who, self._scope(who, kind, "s"), status, text)
                if wrong or status >= 300:
                    return wrong
                bundle = json.loads(text)
                found |= {e["resource"]["id"] for e in bundle.get("entry", [])}
                links = [li["url"] for li in bundle["link"] if li["relation"] == "next"]
                path = links[0][links[0].index("/fhir/") :] if links else ""
            own = {h.stored.id for h in self.stage.held if h.stored.type == kind and self.stage.sees_it(who, h)}
            known = {h.stored.id for h in self.stage.held}
            return "" if found & known == own else f"it shows {len(found & known)}, and should {len(own)}"

        return ask

    def _severals(self) -> Iterator[Combination]:
        kinds = sorted({h.stored.type for h in self.stage.held})
        for who in EVERYONE:
            for named in (*itertools.combinations(kinds, 2), ()):
                for order in ("", "&_sort=-_lastUpdated"):
                    yield Combination(who, f"all of {','.join(named)}{order}", self._of_several(who, named, order))
            for held in self.stage.held:
                if held.stored.type == "Patient":
                    path = f"/fhir/{held.local}/*?_count=500"
                    yield Combination(who, path, self._compartment(who, held, path))

    def _of_several(self, who: str, named: tuple[str, ...], order: str) -> Callable[[], str]:
        """A search over several types finds what searches of each find, and counts it."""
        allowed = all(self._scope(who, kind, "s") for kind in named) if named else self._any_scope(who, "s")

        def ask() -> str:
            asked = f"_type={','.join(named)}" if named else "_lastUpdated=gt2000"
            found, wrong = self._walk(who, f"/fhir?{asked}&_count={7 if named else 400}{order}", allowed)
            if found is None:
                return wrong
            asked_of = [h for h in self.stage.held if not named or h.stored.type in named]
            own = {h.local for h in asked_of if self._sees(who, h, "s")}
            known = {h.local for h in self.stage.held}
            if found & known != own:
                return f"it shows {len(found & known)}, and should {len(own)}"
            total = json.loads(self.call(who, "GET", f"/fhir?{asked}&_summary=count")[1])["total"]
            return "" if total == len(found) else f"it counts {total}, and shows {len(found)}"

        return ask

    def _compartment(self, who: str, held: Held, path: str) -> Callable[[], str]:
        def ask() -> str:
            found, wrong = self._walk(who, path, self._any_scope(who, "s"))
            if found is None:
                return "" if not self._scope(who, "Patient", "s") else wrong
            seen = {h.local for h in self.stage.held if self.stage.sees_it(who, h)}
            strange = {local for local in found if local in {h.local for h in self.stage.held}} - seen
            is_there = held.local in found
            wanted = held.local in seen and self._scope(who, "Patient", "s")
            return (
                f"it shows {sorted(strange)}" if strange else "" if is_there == wanted else f"it is there: {is_there}"
            )

        return ask

    def _paths(self, kind: str) -> Iterator[tuple[str, str, Held, str]]:
        """(who, path, one of its resources, name of the case) for each page or form of the program."""
        for rule, said in ROUTES.items():
            if kind not in said.split(", ") or rule in ("/", "/my"):
                continue
            for name, case_id in self.stage.cases.items():
                mine = [h for h in self.stage.held if h.zone.startswith(name)]
                tasks = [h for h in mine if h.stored.type == "Task"]
                files = [h for h in mine if h.stored.type in ("DocumentReference", "DiagnosticReport", "Binary")]
                for place, who in enumerate(EVERYONE):
                    for held in (files if "<kind>" in rule else tasks)[place % 3 :: 9][:3]:
                        path = rule.replace("<case_id>", case_id).replace("<task_id>", held.stored.id)
                        path = path.replace("<kind>", held.stored.type).replace("<resource_id>", held.stored.id)
                        for code in ("alignment", "sign", "gather") if "<code>" in path else ("",):
                            path = path.replace("<int:place>", "0").replace("<int:version>", "1")
                            yield who, path.replace("<code>", code), held, name

    def browse(self, who: str, method: str, path: str, form: Plain | None = None) -> tuple[int, str]:
        cookie = {} if who == NOBODY else {"Cookie": f"{COOKIE}={who}"}
        answer = self.stage.pages.open(path, method=method, data=form, headers=cookie)
        return answer.status_code, answer.get_data().decode("utf-8", "replace")

    def _pages(self) -> Iterator[Combination]:
        for who in EVERYONE:
            for path in ("/", "/my", "/connections", "/learned", "/learned.csv", "/learned/loop.svg"):
                yield Combination(who, f"GET {path}", self._browsing(who, path))
        for who, path, held, name in self._paths("page"):
            # Whom a page of a case shows nothing, it shows nothing whatever is named with it.
            zone = held.zone if held.stored.id in path else name
            yield Combination(who, f"GET {path}", self._browsing(who, path, self.stage.sees(who, zone), zone))

    def _browsing(self, who: str, path: str, sees: bool = True, zone: str = "") -> Callable[[], str]:
        def ask() -> str:
            status, text = self.browse(who, "GET", path)
            wrong = self.spilled(who, text) or (f"it answers {status}" if status >= 500 else "")
            if who == NOBODY:
                return wrong or ("" if status == 303 and "/sign-in?next=" in text else f"it answers {status}")
            if not sees and status < 300:
                return f"it answers {status} about {zone}"
            return wrong

        return ask

    def _forms(self) -> Iterator[Combination]:
        for who, path, _, name in self._paths("form"):
            if who == NOBODY or not self.stage.sees(who, name):
                yield Combination(who, f"POST {path}", self._posting(who, path))
            else:
                yield Combination(who, f"POST {path}", self._posting(who, path, csrf="forged"))

    def _posting(self, who: str, path: str, csrf: str = "") -> Callable[[], str]:
        def ask() -> str:
            before = self._rows()
            status, text = self.browse(who, "POST", path, {"csrf": csrf or f"token-of-{who}", "reason": "x"})
            if self._rows() != before:
                return f"it wrote, answering {status}"
            return self.spilled(who, text) or ("" if status in (303, 403, 404, 422) else f"it answers {status}")

        return ask

    def _links(self) -> Iterator[Combination]:
        """A link opens what it is for, to whoever has it; anything made up, cut or of another purpose opens nothing."""
        for path, token in self.stage.links.items():
            for n, bad in enumerate(_bent(token)):
                for where in ("/ack/{}", "/ack/{}/document.pdf", "/ack/{}/report.json", "/upload/{}"):
                    if where.startswith(path) and bad == token:
                        continue  # what it is for
                    who = list(EVERYONE)[n % len(EVERYONE)]
                    yield self._one(NOBODY if n % 2 else who, "GET", where.format(quote(bad, safe="")), False)


def _kinds_in(bundle: Plain) -> set[str]:
    """The types of the resources in a Bundle, and in the Bundles in it."""
    found: set[str] = set()
    for entry in bundle.get("entry", []):
        resource = entry.get("resource", {})
        kind = resource.get("resourceType")
        found |= _kinds_in(resource) if kind == "Bundle" else {kind} if kind else set()
    return found


def _bent(token: str) -> Iterator[str]:
    yield token  # of the other purpose
    for place in range(0, len(token), 3):
        yield token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
    for cut in (1, 4, len(token) // 2):
        yield token[:-cut]
    yield from (token + "A", token[::-1], token.upper(), "x", "..", "%00", "' or 1=1 --")


def _value(kind: str, row: Any) -> str:
    """A value by which that index row is found."""
    if kind == "token":
        return f"{row.system}|{row.code}" if row.system else str(row.code)
    if kind == "string":
        return str(row.exact)[:40].replace(",", "\\,").replace("|", "\\|").replace("$", "\\$")
    if kind == "reference":
        return str(row.target)
    if kind == "uri":
        return str(row.uri).replace(",", "\\,").replace("|", "\\|").replace("$", "\\$")
    return "ge1900" if kind == "date" else "ge-1e300"


def _identifiers(resource: Plain) -> list[Plain]:
    found = resource.get("identifier", [])
    return found if isinstance(found, list) else [found]


def _about(kind: str, local: str) -> Plain:
    if kind == "Basic":
        return {"resourceType": "Basic", "code": {"text": "x"}, "extension": [
            {"url": "urn:example:about", "valueReference": {"reference": local}}]}  # fmt: skip
    scope = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]}
    rule = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "OPTIN"}]}
    key = "patient" if local.startswith("Patient/") else "sourceReference"
    return {"resourceType": "Consent", "status": "active", "scope": scope, "policyRule": rule,
            "category": [{"text": "x"}], key: {"reference": local}}  # fmt: skip


def _parameters(body: Plain) -> Plain | None:
    return parameters.from_plain(body) if body else None


def unknown_routes(stage: Stage) -> list[str]:
    """The routes that the model has no rule for."""
    rules = {rule.rule for rule in stage.world.client.application.url_map.iter_rules()}
    return sorted(rules - set(ROUTES))
