"""One invented record: complete first, then with gaps planted in it, and the truth about each item.

Which cases need an item and how new it must be is said in `corpus_truth`, apart from the checklists.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from datetime import date, timedelta

from fhir_secondop.model import Answer, Resource
from fhir_secondop.sandbox.corpus_records import DIALECTS, Form, forms, write
from fhir_secondop.sandbox.corpus_truth import KEEPS_DAYS, KINDS, NEEDED_WHEN, SOURCES, TYPES, Record

_RESULTS = ("estrogen-receptor", "progesterone-receptor", "her2")
_REASONS = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
_VERIFICATION = {"Condition": "condition-ver-status", "AllergyIntolerance": "allergyintolerance-verification"}
_SPOILT = {"DocumentReference": "superseded", "CarePlan": "revoked", "ServiceRequest": "revoked",
           "DiagnosticReport": "cancelled", "ImagingStudy": "cancelled", "Observation": "cancelled",
           "MedicationRequest": "stopped", "Procedure": "not-done"}  # fmt: skip
_DATES = ("effectiveDateTime", "effectivePeriod", "performedDateTime", "performedPeriod", "started", "context", "date")


def record(seed: int, number: int) -> Record:
    """The record of that number."""
    return _Writer(random.Random(f"{seed}/{number}"), number).written()


class _Writer:
    def __init__(self, draw: random.Random, number: int) -> None:
        self.draw = draw
        self.number = number
        self.kind = KINDS[number % len(KINDS)]
        self.table: Mapping[str, list[Form]] = forms()[self.kind]["items"]
        self.today = date(2026, 1, 1) + timedelta(days=draw.randrange(365))
        self.dialects = {source: draw.choice(DIALECTS) for source in SOURCES}
        self.held: list[tuple[str, Resource]] = []
        self.refusals: dict[tuple[str, str], Answer] = {}
        self.planted: dict[str, str] = {}

    def written(self) -> Record:
        """Everything, in a fixed order: what is under review, the plants, the items, the by-catch, the answers."""
        reviewed = self.draw.choice(forms()[self.kind]["reviewed"])
        flags = {*reviewed.get("flags", ()), *(f for f in ("operated", "familial") if self.draw.random() < 0.5)}
        needed = [i for i in self.table if NEEDED_WHEN.get((self.kind, i)) in (None, *flags)]
        truth = {item: "present" if item in needed else "not-applicable" for item in self.table}
        for item in self.draw.sample(needed, self.draw.choice((0, 1, 1, 2, 2, 3, 4))):
            self.planted[item] = self.draw.choice(self.plants(item))
        for item in needed:
            truth[item] = _PLANTS[self.planted[item]](self, item) if item in self.planted else self.complete(item)
        signs = (forms()["signs"].get(f"{self.kind} {flag}") for flag in sorted(flags))
        for table in filter(None, signs):
            self.put(self.draw.choice(table), self.age())
        self.by_catch()
        self.withhold(truth)
        asked_for = frozenset(i for i, plant in self.planted.items() if plant.startswith("requested"))
        under_review = write(reviewed, self.draw.choice(DIALECTS), "under-review", self.today, self.today)
        return Record(self.number, self.kind, f"{self.today}T09:00:00Z", [under_review],
                      [r for _, r in self.held], self.answers(), asked_for, truth, self.planted)  # fmt: skip

    def plants(self, item: str) -> list[str]:
        """The kinds of gap that this item can have."""
        found = ["omitted", "omitted", "spoilt", "withheld", "requested"]
        if (self.kind, item) in KEEPS_DAYS:
            found += ["old"] * 4 + ["undated", "requested-newer"]
        if item in forms()["none"] or item in (*_RESULTS, "genetics", "bone-density"):
            found += ["none", "none"]
        if item in _RESULTS:
            found.append("hidden")
        return found

    def age(self, item: str = "") -> int:
        """Days before the request; new enough, by a margin that also covers a date that says only the month."""
        return self.draw.randint(1, int(0.85 * KEEPS_DAYS.get((self.kind, item), 3000)))

    def form(self, item: str) -> Form:
        """A way to write the item that answers no planted item besides."""
        return self.draw.choice([f for f in self.table[item] if not self.planted.keys() & set(f.get("also", ()))])

    def put(self, form: Form, days: int, *, by_name: bool = False) -> Resource:
        """Writes one part into the EHR of a source. With `by_name` it says in words what it is."""
        source = self.draw.choice(SOURCES)
        dialect = self.dialects[source] if not by_name or self.dialects[source] != "bare" else "full"
        when = self.today - timedelta(days=days)
        indexed = self.draw.choice((when, self.today))
        resource = write(form, dialect, f"r{len(self.held)}", when, indexed)
        self.held.append((source, resource))
        return resource

    def complete(self, item: str) -> str:
        for _ in range(self.draw.choice((1, 1, 2, 3))):
            self.put(self.form(item), self.age(item))
        return "present"

    def omitted(self, item: str) -> str:
        return "missing"

    def requested(self, item: str) -> str:
        return "requested"

    def old(self, item: str) -> str:
        keeps = KEEPS_DAYS[self.kind, item]
        for _ in range(self.draw.choice((1, 2))):
            self.put(self.form(item), self.draw.randint(int(1.15 * keeps), 4 * keeps))
        return "stale"

    def requested_newer(self, item: str) -> str:
        self.old(item)
        return "requested"

    def undated(self, item: str) -> str:
        resource = self.put(self.form(item), self.age(item))
        for key in _DATES:
            resource.pop(key, None)
        return "present"

    def spoilt(self, item: str) -> str:
        """There, but withdrawn: it counts for nothing."""
        resource = self.put(self.form(item), self.age(item))
        kind = resource["resourceType"]
        if kind in _VERIFICATION:
            system = f"http://terminology.hl7.org/CodeSystem/{_VERIFICATION[kind]}"
            resource["verificationStatus"] = {"coding": [{"system": system, "code": "entered-in-error"}]}
            resource.pop("clinicalStatus", None)  # R4's ait-2 and con-5: what was an error has none
        else:
            resource["status"] = self.draw.choice(("entered-in-error", _SPOILT.get(kind, "entered-in-error")))
        return "missing"

    def none(self, item: str) -> str:
        """It is said that there is none."""
        if item in forms()["none"]:
            self.put(self.draw.choice(forms()["none"][item]), self.age())
        else:
            self.result(item, "not-performed")
        return "known-absent"

    def hidden(self, item: str) -> str:
        self.result(item, "masked")
        return "withheld"

    def result(self, item: str, reason: str) -> None:
        """The item as an Observation without a value, and why it has none."""
        form = self.draw.choice([f for f in self.table[item] if "also" not in f])
        self.put({**form, "type": "Observation", "category": "laboratory"}, self.age(item), by_name=True)
        del self.held[-1][1]["valueString"]
        self.held[-1][1]["dataAbsentReason"] = {"coding": [{"system": _REASONS, "code": reason}]}

    def withheld(self, item: str) -> str:
        """A source says that it holds a type back, or refuses it; refused is only what it shows nothing of."""
        kind = self.draw.choice(sorted({f["type"] for f in self.table[item]}))
        source = self.draw.choice(SOURCES)
        self.refusals[source, kind] = Answer(kind, "answered", withheld=True)
        return "missing"

    def by_catch(self) -> None:
        names = ("orders",) if self.kind == "generic" else ("alike", "orders")
        table = [form for name in names for form in forms()[name]]
        for form in self.draw.sample(table, min(len(table), self.draw.randint(4, 12))):
            self.put(form, self.age(), by_name=True)

    def withhold(self, truth: dict[str, str]) -> None:
        """What is missing and may be among what a source holds back is withheld, whichever plant it was."""
        kept_back = {kind for _, kind in self.refusals}
        for item, state in truth.items():
            if state == "missing" and kept_back & {f["type"] for f in self.table[item]}:
                truth[item] = "withheld"

    def answers(self) -> list[tuple[str, Answer]]:
        """The manifest: a line a source and type."""
        lines = []
        for source in SOURCES:
            for kind in TYPES:
                received = sum(1 for of, r in self.held if of == source and r["resourceType"] == kind)
                line = self.refusals.get((source, kind))
                if line is not None and not received and self.draw.random() < 0.7:
                    line = Answer(kind, "refused", detail=self.draw.choice(
                        ("the scope was not granted", "policy: GET Type: HTTP 403.")))  # fmt: skip
                elif line is not None:
                    line = Answer(kind, "answered", received=received, withheld=True)
                elif received or self.draw.random() < 0.8:
                    line = Answer(kind, "answered", received=received)
                else:
                    line = Answer(kind, self.draw.choice(("not-offered", "failed", "truncated")))
                lines.append((source, line))
        return lines


_PLANTS: Mapping[str, Callable[[_Writer, str], str]] = {
    "omitted": _Writer.omitted, "spoilt": _Writer.spoilt, "withheld": _Writer.withheld, "old": _Writer.old,
    "requested": _Writer.requested, "requested-newer": _Writer.requested_newer, "undated": _Writer.undated,
    "none": _Writer.none, "hidden": _Writer.hidden,
}  # fmt: skip
