"""Log lines as JSON: one object a line, for programs that collect them.

Which request or workflow a line belongs to stands in it, and which trace; a case does not: the request's id leads to
it in the audit, for who may look there. Of an error its kind and its place in the program are said, not its text, which
may quote what was handled.
"""

from __future__ import annotations

import json
import logging
import traceback
from types import TracebackType

from fhir_secondop import tracing
from fhir_secondop.fhir import times
from fhir_secondop.store.audit import origin

FORMATS = ("text", "json")
_WORKFLOW = "workflow "


def formatter(form: str) -> logging.Formatter:
    """How lines are written: of FORMATS."""
    return JsonLines() if form == "json" else logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")


class JsonLines(logging.Formatter):
    """A JSON object for each record."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        said: dict[str, object] = {
            "time": times.instant(int(record.created * 1000)),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        access = origin.current()
        if access is not None and access.request:
            said["request"] = access.request
        if access is not None and access.route.startswith(_WORKFLOW):
            said["workflow"] = access.route.removeprefix(_WORKFLOW)
        trace = tracing.trace_id()
        if trace:
            said["trace"] = trace
        if record.exc_info and record.exc_info[0] is not None:
            said["error"] = record.exc_info[0].__name__
            said["at"] = _places(record.exc_info[2])
        return json.dumps(said, ensure_ascii=False)


def _places(found: TracebackType | None) -> list[str]:
    """Where it was raised, innermost last."""
    return [f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in traceback.extract_tb(found)]
