"""The cases that somebody may see, for a list, and how many of all there are: found by the index of the cases."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection as SqlConnection

from fhir_secondop.model import Caller
from fhir_secondop.opinion import progress
from fhir_secondop.opinion.case import Case
from fhir_secondop.opinion.clocks import Clocks
from fhir_secondop.service import case_states, cases, clocks
from fhir_secondop.service.context import Context
from fhir_secondop.store import case_states as rows
from fhir_secondop.store.case_states import Most, Wanted

NEEDING = 40
UNREADABLE = 20


@dataclass(frozen=True, slots=True)
class Listed:
    """A case on the list. `stage` is of progress.STAGES.

    `candidates` are the ids of its Tasks for which a person must say who the patient is.
    """

    case: Case
    stage: str
    clocks: Clocks
    candidates: frozenset[str]


@dataclass(frozen=True, slots=True)
class Overview:
    """A page of the cases of a caller, all of them in numbers, and those that wait for a person.

    `stages` and `needs` count at most `rows.MOST_COUNTED`; `needing` has some cases of each kind, the oldest first, and
    not many more than NEEDING together, of the gravest kinds. `unreadable` are ids, at most UNREADABLE.
    """

    page: Sequence[Listed]
    older: str
    stages: Mapping[str, int]
    needs: Mapping[str, int]
    needing: Sequence[Listed]
    unreadable: Sequence[str]


def listed(context: Context, caller: Caller, limit: int) -> list[Listed]:
    """The first of the cases that the caller may see: those that have not ended, the newest first, then the others."""
    case_states.follow(context)
    with context.database.reading() as connection:
        found = rows.find(connection, context.visibility(caller), Wanted(), limit)
        return list(_listed(connection, context, caller, found).values())


def newest(
    context: Context, connection: SqlConnection, caller: Caller, limit: int, before: str
) -> tuple[list[str], str]:
    """The newest cases that the caller may see, by the index as it is, and the `before` that goes on with older ones.

    With `before` (a case's id) only those that are older; "" is the end. Raises NotFound.
    """
    found = rows.newest(connection, context.visibility(caller), limit + 1, before)
    return found[:limit], found[limit - 1] if len(found) > limit else ""


def overview(
    context: Context, caller: Caller, kinds: Collection[str], wanted: Wanted, limit: int, of_a_kind: int
) -> Overview:  # fmt: skip
    """A list as it is shown, at most so many on its page; `older` is the `before` that goes on, or "".

    `kinds` are of progress.NEEDS, those that may be this caller's business; of each at most `of_a_kind` cases. A
    handful of queries however many cases there are.
    """
    case_states.follow(context)
    visibility, most = context.visibility(caller), Most(limit + 1, of_a_kind, UNREADABLE)
    with context.database.reading() as connection:
        mine = [kind for kind in progress.NEEDS if kind in kinds]
        found = rows.overview(connection, visibility, wanted, most, list(progress.STAGES), mine)
        page = found.wanted[:limit]
        needing: dict[str, None] = {}
        for ids in found.needing.values():
            if len(needing) < NEEDING:
                needing.update(dict.fromkeys(ids))
        read = _listed(connection, context, caller, list(dict.fromkeys([*page, *needing])))
    older = page[-1] if len(found.wanted) > limit else ""
    return Overview([read[i] for i in page], older, found.stages, found.needs, [read[i] for i in needing],
                    found.unreadable)  # fmt: skip


def _listed(connection: SqlConnection, context: Context, caller: Caller, ids: Sequence[str]) -> dict[str, Listed]:
    found = cases.read(connection, context.visibility(caller), ids)
    running = clocks.of_cases(connection, context, found)
    waiting = cases.with_candidates(connection, context, found)
    return {
        case.id: Listed(case, progress.stage(case), running[case.id], waiting.get(case.id, frozenset()))
        for case in found
    }
