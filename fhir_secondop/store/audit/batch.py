"""The audit rows of one database transaction, whoever shares it: in the chain once it is committed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fhir_secondop.store.database import Transaction


class Batch(Protocol):
    """What a transaction of the database has of the audit's."""

    def add(self, transaction: Transaction) -> None:
        """Records what somebody wrote, as the last thing that it does in the transaction."""

    def ended(self, *, committed: bool) -> None:
        """The transaction is over; called once, by whoever ends it."""
