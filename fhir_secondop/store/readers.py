"""What kind of reader asks: a Visibility without its values.

A statement is built once for all readers of a kind (store.plans, store.compartments); to build one takes SQLAlchemy
longer than SQLite needs to answer it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from fhir_secondop.model import Visibility


def bound(name: str, type_: Any = None) -> Any:
    """A bound parameter in place of a value."""
    # Not required: a list of values in the same statement is written out before these have theirs.
    return sa.bindparam(name, type_=type_, required=False)


@dataclass(frozen=True, slots=True)
class Reader:
    """What kind of reader: a Visibility without its values."""

    everything: bool
    parties: int
    narrowed: tuple[tuple[str, tuple[str, ...]], ...]
    unsearchable: frozenset[tuple[str, str]]

    def visibility(self) -> Visibility:
        """Such a reader's, with bound parameters in place of its values."""
        parties: Any = frozenset(bound(f"party{n}", sa.Text) for n in range(self.parties))
        owner: Any = bound("owner", sa.Text)
        at_ms: Any = bound("at_ms", sa.BigInteger)
        return Visibility(
            self.everything, owner, parties, at_ms, narrowed=self.narrowed, unsearchable=self.unsearchable
        )


def reader_of(visibility: Visibility) -> tuple[Reader, dict[str, Any]]:
    """Of which kind this reader is, and its values by their names."""
    values: dict[str, Any] = {}
    if not visibility.everything:
        values |= {f"party{n}": each for n, each in enumerate(sorted(visibility.parties))}
        values |= {"owner": visibility.owner, "at_ms": visibility.at_ms}
    reader = Reader(
        visibility.everything, len(visibility.parties), visibility.narrowed, visibility.unsearchable
    )  # fmt: skip
    return reader, values
