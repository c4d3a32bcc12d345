"""Operations that find and ask a reviewer: the directory, who of it fits, how independent, asked, reassigned."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fhir_secondop.model import Caller, Operation, Resource, Result
from fhir_secondop.opinion.case import reference
from fhir_secondop.service import candidates, directory, matching, review
from fhir_secondop.service.context import Context
from fhir_secondop.service.operations.review import DECLARATION
from fhir_secondop.service.operations.shapes import REASON, TEXT, Handler, Plain, obj, summary, telling

_MOST = 20  # asked at once: each sees the record
_SHOWN = ("Patient", "Coverage", "Task", "Practitioner", "PractitionerRole", "Organization", "HealthcareService")


def rows(context: Context) -> list[Operation]:
    """The rows."""
    tell = partial(telling, context)
    provider = _reviewer_schema()
    whom = {
        "candidates": {"type": "array", "items": TEXT, "minItems": 1, "maxItems": _MOST,
                       "description": "of the directory, as $match-reviewer names them"},
        "reviewer": provider,
        "answerBy": {**TEXT, "description": "a date or an instant; without an answer by then the request ends"},
    }  # fmt: skip
    return [
        Operation("load-directory", "", "Makes the directory of reviewers what this Bundle says.",
                  _load(context), raw=True),
        Operation("match-reviewer", "ServiceRequest", "Who of the directory fits, by each criterion with the fact.",
                  tell(matching.match), reads=True, shows=_SHOWN),
        Operation("independence", "ServiceRequest", "How independent a reviewer is, with the facts.",
                  _independence(context), obj(["reviewer"], reviewer=provider, declaration=DECLARATION)),
        Operation("ask-reviewer", "ServiceRequest", "Asks one or several; each sees the case from then on.",
                  _asking(context, candidates.ask), obj([], **whom)),
        Operation("reassign", "ServiceRequest", "Takes the case from its reviewer; may ask the next at once.",
                  _asking(context, candidates.reassign), obj(["reason"], reason=REASON, text=TEXT, **whom)),
    ]  # fmt: skip


def _reviewer_schema() -> Plain:
    request = review.schema("second-opinion-request")
    provider = request["properties"]["providers"]["additionalProperties"]
    organization = request["properties"]["organizations"]["additionalProperties"]
    return {**provider, "properties": {**provider["properties"], "organization": organization}}


def _load(context: Context) -> Handler:
    def handler(caller: Caller, _: str, sent: Plain) -> Result:
        return Result(dict(directory.replace(context, caller, sent.get("resource", {"resourceType": ""}))))

    return handler


def _independence(context: Context) -> Handler:
    def handler(caller: Caller, case_id: str, plain: Plain) -> Result:
        found = review.independence_of(context, caller, case_id, plain)
        rows = [{"result": f.result, "fact": f.fact, "about": f.about} for f in found.findings]
        return Result({"result": found.result, "findings": rows})

    return handler


def _asking(context: Context, act: Callable[[Context, Caller, str, Plain], list[Resource]]) -> Handler:
    """One Task is answered as the Task; several as a list of what each is."""

    def handler(caller: Caller, case_id: str, plain: Plain) -> Result:
        tasks = act(context, caller, case_id, plain)
        if len(tasks) == 1:
            return Result(summary(tasks[0]), tasks[0], location=reference(tasks[0]))
        listed = [{**summary(task), "owner": task["owner"]["reference"]} for task in tasks]
        return Result({"tasks": listed})

    return handler
