"""Gathers the record: a Task and a workflow per source, each step repeatable, the manifest at the end.

Pages are stored as they came (Binary) before anything is made of them; a killed worker goes on after the last type
that it finished.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable

from sqlalchemy.engine import Connection as SqlConnection

from fhir_secondop.access import consent
from fhir_secondop.ehr import pull
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.errors import Conflict, Invalid, NotFound
from fhir_secondop.fhir import codec, times
from fhir_secondop.model import EVERYTHING, Answer, Caller, Page, Resource
from fhir_secondop.opinion import checklist, codes, records, workflow
from fhir_secondop.opinion.case import PLATFORM, Case, derived_id, profile, reference
from fhir_secondop.opinion.compose import compose
from fhir_secondop.opinion.people import identifiers
from fhir_secondop.opinion.provenance import provenance
from fhir_secondop.service.context import SERVICE, SOURCE, Context, case_of_task, load, put
from fhir_secondop.store import resources
from fhir_secondop.store.database import Transaction

WORKFLOW = "gather"
MAX_ATTEMPTS = 10  # with the pauses between them about half an hour
LONGEST_PAUSE_S = 300.0
_ENDED = ("completed", "failed", "rejected", "cancelled")


def start(tx: Transaction, context: Context, case: Case, sources: Iterable[str]) -> list[str]:
    """A Task and a workflow for each source (a reference to an Organization of the case); the Tasks' ids."""
    started = []
    now = context.instant()
    for source in sources:
        organization = case.directory.resource(source)
        if organization is None or organization["resourceType"] != "Organization":
            raise NotFound(f"{source} is not an Organization of this case.")
        connection = next(
            (c for c in map(context.connection_of, sorted(identifiers(organization))) if c is not None), None
        )
        task_id = derived_id(case.id, "gather", source)
        before = next((t for t in case.tasks_of("gather-records") if t["id"] == task_id), None)
        if before is not None and before["status"] not in _ENDED:
            started.append(task_id)
            continue
        round_ = 1
        if before is not None:
            round_ = 1 + sum(1 for t in case.tasks_of("gather-records") if _source(t) == source)
            task_id = derived_id(case.id, "gather", source, round_)
        task = compose(
            "Task",
            meta=profile("gather-task"),
            id=task_id,
            partOf=[{"reference": reference(case.coordination)}],
            status="requested",
            intent="order",
            code=codes.concept(codes.TASK, "gather-records"),
            focus={"reference": reference(case.request)},
            for_={"reference": reference(case.patient)},
            authoredOn=now,
            lastModified=now,
            requester=PLATFORM,
            owner={"reference": source, "display": organization.get("name", "")},
            input=[
                {
                    "type": codes.concept(codes.EVIDENCE, "connection"),
                    "valueString": connection.name if connection else "none",
                }
            ],
        )
        put(tx, context, case.id, task)
        enqueue(tx, context, task)
        started.append(task_id)
    return started


def enqueue(tx: Transaction, context: Context, task: Resource) -> None:
    """The workflow of a gathering Task; one that is there already stays the only one."""
    context.enqueue(tx, WORKFLOW, f"gather-{task['id']}", connection_name(task), task["id"])


def _source(task: Resource) -> str:
    return str(task.get("owner", {}).get("reference", ""))


def connection_name(task: Resource) -> str:
    """The connection that a gathering Task reads from, or "none"."""
    return next(
        (i["valueString"] for i in task.get("input", []) if codes.has(i["type"], codes.EVIDENCE, "connection")), "none"
    )


def begin(context: Context, task_id: str) -> list[str]:
    """Step 1: consent, who the patient is there, what can be asked.

    Answers ["ended"] when the Task has ended (now or before), else the patient's id there and the page that said so,
    followed by "Type parameter" for each type.
    """
    with context.database.reading() as connection:
        case_id, stored = case_of_task(connection, EVERYTHING, task_id)
        case = load(connection, EVERYTHING, case_id)
    task = stored.resource
    if task["status"] in _ENDED:
        return ["ended"]
    name = connection_name(task)
    if name == "none":
        return _end(context, case, task, "No connection to this organization is configured; ask it another way.")
    decision = consent.decide(
        case.of_type("Consent"), context.consent_policy, frozenset({_source(task)}), context.now()
    )
    if not decision.permitted:
        return _end(context, case, task, f"Not asked: {decision.because}.", reason="consent-withheld")
    client = context.client(name)
    settings = context.connections[name]
    known = [
        (i["system"], i["value"])
        for i in case.patient.get("identifier", [])
        if i.get("system") == settings.patient_system and "value" in i
    ]
    try:
        match = pull.find_patient(client, known, case.patient.get("birthDate", ""))
        asked = [f"{kind} {parameter}" for kind, parameter in pull.plan(client.capability)]
    except EhrFailure as failure:
        if failure.retryable:
            raise
        return _end(context, case, task, f"The EHR refused: {failure.kind}.")
    if match.page is None:
        return _end(context, case, task, f"The patient was not matched: {match.because}.")
    with context.database.transaction(SERVICE) as tx:
        task = resources.read(tx.connection, EVERYTHING, "Task", task_id).resource
        if task["status"] in _ENDED:  # ended meanwhile, by a person
            return ["ended"]
        page = _store_page(tx, context, case_id, name, derived_id(task_id, "page", "Patient", 0), match.page)
        put(tx, context, case_id, _advanced(task, "in-progress", context.instant()))
    return [match.id, page, *asked]


def _advanced(task: Resource, status: str, now: str, *, text: str = "", reason: str = "") -> Resource:
    """The Task moved on, through accepted where it must pass it."""
    if task["status"] == "requested":
        task = workflow.moved(task, "accepted", now)
    if task["status"] == status:
        return task
    return workflow.moved(task, status, now, reason=reason, reason_text=text)


def _end(
    context: Context, case: Case, task: Resource, why: str, *, reason: str = "", outcome: str = "not-asked"
) -> list[str]:
    """Ends a Task that can't be done: the source stands in the manifest with nothing, and why."""
    gathered = records.Gathered((), (Answer("*", outcome, detail=why),))
    with context.database.transaction(SERVICE) as tx:
        put(tx, context, case.id, _package(context, case, task, gathered))
        put(tx, context, case.id, _advanced(task, "failed", context.instant(), text=why, reason=reason))
        _settle(tx, context, case.id)
    return ["ended"]


def _store_page(tx: Transaction, context: Context, case_id: str, name: str, page_id: str, page: Page) -> str:
    """A page as a Binary, its bytes unchanged; its id."""
    binary = compose(
        "Binary",
        id=page_id,
        meta={"source": page.url.partition("?")[0]},
        contentType=page.content_type.partition(";")[0] or "application/octet-stream",
        data=base64.b64encode(page.body).decode(),
    )
    put(tx, context, case_id, binary, owner=SOURCE + name)
    return page_id


def fetch(context: Context, task_id: str, asked: str, patient_id: str) -> list[str]:
    """Step 2, once a type: asks and stores the pages. Answers outcome, asked, received, detail, then page ids."""
    kind, _, parameter = asked.partition(" ")
    with context.database.reading() as connection:
        case_id, stored = case_of_task(connection, EVERYTHING, task_id)
    name = connection_name(stored.resource)
    pages, answer = pull.fetch(context.client(name), kind, parameter, patient_id)
    ids = []
    if pages:
        with context.database.transaction(SERVICE) as tx:
            for number, page in enumerate(pages):
                page_id = derived_id(task_id, "page", kind, number)
                ids.append(_store_page(tx, context, case_id, name, page_id, page))
    return [answer.outcome, answer.asked, str(answer.received), answer.detail, *ids]


def fetch_cited(context: Context, task_id: str, page_ids: list[str]) -> list[str]:
    """Step 3: reads what the pages cite, people and files. Answers the number unresolved, then page ids."""
    with context.database.reading() as connection:
        case_id, stored = case_of_task(connection, EVERYTHING, task_id)
        texts = [text for text, _ in _texts(connection, page_ids)]
    name = connection_name(stored.resource)
    client = context.client(name)
    read: dict[str, Page] = {}
    unresolved: set[str] = set()
    held = {_reference_of(text) for text in texts}
    wanted = pull.cited(texts, client.base)
    while wanted:
        found = []
        for cited in wanted:
            # Bounded, whatever the record cites; what is beyond counts as unresolved and is said.
            page = pull.read_cited(client, cited)[0] if len(read) < pull.MAX_CITED else None
            if page is None:
                unresolved.add(cited)
            else:
                read[cited] = page
                found.extend(pull.resource_texts(page))
        # A role cites its practitioner and its organisation.
        wanted = [c for c in pull.cited(found, client.base) if c not in {*read, *unresolved, *held}]
    ids = []
    with context.database.transaction(SERVICE) as tx:
        for cited, page in read.items():
            ids.append(_store_page(tx, context, case_id, name, derived_id(task_id, "page", cited), page))
    return [str(len(unresolved)), *ids]


def _reference_of(text: str) -> str:
    resource = codec.parse(text)
    return f"{resource['resourceType']}/{resource.get('id', '')}"


def _texts(connection: SqlConnection, page_ids: Iterable[str]) -> list[tuple[str, str]]:
    """(text of a resource, reference to its page) of stored pages."""
    found = []
    for page_id in page_ids:
        binary = resources.read(connection, EVERYTHING, "Binary", page_id).resource
        page = Page("", "", binary["contentType"], base64.b64decode(binary.get("data", "")))
        found += [(text, f"Binary/{page_id}") for text in pull.resource_texts(page)]
    return found


def merge(context: Context, task_id: str, patient_id: str, page_ids: list[str], answers: list[list[str]]) -> str:
    """Step 4, one transaction: the copies, the List with the manifest, Provenance, the Task's end.

    `answers` are rows of (type, outcome, asked, received, detail).
    """
    with context.database.reading() as connection:
        case_id, stored = case_of_task(connection, EVERYTHING, task_id)
        case = load(connection, EVERYTHING, case_id)
        texts = _texts(connection, page_ids)
    task = stored.resource
    if task["status"] in _ENDED:
        return task_id
    name = connection_name(task)
    base = context.client(name).base
    given = [Answer(kind, outcome, asked, int(received), detail=detail)
             for kind, outcome, asked, received, detail in answers]  # fmt: skip
    gathered = records.merge(case_id, name, base, patient_id, texts, given)
    with context.database.transaction(SERVICE) as tx:
        for copy in gathered.copies:
            kind = copy.resource["resourceType"]
            before = resources.find(tx.connection, EVERYTHING, kind, copy.id)
            if before is None:
                resources.create(
                    tx, copy.body, copy.resource, base_url=context.base_url, resource_id=copy.id, case_id=case_id,
                    owner=SOURCE + name,
                )  # fmt: skip
            else:
                resources.update(tx, before, copy.body, copy.resource, base_url=context.base_url)
        package = _package(context, case, task, gathered)
        put(tx, context, case_id, package)
        now = context.instant()
        targets = [f"{c.resource['resourceType']}/{c.id}" for c in gathered.copies] or [reference(package)]
        put(
            tx, context, case_id,
            provenance(
                derived_id(task_id, "provenance"), targets, now, activity="CREATE",
                author={"reference": _source(task)}, sources=[f"Binary/{page}" for page in page_ids],
            ),
        )  # fmt: skip
        done = {
            **task,
            "output": [
                {"type": codes.concept(codes.EVIDENCE, "package"), "valueReference": {"reference": reference(package)}}
            ],
        }
        put(tx, context, case_id, _advanced(done, "completed", now))
        _settle(tx, context, case_id)
    return task_id


def _package(context: Context, case: Case, task: Resource, gathered: records.Gathered) -> Resource:
    title = task.get("owner", {}).get("display") or connection_name(task)
    return records.package(case, _source(task), title, gathered, context.instant())


def _settle(tx: Transaction, context: Context, case_id: str) -> None:
    """When the last source has ended: says on the coordination Task whether the record is complete."""
    case = load(tx.connection, EVERYTHING, case_id, gathered=True)
    if any(t["status"] not in _ENDED for t in case.tasks_of("gather-records")):
        return
    task = case.coordination
    if workflow.business_status(task) not in ("records-requested", "records-incomplete", "records-complete"):
        return
    state = "records-incomplete" if missing(case) else "records-complete"
    changed = {
        **task,
        "businessStatus": codes.concept(codes.BUSINESS_STATUS, state),
        "lastModified": context.instant(),
    }
    put(tx, context, case_id, changed)


def items(case: Case) -> list[checklist.Item]:
    """The generic checklist over what was gathered. The case must have been loaded with the record."""
    return checklist.evaluate(checklist.load("generic"), records.gathered_resources(case), case.items)


def missing(case: Case) -> list[str]:
    """The codes of the checklist items that nobody sent."""
    return [item.code for item in items(case) if item.state == "missing"]


def is_over(case: Case) -> bool:
    """Whether every source has answered, or can't."""
    return all(t["status"] in _ENDED for t in case.tasks_of("gather-records"))


def again(context: Context, caller: Caller, case_id: str, sources: list[str]) -> list[str]:
    """Gathers again, from these Organizations or all; the ids of the Tasks to watch."""
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        if case.coordination["status"] in ("completed", "rejected", "failed", "cancelled"):
            raise Conflict("The case has ended; its record is not gathered again.")
        wanted = sources or case.sources
        if not wanted:
            raise Invalid("The case names no sources; give some.", path="sources")
        return start(tx, context, case, wanted)


def later(context: Context, task_id: str, number: int, why: str) -> str:
    """The EHR does not answer: tries again later, with growing pauses, or gives up and says so in the manifest."""
    with context.database.reading() as connection:
        case_id, stored = case_of_task(connection, EVERYTHING, task_id)
        case = load(connection, EVERYTHING, case_id)
    task = stored.resource
    if task["status"] in _ENDED:
        return "ended"
    if number >= MAX_ATTEMPTS:
        said = f"The EHR gave no answer in {number} attempts ({why}); gather again when it is back."
        _end(context, case, task, said, outcome="failed")
        return "given up"
    delay_s = min(LONGEST_PAUSE_S, 2.0**number)
    next_try = times.instant(context.now() + int(delay_s * 1000))
    said = f"No answer from the EHR yet ({why}); attempt {number + 1} at {next_try}."
    waiting = {**task, "statusReason": {"text": said}, "lastModified": context.instant()}
    with context.database.transaction(SERVICE) as tx:
        put(tx, context, case_id, waiting)
        key = f"gather-{task_id}-{number + 1}"
        context.enqueue(tx, WORKFLOW, key, connection_name(task), task_id, number + 1, delay_s=delay_s)
    return said


def fail(context: Context, task_id: str, why: str) -> None:
    """Ends a gathering that could not be done after every retry; the manifest names the gap."""
    with context.database.reading() as connection:
        case_id, stored = case_of_task(connection, EVERYTHING, task_id)
        case = load(connection, EVERYTHING, case_id)
    if stored.resource["status"] not in _ENDED:
        _end(context, case, stored.resource, why, outcome="failed")
