"""Who is named in a message: providers and organizations, each once, and the systems of their numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from fhir_secondop.hl7v2 import names
from fhir_secondop.hl7v2.reading import Segment, Value
from fhir_secondop.model import Sender

Plain = dict[str, Any]
_NPI = re.compile(r"\d{10}", re.ASCII)
_NOT_A_KEY = re.compile(r"[^a-z0-9]+")


class People:
    """The members `organizations` and `providers` of a plain request, as the segments of a message fill them."""

    def __init__(self, sender: Sender, fault: Callable[[str, str], None]) -> None:
        self._sender = sender
        self._fault = fault
        self.organizations: dict[str, Plain] = {}
        self.providers: dict[str, Plain] = {}
        self.home = self._organization(sender.title, sender.organization)

    def system_of(self, namespace: str = "", universal: str = "", kind: str = "") -> str:
        """The system of numbers by this authority: as configured, by either of its names, or an OID or URI as it is.

        "" where nobody knows it.
        """
        if known := self.configured(namespace, universal):
            return known
        if universal == names.NPI_OID:
            return names.NPI
        if universal and kind == "ISO":
            return f"urn:oid:{universal}"
        return universal if universal and kind == "URI" else ""

    def configured(self, namespace: str, universal: str) -> str:
        """The system of numbers by this authority, as it is configured for the sender; "" where it is not."""
        return self._sender.systems.get(universal) or self._sender.systems.get(namespace, "")

    def of_prd(self, segment: Segment) -> str:
        """The key of a provider in a PRD; "" and a fault where it has no name."""
        name = segment.value(2)
        facility = segment.text(4, 4)
        plain = {
            "family": name.text(), "given": [p for p in (name.text(2), *name.text(3).split()) if p],
            "prefix": name.text(5), "organization": self._facility(facility), **self.telecom(segment.all(5)),
        }  # fmt: skip
        # A PLN has no authority: its type says whose number it is.
        numbers = [(v.text(), v.text(2), self._sender.systems.get(v.text(2), "")) for v in segment.all(7)]
        return self._provider(plain, numbers, segment.place(2))

    def of_xcn(self, value: Value) -> str:
        """The key of a provider in an XCN; "" and a fault where it has no name."""
        plain = {
            "family": value.text(2), "given": [p for p in (value.text(3), *value.text(4).split()) if p],
            "prefix": value.text(6), "organization": self._facility(value.text(14)),
        }  # fmt: skip
        authority = value.authority(9)
        kind = "NPI" if "NPI" in (value.text(13), authority[0]) or names.NPI_OID in authority else ""
        return self._provider(plain, [(value.text(), kind, self.system_of(*authority))], value.at(2))

    def payer(self, segment: Segment) -> str:
        """The key of who insures, of an IN1; "" and a fault where it has no name."""
        name = segment.text(4)
        if not name:
            self._fault(segment.place(4), "Name the insurance company.")
            return ""
        number = segment.value(3)
        system = self.system_of(*number.authority(4))
        return self._organization(name, f"{system}|{number.text()}" if system and number.text() else "")

    def telecom(self, values: Iterable[Value]) -> Plain:
        """The first phone and the first e-mail address of some XTN."""
        found: Plain = {}
        for value in values:
            if value.text(4) and "@" in value.text(4):
                found.setdefault("email", value.text(4))
            number = value.text(1) or value.text(12) or "".join(filter(None, (value.text(6), value.text(7))))
            if number and value.text(3) != "FX":
                found.setdefault("phone", number)
        return found

    def _facility(self, namespace: str) -> str:
        """The key of the organization that a facility is, the sender's own where none is named.

        One that nobody configured has a name alone: nothing is delivered to it by a connection.
        """
        if not namespace or namespace == self._sender.facility:
            return self.home
        return self._organization(namespace, self._sender.organizations.get(namespace, ""))

    def _organization(self, name: str, identifier: str) -> str:
        system, _, value = identifier.rpartition("|")
        plain: Plain = {"name": name, **({"identifier": {"system": system, "value": value}} if value else {})}
        for key, known in self.organizations.items():
            if known == plain:
                return key
        return _added(self.organizations, name, plain)

    def _provider(self, plain: Plain, numbers: list[tuple[str, str, str]], place: str) -> str:
        if not plain["family"]:
            self._fault(place, "Send the provider's name.")
            return ""
        for value, kind, system in numbers:
            if value and kind == "NPI" and _NPI.fullmatch(value):
                plain.setdefault("npi", value)
            elif value and system:
                plain.setdefault("identifier", []).append({"system": system, "value": value})
        made = {k: v for k, v in plain.items() if v}
        for key, known in self.providers.items():
            if known.get("npi") and known.get("npi") == made.get("npi"):
                known.update({k: v for k, v in made.items() if k not in known})
                return key
            if known == made:
                return key
        return _added(self.providers, plain["family"], made)


def _added(table: dict[str, Plain], name: str, plain: Plain) -> str:
    """A key that the schema takes: of the name, with a number where that is taken."""
    stem = _NOT_A_KEY.sub("-", name.casefold()).strip("-")[:50] or "x"
    # "patient" is the patient's own key.
    taken = {*table, "patient"}
    key = next(k for k in (stem, *(f"{stem}-{n}" for n in range(2, len(taken) + 3))) if k not in taken)
    table[key] = plain
    return key
