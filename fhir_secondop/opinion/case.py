"""The case as FHIR resources: what we add to a request, and how its parts are found again.

`Case` is the resources of one case, as values; it decides nothing about storing or sending.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

from fhir_secondop.errors import NotFound
from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes, workflow
from fhir_secondop.opinion.compose import compose
from fhir_secondop.opinion.people import Directory, Person

PLATFORM = {"display": "Second opinion platform"}


def derived_id(case_id: str, *parts: str | int) -> str:
    """The UUID (v5) that this role of a case always has: sending again names the same thing."""
    return str(uuid.uuid5(uuid.UUID(case_id), "/".join(map(str, parts))))


def reference(resource: Resource) -> str:
    """ "Type/id"."""
    return f"{resource['resourceType']}/{resource['id']}"


def versioned(resource: Resource) -> str:
    """ "Type/id/_history/version" of a resource as it was read."""
    return f"{reference(resource)}/_history/{resource['meta']['versionId']}"


def profile(name: str) -> Resource:
    """The meta of a resource of ours: the profile that it claims, and is validated against when it is stored."""
    return {"profile": [codes.extension(name)]}


UNSIGNED = ("registered", "preliminary")
"""The states of a DiagnosticReport that nobody has signed."""


@dataclass(frozen=True, slots=True)
class Member:
    """One provider of the audience, under each role that it has."""

    person: Person
    roles: tuple[str, ...]  # of: requester, pcp, decision-owner, author, care-team

    @property
    def role(self) -> str:
        """The roles for people: "requester, PCP"."""
        return ", ".join("PCP" if role == "pcp" else role.replace("-", " ") for role in self.roles)


class Case:
    """The resources of one case, looked up by what they are to it."""

    def __init__(self, case_id: str, resources: Iterable[Resource]) -> None:
        self.id = case_id
        self.resources = list(resources)
        self.directory = Directory(self.resources)

    def of_type(self, *types: str) -> Iterator[Resource]:
        """The resources of these types, oldest first."""
        return (r for r in self.resources if r["resourceType"] in types)

    @cached_property
    def request(self) -> Resource:
        """The ServiceRequest that the case stands for."""
        return self.one("ServiceRequest", self.id)

    @cached_property
    def patient(self) -> Resource:
        """The Patient of the request: the case's own copy."""
        found = self.directory.resource(self.request["subject"]["reference"])
        if found is None:
            raise NotFound("The case has no patient.")
        return found

    @property
    def coordination(self) -> Resource:
        """The current coordination Task: the newest one."""
        tasks = [t for t in self.of_type("Task") if workflow.is_coordination(t)]
        if not tasks:
            raise NotFound("The case has no coordination Task.")
        return tasks[-1]

    @property
    def reviewer(self) -> Person | None:
        """Who has accepted the case in its current round."""
        return self.directory.person(self.coordination.get("owner", {}).get("reference", ""))

    @property
    def encounter(self) -> Resource:
        """The consultation Encounter."""
        return self.one("Encounter", derived_id(self.id, "encounter"))

    @property
    def report(self) -> Resource | None:
        """The signed DiagnosticReport; None before the first signature."""
        found = self.find("DiagnosticReport", derived_id(self.id, "report"))
        return found if found is not None and found["status"] not in UNSIGNED else None

    @property
    def preliminary(self) -> Resource | None:
        """The DiagnosticReport that is shown before it is signed; None when there is none."""
        found = self.find("DiagnosticReport", derived_id(self.id, "report"))
        return found if found is not None and found["status"] in UNSIGNED else None

    @property
    def reviews(self) -> list[Resource]:
        """The Tasks of the reviewers who were asked."""
        return [t for t in self.of_type("Task") if workflow.is_review(t)]

    @property
    def deliveries(self) -> list[Resource]:
        """The delivery Tasks, oldest first."""
        return [t for t in self.of_type("Task") if workflow.is_delivery(t)]

    def tasks_of(self, code: str) -> list[Resource]:
        """The Tasks with that code of our task code system."""
        return [t for t in self.of_type("Task") if codes.has(t.get("code"), codes.TASK, code)]

    @property
    def items(self) -> list[Resource]:
        """What is under review, in the sender's order where it says one, else diagnoses before plans."""
        ordered = [v for v in codes.extension_values(self.request, codes.ITEM_UNDER_REVIEW) if isinstance(v, dict)]
        listed = [*self.request.get("reasonReference", []), *self.request.get("supportingInfo", [])]
        kinds = ("Condition", "CarePlan", "MedicationRequest", "ServiceRequest")
        found: dict[str, Resource] = {}
        for wanted in [*ordered, *listed]:
            item = self.directory.resource(wanted.get("reference", ""))
            if item is not None and item["resourceType"] in kinds:
                found.setdefault(reference(item), item)
        return list(found.values())

    @property
    def questions(self) -> list[str]:
        """All questions in order: those of the request, then those asked after the report was signed."""
        return [*self.first_questions, *(_text(one) for one in self.follow_ups)]

    @property
    def follow_ups(self) -> list[Resource]:
        """The questions asked after the report was signed, a QuestionnaireResponse each, in order."""
        by_id = {r["id"]: r for r in self.of_type("QuestionnaireResponse")}
        numbered = (by_id.get(derived_id(self.id, "follow-up", number)) for number in range(1, len(by_id) + 1))
        return list(takewhile(bool, numbered))  # type: ignore[arg-type]  # no None is left

    @property
    def first_questions(self) -> list[str]:
        """The questions of the request: every string answered in the QuestionnaireResponses sent along."""
        found = [self.directory.resource(s.get("reference", "")) for s in self.request.get("supportingInfo", [])]
        return [
            text
            for r in found
            if r is not None and r["resourceType"] == "QuestionnaireResponse"
            for text in _answers(r.get("item", []))
        ]

    @property
    def authors(self) -> list[Person]:
        """Who made the diagnoses and plans under review."""
        people: list[Person] = []
        for item in self.items:
            people += [person for person in self.authors_of(item) if person not in people]
        return people

    def authors_of(self, item: Resource) -> list[Person]:
        """Everyone named as having made one item: who recorded, asserted, wrote or ordered it."""
        named = [item[e] for e in ("recorder", "asserter", "author", "requester") if isinstance(item.get(e), dict)]
        people = [self.directory.person(one.get("reference", "")) for one in named]
        return [person for person in people if person is not None]

    @property
    def decision_owner(self) -> Person | None:
        """Who decides on the plan."""
        value = codes.extension_value(self.request, codes.DECISION_OWNER)
        return self.directory.person(value.get("reference", "")) if isinstance(value, dict) else None

    @property
    def pcps(self) -> list[Person]:
        """The primary care providers named by the Patient."""
        people = [self.directory.person(g.get("reference", "")) for g in self.patient.get("generalPractitioner", [])]
        return [p for p in people if p is not None]

    @property
    def requester(self) -> Person | None:
        """The professional who asked; None when the patient did."""
        return self.directory.person(self.request.get("requester", {}).get("reference", ""))

    @property
    def sources(self) -> list[str]:
        """References to the Organizations whose EHRs hold the record."""
        return [
            value["reference"]
            for value in codes.extension_values(self.request, codes.RECORD_SOURCE)
            if isinstance(value, dict)
        ]

    @property
    def audience(self) -> list[Member]:
        """Everyone who gets the report: requester, PCP, decision owner, authors, and whom intake ticked."""
        roles: dict[str, list[str]] = {}
        people: dict[str, Person] = {}

        def put(person: Person | None, role: str) -> None:
            if person is not None:
                people.setdefault(person.key, person)
                if role not in roles.setdefault(person.key, []):
                    roles[person.key].append(role)

        put(self.requester, "requester")
        for pcp in self.pcps:
            put(pcp, "pcp")
        put(self.decision_owner, "decision-owner")
        for author in self.authors:
            put(author, "author")
        for value in codes.extension_values(self.request, codes.INFORM):
            if isinstance(value, dict):
                put(self.directory.person(value.get("reference", "")), "care-team")
        return [Member(person, tuple(roles[key])) for key, person in people.items()]

    def member(self, reference_or_key: str) -> Member:
        """The member of the audience with that reference, key or identifier. Raises NotFound."""
        for member in self.audience:
            person = member.person
            names = {person.key, person.reference, person.practitioner, *person.identifiers}
            if reference_or_key in names or any(i.endswith(f"|{reference_or_key}") for i in person.identifiers):
                return member
        raise NotFound("Nobody of that name is in this case's audience.")

    def find(self, kind: str, resource_id: str) -> Resource | None:
        """The resource of the case with that id."""
        return next((r for r in self.of_type(kind) if r["id"] == resource_id), None)

    def one(self, kind: str, resource_id: str) -> Resource:
        """The resource of the case with that id. Raises NotFound."""
        found = self.find(kind, resource_id)
        if found is None:
            raise NotFound(f"The case has no {kind}/{resource_id}.")
        return found


def _text(question: Resource) -> str:
    return next(_answers(question["item"]))


def _answers(items: list[Resource]) -> Iterator[str]:
    for item in items:
        for answer in item.get("answer", []):
            if "valueString" in answer:
                yield answer["valueString"]
            yield from _answers(answer.get("item", []))
        yield from _answers(item.get("item", []))


def opened(request: Resource, case_id: str, patient: str, now: str, reviewer: str = "") -> list[Resource]:
    """What opening a case adds: the coordination Task, the Encounter, and the Task of a reviewer already named.

    `request` is the ServiceRequest as sent (it becomes ServiceRequest/`case_id`); `patient` the Patient's reference,
    which may still be a urn:uuid of the same transaction.
    """
    focus = {"reference": f"ServiceRequest/{case_id}"}
    requester = request.get("requester", {})
    # Self-referral: the patient may ask, but the platform's organization is who the Task is from (DOMAIN section 1).
    from_patient = requester.get("reference", "") == patient
    task = compose(
        "Task",
        id=derived_id(case_id, "coordination", 1),
        meta=profile("coordination-task"),
        identifier=[filler(case_id)],
        status="requested",
        intent="order",
        priority=request.get("priority"),
        code=codes.concept(codes.TASK_CODE, "fulfill"),
        businessStatus=codes.concept(codes.BUSINESS_STATUS, "records-requested"),
        focus=focus,
        for_={"reference": patient},
        authoredOn=now,
        lastModified=now,
        requester=PLATFORM if from_patient else requester,
        restriction=_restriction(request),
    )
    encounter = compose(
        "Encounter",
        meta=profile("consultation-encounter"),
        id=derived_id(case_id, "encounter"),
        status="planned",
        # R4: class is a Coding, not a CodeableConcept. VR: no visit, or a video one.
        class_=codes.coding(codes.ACT_CODE, "VR", "virtual"),
        subject={"reference": patient},
        basedOn=[focus],
        type=[
            {
                "coding": [
                    codes.coding(codes.SNOMED, "11429006", "Consultation"),
                    codes.coding(codes.ENCOUNTER_TYPE, "record-review"),
                ]
            }
        ],
    )
    return [task, encounter, *([review_task(case_id, task, reviewer, now)] if reviewer else [])]


def filler(case_id: str) -> Resource:
    """Our own number of the case: FILL, beside the placer's PLAC."""
    return {
        "type": codes.concept(codes.V2_IDENTIFIER_TYPE, "FILL"),
        "system": f"{codes.CANONICAL}/case",
        "value": case_id,
    }


def _restriction(request: Resource) -> Resource | None:
    deadline = codes.extension_value(request, codes.DECISION_DEADLINE)
    return {"period": {"end": deadline}} if deadline else None


def review_task(
    case_id: str, coordination: Resource, reviewer: str, now: str, *, until: str = "", number: int = 1
) -> Resource:
    """The Task of a reviewer who is asked: part of the coordination Task, owned by the candidate.

    `until` is the instant at which the time to answer is over; `number` counts how often that one was asked.
    """
    parts = ("review", reviewer, coordination["id"], *([number] if number > 1 else []))
    return compose(
        "Task",
        meta=profile("review-task"),
        id=derived_id(case_id, *parts),
        partOf=[{"reference": reference(coordination)}],
        status="requested",
        intent="order",
        code=codes.concept(codes.TASK_CODE, "fulfill"),
        focus=coordination["focus"],
        authoredOn=now,
        lastModified=now,
        for_=coordination["for"],
        requester=PLATFORM,
        owner={"reference": reviewer},
        restriction={"period": {"end": until}} if until else None,
    )
