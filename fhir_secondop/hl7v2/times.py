"""Dates and times between FHIR and HL7 v2.

Source: HL7 v2.5.1, chapter 2A.22 (DTM) and 2A.21 (DT)
"""

from __future__ import annotations

import re
from datetime import date

from fhir_secondop.errors import Invalid

_FHIR = re.compile(
    r"(\d{4})(?:-(\d{2})(?:-(\d{2})(?:T(\d{2}):(\d{2})(?::(\d{2})(\.\d{1,4})?\d*)?(Z|[+-]\d{2}:\d{2})?)?)?)?", re.ASCII
)
_DTM = re.compile(
    r"(\d{4})(?:(\d{2})(?:(\d{2})(?:(\d{2})(\d{2})?(?:(\d{2})(\.\d{1,4})?)?)?)?)?([+-]\d{4})?", re.ASCII
)  # fmt: skip


def written(text: str) -> str:
    """A FHIR date, dateTime or instant as a DTM: "2026-11-23T09:30:00.125Z" is 20261123093000.125+0000."""
    match = _FHIR.fullmatch(text)
    if match is None:
        raise Invalid("What should be written as a time is no FHIR date.")
    *digits, fraction, zone = match.groups()
    offset = {"Z": "+0000", None: ""}.get(zone, (zone or "").replace(":", ""))
    return "".join(filter(None, digits)) + (fraction or "") + offset


def day(text: str, place: str) -> str:
    """The day of a DT or DTM as a FHIR date. Raises Invalid at `place` where it has none, or none that exists."""
    match = _DTM.fullmatch(text)
    if match is None or not match[3]:
        raise Invalid("Write a whole date: YYYYMMDD.", path=place)
    year, month, of_month = match[1], match[2], match[3]
    try:
        date(int(year), int(month), int(of_month))
    except ValueError:
        raise Invalid("This date does not exist.", path=place) from None
    return f"{year}-{month}-{of_month}"
