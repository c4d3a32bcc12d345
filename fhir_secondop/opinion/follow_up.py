"""Questions asked after the report was signed: each is answered by an addendum."""

from __future__ import annotations

from dataclasses import dataclass

from fhir_secondop.model import Resource
from fhir_secondop.opinion.case import Case, derived_id, reference
from fhir_secondop.opinion.compose import compose
from fhir_secondop.opinion.report import version_of


@dataclass(frozen=True, slots=True)
class FollowUp:
    """One question. `number` counts from 1; `answered` is the version of the report that first answers, 0 of none."""

    number: int
    text: str
    asked: str
    by: str
    answered: int


def resource(case: Case, text: str, author: Resource, now: str) -> Resource:
    """The next follow-up question of the case, stored as the questions of a request are."""
    number = len(case.follow_ups) + 1
    return compose(
        "QuestionnaireResponse",
        id=derived_id(case.id, "follow-up", number),
        basedOn=[{"reference": reference(case.request)}],
        status="completed",
        subject={"reference": reference(case.patient)},
        authored=now,
        author=author,
        item=[{"linkId": f"follow-up-{number}", "text": f"Follow-up question {number}",
               "answer": [{"valueString": text}]}],
    )  # fmt: skip


def of_case(case: Case) -> list[FollowUp]:
    """The follow-up questions in order. Of a case loaded whole: what answers them is read from the documents."""
    before = len(case.first_questions)
    return [
        FollowUp(n, case.questions[before + n - 1], one["authored"], one["author"].get("display", ""),
                 _answered_in(case, before + n))
        for n, one in enumerate(case.follow_ups, 1)
    ]  # fmt: skip


def open_count(case: Case) -> int:
    """How many follow-up questions wait for an addendum; a report that was retracted answers none any more."""
    if case.report is None or case.report["status"] == "entered-in-error":
        return 0
    current = case.find("QuestionnaireResponse", derived_id(case.id, "answers"))
    before = len(case.first_questions)
    numbers = range(before + 1, before + 1 + len(case.follow_ups))
    return sum(not _answers(current, number) for number in numbers)


def _answered_in(case: Case, number: int) -> int:
    for version in range(1, 1 + (version_of(case.report) if case.report else 0)):
        document = case.find("Bundle", derived_id(case.id, "bundle", version)) or {}
        if any(_answers(entry["resource"], number) for entry in document.get("entry", [])):
            return version
    return 0


def _answers(found: Resource | None, number: int) -> bool:
    if found is None or found["resourceType"] != "QuestionnaireResponse" or found["status"] != "completed":
        return False
    return any(item["linkId"] in (f"answer-{number}", f"cannot-answer-{number}") for item in found["item"])
