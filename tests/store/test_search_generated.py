"""Searches over generated resources find what R4's words say (tests/store/reference.py), on both databases.

The long form, with another seed each time it is wanted:
TEST_SEED=7 python -m pytest -m slow -s tests/store/test_search_generated.py
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from fhir_secondop.fhir import codec, definitions, path
from fhir_secondop.store import resources
from fhir_secondop.store.database import Database
from tests.store import reference
from tests.store.rows import BASE, DESK, everything

SEED = int(os.environ.get("TEST_SEED", "20261128"))
PREFIXES = ("", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")
UCUM, LOINC = "http://unitsofmeasure.org", "http://loinc.org"
Plain = dict[str, Any]


class Asked(NamedTuple):
    """A search by one parameter, and which of its values are found."""

    code: str
    modifier: str
    text: str
    finds: reference.Predicate

    def expected(self, values: dict[str, list[Any]]) -> set[str]:
        if self.modifier == "missing":
            return {name for name, found in values.items() if self.finds(found)}
        found = {name for name, found in values.items() if any(map(self.finds, found))}
        return set(values) - found if self.modifier == "not" else found


class Making:
    """Resources from few values, so that searches meet them at their edges."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.few = {
            "day": ["2024", "2023-12", "2024-01", "2024-02", "2024-02-29", "2024-03-01", "2023-12-31", "2024-12-31"],
            "time": ["2024-02-29T00:00:00Z", "2024-02-29T23:59:59.999Z", "2024-03-01T00:30:00+01:00",
                     "2024-02-28T23:30:00-01:00", "2024-02-29T12:00:00.5Z", "2024-02-29T12:00:00Z",
                     "2024-12-31T23:59:59+14:00"],
            "number": ["5", "5.4", "5.40", "5.45", "5.35", "5.349", "-5.4", "0", "0.00", "100", "99.5", "100.5", "1e2",
                       "95", "105", "90", "110", "0.0001", "12345678901234567890.12", "-0.5", "0.5", "1", "9.99"],
            "word": ["Müller", "MULLER", "muller", "Mull", "Ångström", "van der Berg", "Berg", "O'Neil", "Straße",
                     "strasse", "a,b", "c|d", "e$f", "g\\h", "50%", "x_y", "李", "İnci", "Mull  er", "%"],
            "code": ["A1", "a1", "b|c", "d,e", "A", "1-8"],
            "system": ["urn:a", "urn:b", LOINC, "http://x.example/a,b", "urn:c|d"],
            "id": ["p1", "p2", "P1", "p1.2"],
            "uri": ["http://x.example/fhir", "http://x.example/fhir/a", "http://x.example/fhir/a/b", "urn:oid:1.2.3",
                    "http://x.example/fhirs", "http://X.example/fhir", "http://x.example/fhir/", "http://x.example"],
        }  # fmt: skip

    def one(self, of: str) -> Any:
        return self.random.choice(self.few[of])

    def maybe(self, chance: float = 0.5) -> bool:
        return self.random.random() < chance

    def some(self, **parts: Any) -> Plain:
        """An element of some of these parts, of one at least."""
        kept = {name: make for name, make in parts.items() if self.maybe(0.6)}
        kept = kept or dict([self.random.choice(sorted(parts.items()))])
        return {name: make() if callable(make) else make for name, make in kept.items()}

    def time(self) -> str:
        return str(self.one(self.random.choice(["day", "time"])))

    def period(self) -> Plain:
        ends = sorted([self.time(), self.time()], key=reference.span)
        return self.some(start=ends[0], end=ends[1])

    def number(self) -> Decimal:
        return Decimal(self.one("number"))

    def quantity(self) -> Plain:
        comparator = {"comparator": self.random.choice(["<", "<=", ">", ">="])} if self.maybe(0.3) else {}
        unit = self.random.choice([{}, {"system": UCUM, "code": "mg"}, {"system": UCUM, "code": "g", "unit": "mg"},
                                   {"unit": "mg"}, {"system": "urn:b", "code": "mg"}])  # fmt: skip
        return {"value": self.number(), **comparator, **unit} if self.maybe(0.9) else unit or {"unit": "mg"}

    def coding(self) -> Plain:
        return self.some(system=lambda: self.one("system"), code=lambda: self.one("code"),
                         display=lambda: self.one("word"))  # fmt: skip

    def concept(self) -> Plain:
        return self.some(coding=lambda: [self.coding() for _ in range(self.random.randint(1, 2))],
                         text=lambda: self.one("word"))  # fmt: skip

    def identifier(self) -> Plain:
        return self.some(system=lambda: self.one("system"), value=lambda: self.one("code"), type=self.concept)

    def reference(self, kind: str) -> Plain:
        literal = self.random.choice([f"{kind}/{self.one('id')}", f"{BASE}/{kind}/{self.one('id')}",
                                      f"https://other.example.org/fhir/{kind}/{self.one('id')}",
                                      f"{kind}/{self.one('id')}/_history/2"])  # fmt: skip
        return self.some(reference=literal, identifier=self.identifier, display=lambda: self.one("word"))

    def name(self) -> Plain:
        return self.some(family=lambda: self.one("word"), given=lambda: [self.one("word"), self.one("word")],
                         text=lambda: self.one("word"), suffix=lambda: [self.one("word")])  # fmt: skip

    def address(self) -> Plain:
        return self.some(city=lambda: self.one("word"), line=lambda: [self.one("word")],
                         state=lambda: self.one("word"), postalCode=lambda: self.one("code"))  # fmt: skip

    def meta(self) -> Plain:
        return self.some(tag=lambda: [self.coding()], profile=lambda: [self.one("uri")],
                         source=lambda: self.one("uri"))  # fmt: skip

    def resource(self) -> Plain:
        kind, parts = self.random.choice(sorted(self._types().items()))
        return {"resourceType": kind, **self.some(**parts)}

    def _types(self) -> dict[str, dict[str, Callable[[], Any]]]:
        word = self.random.choice
        return {
            "Observation": {
                "meta": self.meta, "status": lambda: word(["final", "amended"]), "code": self.concept,
                "subject": lambda: self.reference(word(["Patient", "Group"])),
                **word([{"effectiveDateTime": self.time}, {"effectivePeriod": self.period}]),
                **word([{"valueQuantity": self.quantity}, {"valueString": lambda: self.one("word")},
                        {"valueCodeableConcept": self.concept}, {"valueDateTime": self.time}]),
                "identifier": lambda: [self.identifier() for _ in range(2)],
                "component": lambda: [{"code": self.concept(), "valueQuantity": self.quantity()}],
            },
            "Patient": {
                "name": lambda: [self.name() for _ in range(2)], "birthDate": lambda: self.one("day"),
                "gender": lambda: word(["male", "female"]), "active": lambda: self.maybe(),
                "identifier": lambda: [self.identifier() for _ in range(2)], "address": lambda: [self.address()],
                "managingOrganization": lambda: self.reference("Organization"),
                "telecom": lambda: [{"system": word(["phone", "email"]), "value": self.one("code")}],
            },
            "Encounter": {"class": self.coding, "period": self.period, "length": self.quantity,
                          "type": lambda: [self.concept()], "serviceProvider": lambda: self.reference("Organization")},
            "ServiceRequest": {"authoredOn": self.time, "occurrencePeriod": self.period, "requisition": self.identifier,
                               "instantiatesUri": lambda: [self.one("uri")], "requester": lambda:
                               self.reference("Practitioner"), "code": self.concept},
            "ValueSet": {"url": lambda: self.one("uri"), "name": lambda: self.one("word"), "date": self.time,
                         "version": lambda: self.one("code"), "title": lambda: self.one("word")},
            "RiskAssessment": {"prediction": lambda: [{"probabilityDecimal": self.number()} for _ in range(2)],
                               "occurrencePeriod": self.period},
            "ChargeItem": {"priceOverride": lambda: {"value": self.number(), "currency": word(["EUR", "USD"])},
                           "factorOverride": self.number, "enteredDate": self.time},
            "Condition": {**word([{"onsetAge": self.quantity}, {"onsetRange": lambda: self.some(
                              low={"value": Decimal(5), "system": UCUM, "code": "a"},
                              high={"value": Decimal(100), "system": UCUM, "code": "a"})}]),
                          "bodySite": lambda: [self.concept()], "recordedDate": lambda: self.time()},
        }  # fmt: skip


PARAMETERS = {
    "Observation": "status code subject date value-quantity value-string value-concept value-date identifier "
                   "component-value-quantity component-code _tag _profile _source combo-code",
    "Patient": "name family given birthdate gender active identifier address address-city organization telecom phone",
    "Encounter": "class date length type service-provider",
    "ServiceRequest": "authored occurrence requisition instantiates-uri requester code",
    "ValueSet": "url name date version title",
    "RiskAssessment": "probability date",
    "ChargeItem": "price-override factor-override entered-date",
    "Condition": "onset-age body-site recorded-date",
}  # fmt: skip


def escaped(text: str) -> str:
    return quote(re.sub(r"([\\,$|])", r"\\\1", text), safe="")


def searches(making: Making, code: str, kind: str) -> Iterator[Asked]:
    """One search of each form that a parameter of that kind takes."""
    missing = making.maybe()
    yield Asked(code, "missing", str(missing).lower(), lambda found: (not found) is missing)
    if kind == "date":
        prefix, text = making.random.choice(PREFIXES[:-1]), making.time()
        yield Asked(code, "", prefix + quote(text, safe=""), reference.of_dates(prefix or "eq", text))
    elif kind in ("number", "quantity"):
        yield from of_numbers(making, code, kind)
    elif kind == "token":
        yield from of_tokens(making, code)
    elif kind == "string":
        modifier, text = making.random.choice(["", "exact", "contains"]), making.one("word")
        if modifier != "exact" and len(text) > 2:
            text = text[: making.random.randint(2, len(text))] if not modifier else text[1:]
        if reference.plain(text):
            yield Asked(code, modifier, escaped(text), reference.of_strings(modifier, text))
    elif kind == "reference":
        yield from of_references(making, code)
    else:
        modifier, text = making.random.choice(["", "below", "above"]), making.one("uri")
        yield Asked(code, modifier, escaped(text), reference.of_uris(modifier, text))


def of_numbers(making: Making, code: str, kind: str) -> Iterator[Asked]:
    prefix, text = making.random.choice(PREFIXES), making.one("number")
    matches, unit = reference.of_numbers(prefix or "eq", text), ""
    is_of_unit: reference.Predicate = lambda value: True  # noqa: E731
    if kind == "quantity" and making.maybe():
        system, unit_code = making.random.choice([UCUM, "urn:b", ""]), making.random.choice(["mg", "g", "a"])
        unit, is_of_unit = f"|{escaped(system)}|{unit_code}", reference.of_unit(system, unit_code)
    yield Asked(code, "", prefix + text + unit,
                lambda value: reference.has_number(value) and matches(value) and is_of_unit(value))  # fmt: skip


def of_tokens(making: Making, code: str) -> Iterator[Asked]:
    words = {"status": ["final", "amended"], "gender": ["male"], "active": ["true", "false"]}.get(code)
    wanted = making.random.choice(words) if words else making.one("code")
    system = reference.IMPLIED[code] if code in reference.IMPLIED and making.maybe() else making.one("system")
    for modifier in ("", "not"):
        yield Asked(code, modifier, escaped(wanted), reference.of_tokens(code, None, wanted))
        yield Asked(code, modifier, f"{escaped(system)}|{escaped(wanted)}", reference.of_tokens(code, system, wanted))
        yield Asked(code, modifier, f"|{escaped(wanted)}", reference.of_tokens(code, "", wanted))
        yield Asked(code, modifier, f"{escaped(system)}|", reference.of_tokens(code, system, ""))
    text = making.one("word")
    yield Asked(code, "text", escaped(text), lambda value: any(
        reference.plain(one).startswith(reference.plain(text)) for one in reference.texts(value)))  # fmt: skip
    if code == "identifier":
        parts = [making.one("system"), making.one("code"), wanted]
        yield Asked(code, "of-type", "|".join(map(escaped, parts)), reference.of_type(*parts))


def of_references(making: Making, code: str) -> Iterator[Asked]:
    of = {"organization": "Organization", "service-provider": "Organization", "requester": "Practitioner"}
    kind, name = of.get(code, "Patient"), making.one("id")
    local = reference.of_references(f"{kind}/{name}", BASE)
    yield Asked(code, kind, name, local)
    yield Asked(code, "", f"{kind}/{name}", local)
    yield Asked(code, "", quote(f"{BASE}/{kind}/{name}"), local)
    foreign = f"https://other.example.org/fhir/{kind}/{name}"
    yield Asked(code, "", quote(foreign), reference.of_references(foreign, BASE))
    system, wanted = making.one("system"), making.one("code")
    for asked, text in ((None, ""), (system, escaped(system) + "|"), ("", "|")):
        yield Asked(code, "identifier", text + escaped(wanted), reference.of_identifier(asked, wanted))


def store(database: Database, made: list[Plain]) -> dict[str, dict[str, Plain]]:
    """Type → name → resource."""
    stored: dict[str, dict[str, Plain]] = {}
    with database.transaction(DESK) as tx:
        for number, resource in enumerate(made):
            body, parsed = codec.split(codec.dumps(resource))
            resources.create(tx, body, parsed, base_url=BASE, resource_id=f"r{number}")
            stored.setdefault(resource["resourceType"], {})[f"r{number}"] = resource
    return stored


def differences(database: Database, seed: int, many: int, rounds: int) -> tuple[int, list[str]]:
    """How many searches were asked, and each that found something else than the reference."""
    making = Making(seed)
    stored = store(database, [making.resource() for _ in range(many)])
    asked, wrong = 0, []
    for kind, codes in PARAMETERS.items():
        known = definitions.search_parameters(kind)
        for code in codes.split():
            # fhirpathpy does not know what every type is derived from.
            expression = re.sub(r"^Resource\.", f"{kind}.", known[code].expression)
            values = {name: path.evaluate(expression, one) for name, one in stored[kind].items()}
            for _ in range(rounds):
                for search in searches(making, code, known[code].type):
                    colon = f":{search.modifier}" if search.modifier else ""
                    text = f"{code}{colon}={search.text}"
                    found = everything(database, kind, f"{text}&_count=500")
                    asked += 1
                    if sorted(found) != sorted(search.expected(values)):
                        odd = sorted(set(found) ^ search.expected(values))[0]
                        more = "found" if odd in found else "not found"
                        wrong.append(f"{kind}?{text} {more}: {values[odd]}")
    return asked, wrong


def test_generated_searches_find_what_the_specification_says(database: Database) -> None:
    asked, wrong = differences(database, SEED, many=300, rounds=2)
    assert not wrong, "\n".join([f"{len(wrong)} of {asked}, seed {SEED}", *wrong[:40]])
    assert asked > 500


@pytest.mark.slow
def test_many_more_generated_searches_do_so(database: Database) -> None:
    asked, wrong = differences(database, SEED, many=1000, rounds=60)
    print(f"\n{asked:,} searches with seed {SEED}; {len(wrong)} differ")
    assert not wrong, "\n".join(wrong[:40])


def test_what_is_nearly_the_same_time_is_found_by_ap(database: Database) -> None:
    """ "Approximately" is ours to say: what overlaps at least, and nothing that is far from it."""
    making = Making(SEED)
    stored = store(database, [{"resourceType": "ServiceRequest", "authoredOn": making.time()} for _ in range(60)])
    for text in (*making.few["day"], *making.few["time"]):
        found = set(everything(database, "ServiceRequest", f"authored=ap{quote(text)}&_count=500"))
        low, high = reference.span(text)
        far = max((high - low) / 5, (datetime.now(UTC) - low) / 10) + timedelta(seconds=1)
        for name, one in stored["ServiceRequest"].items():
            begin, end = reference.span(one["authoredOn"])
            if begin < high and low < end:
                assert name in found, (text, one)
            elif begin > high + far or end < low - far:
                assert name not in found, (text, one)
