"""Who may see a case, which part of it, and until when: rows that every query of the store is narrowed by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sqlalchemy as sa

from fhir_secondop.model import RECORD, REPORT
from fhir_secondop.opinion.case import Case
from fhir_secondop.service.context import draft_case, preliminary_zone, urgent_zone
from fhir_secondop.store import tables
from fhir_secondop.store.database import Admission, Transaction

REVIEWER_DAYS = 90  # after signing: questions come back, and an amendment may be needed
_DAY_MS = 86_400_000


def members(case: Case) -> Mapping[str, str]:
    """The part that each recipient of the report sees, by its identifiers.

    Who asked for the opinion sees the record that it is based on. The others get the report: they are asked to know
    and to decide, and the record of another hospital is not theirs to read for that.
    """
    return {
        identifier: RECORD if "requester" in member.roles else REPORT
        for member in case.audience
        for identifier in member.person.identifiers
    }


def admit(
    tx: Transaction, case_id: str, parties: Iterable[str], *, part: str = RECORD, until_ms: int | None = None
) -> None:
    """Lets these parties ("system|value" or a caller's id) see that part of the case, until then or without end.

    Who sees that part for longer goes on doing so; one who sees both parts, each for its time, has a row for each.
    """
    rows = tx.connection.execute(sa.select(tables.audience).where(_of(case_id, part)))
    known = {row.party: row.until for row in rows}
    for party in sorted(set(parties)):
        if party not in known:
            values = {"case_id": case_id, "party": party, "part": part, "until": until_ms}
            tx.connection.execute(sa.insert(tables.audience).values(values))
            _note(tx, "create", case_id, party, part, until_ms)
            continue
        later = None if None in (known[party], until_ms) else max(known[party], until_ms)
        if later != known[party]:
            _set(tx, case_id, party, part, later)


def admit_members(tx: Transaction, case: Case) -> None:
    """Lets the recipients of the report see their part of the case."""
    for party, part in members(case).items():
        admit(tx, case.id, {party}, part=part)


def admit_clinicians(tx: Transaction, case: Case, opener: str, zone: str) -> None:
    """Lets the recipients of the report, and the system that asked for the opinion, see that zone of the case.

    Never the patient, who must not read an unsigned finding: not by the system through which a patient asked either.
    """
    asked = {opener} if case.requester is not None else set()
    admit(tx, zone, {*members(case), *asked})


def take_away(tx: Transaction, case_id: str, parties: Iterable[str], *, part: str = "") -> None:
    """Takes the case from these parties' view, at once; with `part` only their entries of that part."""
    audience = tables.audience.c
    gone = sa.delete(tables.audience).where(audience.case_id == case_id, audience.party.in_(sorted(set(parties))))
    if part:
        gone = gone.where(audience.part == part)
    for row in tx.connection.execute(gone.returning(audience.party, audience.part, audience.until)).all():
        _note(tx, "delete", case_id, row.party, row.part, row.until)


def dismiss(tx: Transaction, case: Case, identifiers: Iterable[str]) -> None:
    """A reviewer goes, at once: sees no draft any more, and of the case what it sees as a recipient, if it is one."""
    gone = set(identifiers)
    for case_id in (case.id, draft_case(case.id), urgent_zone(case.id), preliminary_zone(case.id)):
        take_away(tx, case_id, gone)
    for party, part in members(case).items():
        if party in gone:
            admit(tx, case.id, {party}, part=part)
            admit(tx, urgent_zone(case.id), {party})


def end_review(tx: Transaction, case: Case, identifiers: Iterable[str], now_ms: int) -> None:
    """The report is signed: its reviewer sees the case for so many days more, or as long as a recipient does."""
    until = now_ms + REVIEWER_DAYS * _DAY_MS
    standing = members(case)
    for party in sorted(set(identifiers)):
        if standing.get(party) != RECORD:
            _set(tx, case.id, party, RECORD, until)
        if party not in standing:
            _set(tx, urgent_zone(case.id), party, RECORD, until)
        _set(tx, draft_case(case.id), party, RECORD, until)


def _of(case_id: str, part: str) -> sa.ColumnElement[bool]:
    return sa.and_(tables.audience.c.case_id == case_id, tables.audience.c.part == part)


def _set(tx: Transaction, case_id: str, party: str, part: str, until_ms: int | None) -> None:
    ends = sa.update(tables.audience).where(_of(case_id, part), tables.audience.c.party == party)
    if tx.connection.execute(ends.values(until=until_ms)).rowcount:
        _note(tx, "update", case_id, party, part, until_ms)


def _note(tx: Transaction, interaction: str, case_id: str, party: str, part: str, until_ms: int | None) -> None:
    """For the audit: it is written with what it tells of."""
    told = case_id.partition("#")[2] or part
    tx.admissions.append(Admission(interaction, case_id, party, told, until_ms))
