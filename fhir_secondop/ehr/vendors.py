"""What is known of each vendor's EHRs: dated facts from profiles/vendors, and what a connection says over them.

A vendor is a file; nothing in the code names one.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields, replace
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any

from fhir_secondop.errors import Invalid
from fhir_secondop.model import Connection

GENERIC = "generic"


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact with where it was read and when somebody last saw that it holds."""

    name: str
    value: Any
    says: str
    source: str
    last_verified: date


@dataclass(frozen=True, slots=True)
class Site:
    """What holds for one EHR: the vendor's facts, with what the connection says over them.

    `settle_s`: seconds for which a write that nobody answered may still land. `rate_per_s` and `documents_per_day`:
    0 is no limit. `demands` and `categories` are by resource type: searches to try when a plain one is refused, and
    category codes to search by, one at a time. `error_codes`: vendor code → expired, partial, policy, quota,
    duplicate or validation. `text_limit`: the characters that a text may have, 0 is no limit. `one_content`: a document
    takes one attachment, so nothing signed goes along. `report_categories`: v2-0074 codes with which a DiagnosticReport
    is taken, empty for any. `hl7`: messages of HL7 v2 go there, which a connection alone can say.
    """

    settle_s: float = 60.0
    rate_per_s: float = 0.0
    concurrency: int = 4
    documents_per_day: int = 0
    page_count: int = 100
    text_only: bool = False
    text_limit: int = 0
    text_ascii: bool = False
    identifier_kept: bool = True
    content_charset: bool = False
    period_end: bool = False
    inline_only: bool = False
    one_content: bool = False
    if_match: bool = False
    never_creates: tuple[str, ...] = ()
    report_categories: tuple[str, ...] = ()
    communication_sender: str = ""
    communication_status: str = "completed"
    demands: dict[str, list[str]] = field(default_factory=dict)
    categories: dict[str, list[str]] = field(default_factory=dict)
    unsearchable: tuple[str, ...] = ()
    error_codes: dict[str, str] = field(default_factory=dict)
    hints: tuple[str, ...] = ()
    rungs_excluded: tuple[int, ...] = ()
    hl7: bool = False
    auth: str = ""
    notes: str = ""


@dataclass(frozen=True, slots=True)
class Vendor:
    """A file of profiles/vendors."""

    key: str
    title: str
    note: str
    facts: tuple[Fact, ...]

    @property
    def oldest(self) -> date | None:
        """The day of the fact that nobody has looked at for longest."""
        return min((fact.last_verified for fact in self.facts), default=None)


_KINDS: dict[str, tuple[type, ...]] = {
    "float": (int, float), "int": (int,), "bool": (bool,), "str": (str,),
    "tuple[str, ...]": (list,), "tuple[int, ...]": (list,), "dict[str, list[str]]": (dict,), "dict[str, str]": (dict,),
}  # fmt: skip
_ALLOWED = {f.name: str(f.type) for f in fields(Site) if f.name != "hl7"}


def names() -> list[str]:
    """The vendors that there is a file of."""
    folder = files("fhir_secondop.profiles") / "vendors"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


@cache
def load(name: str) -> Vendor:
    """The vendor of that name. Raises Invalid when there is no such file, or a fact in it is not one we know."""
    if name not in names():
        raise Invalid(f"There is no vendor {name!r}; known are {', '.join(names())}.")
    where = f"profiles/vendors/{name}.toml"
    loaded = tomllib.loads((files("fhir_secondop.profiles") / "vendors" / f"{name}.toml").read_text("utf-8"))
    return Vendor(name, loaded["title"], loaded["note"], tuple(_fact(row, where) for row in loaded["fact"]))


def _fact(row: dict[str, Any], where: str) -> Fact:
    name = row.get("name", "")
    if name not in _ALLOWED:
        raise Invalid(f"{where}: unknown fact {name!r}; known are {', '.join(sorted(_ALLOWED))}.")
    missing = [key for key in ("value", "says", "source", "last_verified") if key not in row]
    if missing:
        raise Invalid(f"{where}: the fact {name} has no {missing[0]}.")
    kinds = _KINDS[_ALLOWED[name]]
    if not isinstance(row["value"], kinds) or (isinstance(row["value"], bool) and bool not in kinds):
        raise Invalid(f"{where}: the fact {name} must be a {_ALLOWED[name]}.")
    return Fact(name, row["value"], row["says"], row["source"], row["last_verified"])


def site(connection: Connection) -> Site:
    """What holds for this connection: our cautious defaults, the vendor's facts over them, its own settings on top."""
    found = Site()
    for vendor in dict.fromkeys((GENERIC, connection.vendor)):
        found = replace(found, **{f.name: _frozen(f.value) for f in load(vendor).facts})
    own = {
        name: getattr(connection, name)
        for name in (
            "settle_s",
            "rate_per_s",
            "concurrency",
            "documents_per_day",
            "text_only",
            "text_limit",
            "text_ascii",
            "one_content",
        )
        if getattr(connection, name) is not None
    }
    return replace(found, **own, hl7=connection.speaks_hl7)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
