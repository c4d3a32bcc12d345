"""Each of R4's search parameters finds the official examples that have the value, and no others.

What they have is found by fhirpathpy, from the expression in R4's own definition, and compared in the plainest way; so
neither our paths nor our index nor our conditions have a part in what is expected.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from fhir_secondop.errors import Unsupported
from fhir_secondop.fhir import codec, definitions, path
from fhir_secondop.store import resources
from fhir_secondop.store.database import Database
from tests.store.rows import BASE, DESK, everything

pytestmark = pytest.mark.shared
Plain = dict[str, Any]
TELECOM = {"phone", "fax", "email", "pager", "url", "sms", "other"}
CLOCK = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def examples(shared_data: Path) -> dict[str, dict[str, Plain]]:
    """Type → name → resource."""
    found: dict[str, dict[str, Plain]] = {}
    for file in sorted((shared_data / "official-r4-examples-json").glob("*.json")):
        resource = json.loads(file.read_text("utf-8"), parse_float=Decimal)
        if resource.get("resourceType") in definitions.resource_types():
            name = f"x{sum(map(len, found.values()))}"
            found.setdefault(resource["resourceType"], {})[name] = resource
    return found


@pytest.fixture(scope="module")
def stored(examples: dict[str, dict[str, Plain]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = Database(str(tmp_path_factory.mktemp("search") / "one.sqlite"))
    database.migrate()
    with database.transaction(DESK) as tx:
        for of_type in examples.values():
            for name, resource in of_type.items():
                body, parsed = codec.split(codec.dumps(resource))
                resources.create(tx, body, parsed, base_url=BASE, resource_id=name)
    yield database
    database.dispose()


# ---- what a value is, in the plainest way


def tokens(value: Any) -> list[tuple[str, str]]:
    if isinstance(value, bool):
        return [("", "true" if value else "false")]
    if isinstance(value, str):
        return [("", value)]
    if not isinstance(value, dict):
        return []
    if "coding" in value:
        return [pair for coding in value["coding"] for pair in tokens(coding)]
    if "code" in value:
        return [(value.get("system", ""), value["code"])]
    if "value" in value:
        return [("" if value.get("system") in TELECOM else value.get("system", ""), value["value"])]
    return []


def strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [" ".join(value.lower().split())]
    parts = (
        "family",
        "text",
        "given",
        "prefix",
        "suffix",
        "line",
        "city",
        "state",
        "country",
        "postalCode",
        "district",
    )
    found = [value[part] for part in parts if part in value] if isinstance(value, dict) else []
    return [text for each in found for one in (each if isinstance(each, list) else [each]) for text in strings(one)]


def span(text: str) -> tuple[datetime, datetime]:
    if "T" in text:
        at = datetime.fromisoformat(re.sub(r"(\.\d{1,6})\d*", r"\1", text).replace("Z", "+00:00"))
        digits = re.search(r"\.(\d+)", text)
        width = timedelta(seconds=1) if digits is None else timedelta(milliseconds=10 ** max(0, 3 - len(digits[1])))
        return at, at + width
    year, month, day = (int(part) for part in (f"{text}-01-01" if len(text) < 5 else f"{text}-01")[:10].split("-"))
    begin = datetime(year, month, day, tzinfo=UTC)
    if len(text) == 10:
        return begin, begin + timedelta(days=1)
    if len(text) == 7:
        return begin, datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    return begin, datetime(year + 1, 1, 1, tzinfo=UTC)


def spans(value: Any) -> list[tuple[datetime, datetime]]:
    if isinstance(value, str):
        return [span(value)] if re.match(r"\d{4}", value) else []
    if isinstance(value, dict) and ("start" in value or "end" in value):
        return [
            (span(value["start"])[0] if "start" in value else datetime.min.replace(tzinfo=UTC),
             span(value["end"])[1] if "end" in value else datetime.max.replace(tzinfo=UTC))
        ]  # fmt: skip
    return []


def numbers(value: Any) -> list[Decimal]:
    if isinstance(value, dict) and "value" in value and "comparator" not in value:
        value = value["value"]
    return [Decimal(value)] if isinstance(value, (int, Decimal)) and not isinstance(value, bool) else []


def escaped(text: str) -> str:
    return quote(re.sub(r"([\\,$|])", r"\\\1", text), safe="")


Rule = tuple[str, Any]


def asked(kind: str, value: Any) -> Iterator[tuple[str, Any]]:
    """(what to search for, whether another value is found by it)"""
    if kind == "token":
        for system, code in tokens(value):
            text = (escaped(system) + "|" if system else "") + escaped(code)
            yield text, lambda v, s=system, c=code: any(c == b and s in ("", a) for a, b in tokens(v))
    elif kind == "string":
        for text in strings(value):
            if text.isascii() and text:
                yield (
                    escaped(text[:30].strip()),
                    lambda v, t=text: any(x.startswith(t[:30].strip()) for x in strings(v)),
                )
    elif kind == "reference":
        literal = value.get("reference", "") if isinstance(value, dict) else ""
        if re.fullmatch(r"[A-Z][A-Za-z]+/[A-Za-z0-9.\-]+", literal):
            yield literal, lambda v: isinstance(v, dict) and v.get("reference", "").partition("/_history")[0] == literal
    elif kind == "uri":
        if isinstance(value, str):
            yield escaped(value), lambda v: v == value or (isinstance(v, str) and v.partition("|")[0] == value)
    elif kind == "date":
        if isinstance(value, str) and re.fullmatch(r"\d{4}(-\d\d){0,2}", value):
            low, high = span(value)
            yield value, lambda v: any(low <= a and b <= high for a, b in spans(v))
            yield f"gt{value}", lambda v: any(b > high for _, b in spans(v))
            yield f"lt{value}", lambda v: any(a < low for a, _ in spans(v))
    elif kind in ("number", "quantity"):
        for number in numbers(value):
            half = Decimal(5).scaleb(int(number.as_tuple().exponent) - 1)
            yield str(number), lambda v, n=number, h=half: any(n - h <= x < n + h for x in numbers(v))
            yield f"gt{number}", lambda v, n=number: any(x > n for x in numbers(v))


# R4's expression, or fhirpathpy, gives what neither R4's words nor its other servers mean.
EXCEPT = {
    "combo-value-quantity", "value-quantity", "component-value-quantity",  # SampledData, too, which stands for a span
}  # fmt: skip


def test_each_parameter_finds_what_has_the_value_and_nothing_else(
    examples: dict[str, dict[str, Plain]], stored: Database
) -> None:
    counted: Counter[str] = Counter()
    wrong = []
    for kind, of_type in examples.items():
        for code, parameter in definitions.search_parameters(kind).items():
            if parameter.type in ("composite", "special") or code in ("_id", "_lastUpdated") or code in EXCEPT:
                continue
            try:
                values = {name: path.evaluate(parameter.expression, one) for name, one in of_type.items()}
            except Unsupported:
                counted["fhirpathpy can't read its expression"] += 1
                continue
            every = [value for found in values.values() for value in found]
            searches = dict(pair for value in every for pair in asked(parameter.type, value))
            counted["parameters"] += bool(searches)
            for text, is_found in list(searches.items())[:6]:
                counted["searches"] += 1
                expected = [name for name, found in values.items() if any(is_found(value) for value in found)]
                got = everything(stored, kind, f"{quote(code)}={text}&_count=500")
                if sorted(got) != sorted(expected):
                    wrong.append((f"{kind}?{code}={text}", sorted(set(got) - set(expected))[:4],
                                  sorted(set(expected) - set(got))[:4]))  # fmt: skip
    print(dict(counted))
    assert wrong == [], f"{len(wrong)} of {counted['searches']}"
    assert counted["searches"] > 1500
