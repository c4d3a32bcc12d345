"""The operation that asks the patient's payer."""

from __future__ import annotations

from functools import partial

from fhir_secondop.model import Operation
from fhir_secondop.service import coverage
from fhir_secondop.service.context import Context
from fhir_secondop.service.operations.shapes import telling


def rows(context: Context) -> list[Operation]:
    """The row."""
    tell = partial(telling, context)
    return [
        Operation("check-coverage", "ServiceRequest", "Asks the patient's payers whether the opinion is covered.",
                  tell(coverage.check, 202)),
    ]  # fmt: skip
