"""States and countries of addresses, as far as two can be compared without a gazetteer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fhir_secondop.model import Resource

_US = frozenset({"us", "usa", "840", "united states", "united states of america"})


@dataclass(frozen=True, slots=True)
class Place:
    """A state (of that country) and a country, as an address writes them; "" where it says none."""

    state: str = ""
    country: str = ""

    def __str__(self) -> str:
        return ", ".join(part for part in (self.state, self.country) if part)


def of_address(address: Resource) -> Place:
    """The place of an Address."""
    return Place(str(address.get("state", "")).strip(), str(address.get("country", "")).strip())


def of_addresses(addresses: Iterable[Resource]) -> list[Place]:
    """The places of these addresses that say a state or a country; none of an old address."""
    found = [of_address(a) for a in addresses if a.get("use") != "old"]
    return [place for place in found if place.state or place.country]


def same_country(a: Place, b: Place) -> bool | None:
    """Whether both are in one country; None where that can't be told."""
    mine, theirs = _country(a.country), _country(b.country)
    if mine and theirs and "us" in (mine, theirs):  # of which we know every way to write it
        return mine == theirs
    return _same(mine, theirs)


def same_state(a: Place, b: Place) -> bool | None:
    """Whether both are in one state; None where that can't be told. A country that is not said does not part them."""
    country = same_country(a, b)
    return False if country is False else _same(a.state.casefold(), b.state.casefold())


def _country(text: str) -> str:
    folded = text.casefold()
    return "us" if folded in _US else folded


def _same(a: str, b: str) -> bool | None:
    """ "CA" and "California" may be the same or not: only codes of one length, or names, are told apart."""
    if not a or not b:
        return None
    if a == b:
        return True
    return False if (len(a) <= 3) == (len(b) <= 3) and (len(a) == len(b) or len(a) > 3) else None
