"""From which request or workflow a transaction comes: known here, because the store knows neither."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from fhir_secondop.store.audit.rows import Access

_current: ContextVar[Access | None] = ContextVar("secondop_audit_origin", default=None)


def current() -> Access | None:
    """The request (or workflow step) that this thread works for."""
    return _current.get()


def begin(access: Access | None) -> None:
    """From now on this thread works for that request; for none with None."""
    _current.set(access)


@contextmanager
def workflow(step: str) -> Iterator[None]:
    """What is written inside comes from this step of a workflow."""
    token = _current.set(Access(route=f"workflow {step}"))
    try:
        yield
    finally:
        _current.reset(token)
