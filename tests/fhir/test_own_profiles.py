"""Our own profiles and code systems: each invariant with an example that holds and one that fails for it alone."""

from __future__ import annotations

import ast
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fhir_secondop.fhir import definitions, path
from fhir_secondop.fhir.validate import validate
from fhir_secondop.opinion import checklist, codes, concordance, independence, proposals, records

ROOT = Path(__file__).parents[2]
PROFILES = ROOT / "profiles"
FILES = sorted(
    file
    for folder in ("codesystems", "valuesets", "structures", "conceptmaps")
    for file in (PROFILES / folder).glob("*.json")
)
Json = dict[str, Any]

BASE = "https://clinic.example/fhir"
NOW, LATER = "2026-11-20T10:00:00.000Z", "2026-11-20T12:00:00.000Z"
REVIEWER = {"reference": "PractitionerRole/reviewer"}
BEFORE = {"url": codes.SUPERSEDES, "valueReference": {"reference": "DiagnosticReport/1/_history/2"}}
TEXT = {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml"><p>x</p></div>'}
REPORT_CODE = codes.concept(codes.LOINC, "47040-1")


def independent(result: str = "pass", **more: str) -> Json:
    parts = [{"url": "result", "valueCode": result}, {"url": "finding", "valueString": f"{result}: a fact"}]
    return {
        "url": codes.INDEPENDENCE,
        "extension": parts + [{"url": url, "valueString": value} for url, value in more.items()],
    }


def blindness(state: str, **more: str) -> Json:
    parts = [{"url": "state", "valueCode": state}, {"url": "at", "valueInstant": NOW}]
    return {"url": codes.BLINDNESS, "extension": parts + [{"url": u, "valueString": v} for u, v in more.items()]}


def ended(outcome: str, **more: str) -> Json:
    parts = [{"url": "outcome", "valueCode": outcome}, {"url": "at", "valueInstant": NOW},
             {"url": "by", "valueString": "Dr. Example"}]  # fmt: skip
    parts += [{"url": url, "valueString": value} for url, value in more.items()]
    return {"url": codes.PROPOSAL_OUTCOME, "extension": parts}


def example(name: str) -> Json:
    """One of profiles/examples/, without the claim that it conforms."""
    resource: Json = json.loads((PROFILES / "examples" / f"{name}.json").read_text("utf-8"))
    return without(resource, "meta")


def without(resource: Json, *names: str) -> Json:
    return {name: value for name, value in resource.items() if name not in names}


VERSION = {"url": codes.REPORT_VERSION, "valuePositiveInt": 1}
REQUEST = example("second-opinion-request")
COORDINATION = example("coordination-task")
COMPLETED = example("coordination-task-completed")
REVIEW = example("review-task")
DELIVERY = example("delivery-task")
GATHERING = example("gather-task")
NOTICE = example("case-notice")
PROPOSAL = example("proposal")
ENCOUNTER = example("consultation-encounter")
REPORT = example("second-opinion-report")
AMENDED = example("second-opinion-report-corrected")
COMPOSITION = example("second-opinion-composition")
REPLACING = example("second-opinion-composition-amended")
DIAGNOSIS = example("concordance-observation")
OVERALL = example("concordance-observation-overall")
INDETERMINATE = example("concordance-observation-indeterminate")
CONDITION = example("condition")
DOCUMENT = example("second-opinion-document")


def document(**changed: Json) -> Json:
    """The document Bundle, some of its entries replaced: by type, in lower case."""
    types = {"observation": "Observation", "report": "DiagnosticReport", "composition": "Composition",
             "encounter": "Encounter", "condition": "Condition"}  # fmt: skip
    instead = {types[name]: resource for name, resource in changed.items()}
    entries = [instead.get(entry["resource"]["resourceType"], entry["resource"]) for entry in DOCUMENT["entry"]]
    found = [{"fullUrl": f"{BASE}/{each['resourceType']}/{each['id']}", "resource": each} for each in entries]
    return {**DOCUMENT, "entry": found}


def own_report(*extensions: Json, **elements: Any) -> Json:
    return {**REPORT, "extension": [VERSION, *extensions], **elements}


AS_AUTHOR = {**CONDITION, "recorder": REVIEWER}
NOT_ASSESSED = {**DIAGNOSIS, "valueCodeableConcept": codes.concept(codes.DIAGNOSIS_CONCORDANCE, "not-assessed")}
OF_ANOTHER = {**ENCOUNTER, "subject": {"reference": "Patient/2"}}


def claimed() -> Iterator[tuple[str, Json]]:
    """(profile, resource) of each of profiles/examples/ that claims one of ours."""
    for file in sorted((PROFILES / "examples").glob("*.json")):
        for url in json.loads(file.read_text("utf-8")).get("meta", {}).get("profile", ()):
            yield url.removeprefix(codes.extension("")), example(file.stem)


# Beside those of profiles/examples/: what holds though it looks as if it did not.
MORE: list[tuple[str, Json]] = [
    (
        "second-opinion-document",
        document(condition=AS_AUTHOR, report=own_report(independent("fail", override="nobody else knows this"))),
    ),
    # It names who made it, but is not under review.
    ("second-opinion-document", document(condition={**AS_AUTHOR, "id": "2"})),
    ("second-opinion-document", document(observation=NOT_ASSESSED, report={**REPORT, "status": "registered"})),
    (
        "second-opinion-document",
        document(report={**REPORT, "subject": {"reference": f"{BASE}/Patient/patient"}}),
    ),
    # The same moment, though as text it is later.
    (
        "second-opinion-document",
        document(encounter={**ENCOUNTER, "period": {"start": "2026-11-20T17:00:00+05:00", "end": LATER}}),
    ),
]
EXAMPLES: dict[str, list[Json]] = {}
for _profile, _resource in (*claimed(), *MORE):
    EXAMPLES.setdefault(_profile, []).append(_resource)

# key → profile, the example that holds, the one that fails for that reason only, the place
INVARIANTS: dict[str, tuple[str, Json, Json, str]] = {
    "so-task-1": ("coordination-task", COMPLETED, without(COMPLETED, "output"), "Task"),
    "so-task-2": (
        "coordination-task",
        {**COORDINATION, "status": "on-hold", "statusReason": {"text": "the office is closed"}},
        {**COORDINATION, "status": "on-hold"},
        "Task",
    ),
    "so-del-1": ("delivery-task", DELIVERY, {**DELIVERY, "focus": {"reference": "DiagnosticReport/1"}}, "Task"),
    "so-enc-1": ("consultation-encounter", ENCOUNTER, {**ENCOUNTER, "period": {"start": NOW}}, "Encounter"),
    "so-rep-1": ("second-opinion-report", REPORT, without(REPORT, "basedOn"), "DiagnosticReport"),
    "so-rep-2": ("second-opinion-report", AMENDED, {**REPORT, "status": "corrected"}, "DiagnosticReport"),
    "so-rep-3": ("second-opinion-report", REPORT, own_report(), "DiagnosticReport"),
    "so-pro-1": (
        "proposal",
        {**PROPOSAL, "extension": [ended("declined", reason="not fit for it")]},
        {**PROPOSAL, "extension": [ended("declined")]},
        "ServiceRequest.extension[0]",
    ),
    "so-bli-1": (
        "coordination-task",
        {**COORDINATION, "extension": [blindness("opened-early", reason="the patient bleeds")]},
        {**COORDINATION, "extension": [blindness("opened-early")]},
        "Task.extension[0]",
    ),
    "so-ind-1": (
        "second-opinion-report",
        own_report(independent("warn", attestation="barred")),
        own_report(independent("barred")),
        "DiagnosticReport.extension[1]",
    ),
    "so-ind-2": (
        "second-opinion-report",
        own_report(independent("fail", override="nobody else knows this")),
        own_report(independent("fail")),
        "DiagnosticReport.extension[1]",
    ),
    "so-ind-3": (
        "review-task",
        {**REVIEW, "extension": [independent("unknown", attestation="I know nobody there")]},
        {**REVIEW, "extension": [independent("unknown")]},
        "Task.extension[0]",
    ),
    "so-com-1": ("second-opinion-composition", REPLACING, {**COMPOSITION, "status": "amended"}, "Composition"),
    "so-con-1": (
        "concordance-observation",
        DIAGNOSIS,
        {**DIAGNOSIS, "valueCodeableConcept": codes.concept(codes.TREATMENT_CONCORDANCE, "agreed")},
        "Observation",
    ),
    "so-con-2": ("concordance-observation", OVERALL, without(DIAGNOSIS, "focus"), "Observation"),
    "so-con-3": ("concordance-observation", INDETERMINATE, without(INDETERMINATE, "component"), "Observation"),
    "so-doc-1": ("second-opinion-document", document(), document(observation=NOT_ASSESSED), "Bundle"),
    "so-doc-2": ("second-opinion-document", document(), document(encounter=OF_ANOTHER), "Bundle"),
    "so-doc-3": (
        "second-opinion-document",
        document(condition=AS_AUTHOR, report=own_report(independent("fail", override="nobody else knows this"))),
        document(condition=AS_AUTHOR),
        "Bundle",
    ),
    "so-doc-4": (
        "second-opinion-document",
        document(report={**REPORT, "issued": NOW}),
        document(report={**REPORT, "issued": "2026-11-20T09:59:59.999Z"}),
        "Bundle",
    ),
}

# What a profile refuses by counts, fixed values, types and bindings: (profile, resource, place)
REFUSED: dict[str, tuple[str, Json, str]] = {
    "request without code": ("second-opinion-request", without(REQUEST, "code", "orderDetail"), "ServiceRequest.code"),
    "request without reason": ("second-opinion-request", without(REQUEST, "reasonCode"), "ServiceRequest.reasonCode"),
    "request by nobody": ("second-opinion-request", without(REQUEST, "requester"), "ServiceRequest.requester"),
    "request of another intent": (
        "second-opinion-request",
        {**REQUEST, "intent": "reflex-order"},
        "ServiceRequest.intent",
    ),
    "reason that our system does not have": (
        "second-opinion-request",
        {**REQUEST, "reasonCode": [codes.concept(codes.REASON, "curiosity")]},
        "ServiceRequest.reasonCode[0].coding[0]",
    ),
    "pathway that our system does not have": (
        "second-opinion-request",
        {
            **REQUEST,
            "extension": [{"url": codes.PATHWAY_EXTENSION, "valueCodeableConcept": codes.concept(codes.PATHWAY, "x")}],
        },
        "ServiceRequest.extension[0].value",
    ),
    "source that is no organization": (
        "second-opinion-request",
        {**REQUEST, "extension": [{"url": codes.RECORD_SOURCE, "valueReference": {"reference": "Practitioner/1"}}]},
        "ServiceRequest.extension[0].value.reference",
    ),
    "coordination Task without our number": (
        "coordination-task",
        without(COORDINATION, "identifier"),
        "Task.identifier",
    ),
    "coordination Task that is part of another": (
        "coordination-task",
        {**COORDINATION, "partOf": [{"reference": "Task/2"}]},
        "Task.partOf",
    ),
    "status reason that our system does not have": (
        "coordination-task",
        {**COORDINATION, "status": "failed", "statusReason": codes.concept(codes.STATUS_REASON, "weather")},
        "Task.statusReason.coding[0]",
    ),
    "business status of a delivery on the case": (
        "coordination-task",
        {**COORDINATION, "businessStatus": codes.concept(codes.DELIVERY_STATUS, "verified")},
        "Task.businessStatus",
    ),
    "delivery of no version": ("delivery-task", without(DELIVERY, "input"), "Task.input"),
    "delivery that is none": (
        "delivery-task",
        {**DELIVERY, "code": codes.concept(codes.TASK, "gather-records")},
        "Task.code",
    ),
    "gathering from a person": ("gather-task", {**GATHERING, "owner": REVIEWER}, "Task.owner.reference"),
    "notice about something else": (
        "case-notice",
        {**NOTICE, "topic": codes.concept(codes.NOTICE, "weather")},
        "Communication.topic",
    ),
    "notice of nothing": ("case-notice", without(NOTICE, "payload"), "Communication.payload"),
    "consultation in hospital": (
        "consultation-encounter",
        {**ENCOUNTER, "class": codes.coding(codes.ACT_CODE, "IMP")},
        "Encounter.class",
    ),
    "proposal that is an order": ("proposal", {**PROPOSAL, "intent": "order"}, "ServiceRequest.intent"),
    "proposal without end": ("proposal", without(PROPOSAL, "occurrencePeriod"), "ServiceRequest.occurrence"),
    "report without version": (
        "second-opinion-report",
        {**REPORT, "extension": [independent()]},
        "DiagnosticReport.extension",
    ),
    "report that is no second opinion": (
        "second-opinion-report",
        {**REPORT, "code": codes.concept(codes.LOINC, "11488-4")},
        "DiagnosticReport.code",
    ),
    "composition without conclusion": (
        "second-opinion-composition",
        {**COMPOSITION, "section": COMPOSITION["section"][1:]},
        "Composition.section",
    ),
    "significance that our system does not have": (
        "concordance-observation",
        {
            **DIAGNOSIS,
            "component": [
                {
                    "code": codes.concept(codes.SECTION, "significance"),
                    "valueCodeableConcept": codes.concept(codes.SIGNIFICANCE, "huge"),
                }
            ],
        },
        "Observation.component[0].value",
    ),
    "document that is a collection": (
        "second-opinion-document",
        {**document(), "type": "collection"},
        "Bundle.type",
    ),
}


def faults(profile: str, resource: Json) -> list[tuple[str, str]]:
    """(place, key of the constraint or the code of the issue) against a profile of ours."""
    return [
        (issue.expression, issue.diagnostics.partition(":")[0] if issue.code == "invariant" else issue.code)
        for issue in validate(resource, profiles=[codes.extension(profile)])
    ]


def constraints() -> Iterator[tuple[str, Json, Json]]:
    """(name of the profile, its StructureDefinition, constraint)."""
    for definition in definitions.profiles().values():
        for element in definition["differential"]["element"]:
            for constraint in element.get("constraint", ()):
                yield definition["id"], dict(definition), constraint


def codes_of(system: str) -> list[str]:
    found = definitions.code_system(system)
    assert found is not None, system
    return [concept["code"] for concept in found["concept"]]


@pytest.mark.parametrize(
    ("profile", "resource"), [(name, each) for name, resources in EXAMPLES.items() for each in resources]
)
def test_example_conforms_to_its_profile(profile: str, resource: Json) -> None:
    assert faults(profile, resource) == []


@pytest.mark.parametrize("key", INVARIANTS)
def test_invariant_lets_its_example_through(key: str) -> None:
    profile, holds, _, _ = INVARIANTS[key]
    assert faults(profile, holds) == []


@pytest.mark.parametrize("key", INVARIANTS)
def test_invariant_is_the_only_fault_of_its_counterexample(key: str) -> None:
    profile, _, fails, place = INVARIANTS[key]
    assert faults(profile, fails) == [(place, key)]


@pytest.mark.parametrize("name", REFUSED)
def test_profile_refuses(name: str) -> None:
    profile, resource, place = REFUSED[name]
    assert [found for found, _ in faults(profile, resource)] == [place]


def test_every_constraint_has_a_pair_of_examples() -> None:
    assert {constraint["key"] for _, _, constraint in constraints()} == set(INVARIANTS)


def test_profile_claimed_in_meta_is_enforced_in_a_bundle_too() -> None:
    claimed = {**without(ENCOUNTER, "period"), "meta": {"profile": [codes.extension("consultation-encounter")]}}
    bundle = document(encounter=claimed)
    assert [(i.expression, i.diagnostics.partition(":")[0]) for i in validate(bundle)] == [
        ("Bundle.entry[2].resource", "so-enc-1")
    ]


@pytest.mark.parametrize(("target", "expected"), [("1/_history/2", []), ("1", [("DiagnosticReport", "so-rep-2")])])
@pytest.mark.parametrize("status", ["amended", "corrected", "appended"])
def test_next_version_cites_the_one_before_by_its_version(
    status: str, target: str, expected: list[tuple[str, str]]
) -> None:
    cited = {"url": codes.SUPERSEDES, "valueReference": {"reference": f"DiagnosticReport/{target}"}}
    report = {**REPORT, "status": status, "extension": [VERSION, cited, independent()]}
    assert faults("second-opinion-report", report) == expected


@pytest.mark.parametrize(
    ("profile", "definition", "constraint"), [pytest.param(*each, id=each[2]["key"]) for each in constraints()]
)
def test_constraint_gives_true_or_false_whatever_is_there(profile: str, definition: Json, constraint: Json) -> None:
    of_extension = definition["type"] == "Extension"
    users = {"case-task": "coordination-task", "independence": "review-task", "blindness": "coordination-task",
             "proposal-outcome": "proposal"}  # fmt: skip
    # It runs on what R4 finds sound, so a status is there.
    bare = {"resourceType": definition["type"], "status": "final"}
    for resource in (*EXAMPLES[users.get(profile, profile)], bare):
        if of_extension and "extension" not in resource:
            continue
        expression = f"extension.all({constraint['expression']})" if of_extension else constraint["expression"]
        assert path.evaluate(expression, resource) in ([True], [False])
    assert constraint["source"] == definition["url"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_shipped_definition_is_valid_and_stands_under_its_name(file: Path) -> None:
    resource = json.loads(file.read_text("utf-8"))
    assert validate(resource) == []
    assert resource["id"] == file.stem
    assert resource["url"] == f"{codes.CANONICAL}/{resource['resourceType']}/{file.stem}"
    assert resource.get("count", 0) == len(resource.get("concept", ()))


def test_every_definition_that_a_profile_names_is_there() -> None:
    for definition in definitions.profiles().values():
        named = [definition["baseDefinition"]]
        for element in definition["differential"]["element"]:
            for each in element.get("type", ()):
                named += [*each.get("profile", ()), *each.get("targetProfile", ())]
            if element.get("binding", {}).get("strength") == "required":
                assert definitions.value_set(element["binding"]["valueSet"]), element["id"]
        ours = [url for url in named if url.startswith(codes.CANONICAL)]
        assert [url for url in ours if definitions.profile(url) is None] == []


def test_differentials_name_only_elements_that_r4_has() -> None:
    for definition in definitions.profiles().values():
        for element in definition["differential"]["element"]:
            assert element["path"] == ".".join(part.partition(":")[0] for part in element["id"].split("."))
            type_name = definition["type"]
            for name in element["path"].split(".")[1:]:
                found = definitions.structure(type_name).elements[name.removesuffix("[x]")]
                type_name = found.types[0]


LISTED = {
    codes.REASON: codes.REASONS,
    codes.PATHWAY: codes.PATHWAYS,
    codes.DIAGNOSIS_CONCORDANCE: codes.DIAGNOSIS_CODES,
    codes.TREATMENT_CONCORDANCE: codes.TREATMENT_CODES,
    codes.SIGNIFICANCE: codes.SIGNIFICANCES,
    codes.DECISION: codes.DECISIONS,
    codes.OPTION_PREFERENCE: codes.OPTION_PREFERENCES,
    codes.STATUS_REASON: codes.STATUS_REASONS,
    codes.NOTICE: codes.NOTICES,
    codes.system("proposal-outcome"): proposals.OUTCOMES,
    codes.system("independence-result"): independence.ORDER,
}


@pytest.mark.parametrize("system", LISTED)
def test_code_system_has_exactly_the_codes_of_the_program(system: str) -> None:
    assert codes_of(system) == list(LISTED[system])


def test_overall_concordance_has_exactly_the_codes_that_can_be_derived() -> None:
    judgements = [
        concordance.Judgement(axis, code, significance)
        for axis, axis_codes in (("diagnosis", codes.DIAGNOSIS_CODES), ("treatment", codes.TREATMENT_CODES))
        for code in axis_codes
        for significance in codes.SIGNIFICANCES
    ]
    derived = {found.code for each in judgements if (found := concordance.overall([each]))}
    assert derived == set(codes_of(codes.OVERALL_CONCORDANCE))


def test_every_system_and_extension_that_the_program_names_is_defined() -> None:
    named = {value for value in vars(codes).values() if isinstance(value, str)} | {records.COVERAGE}
    systems = {url for url in named if url.startswith(f"{codes.CANONICAL}/CodeSystem/")}
    profiles = {url for url in named if url.startswith(f"{codes.CANONICAL}/StructureDefinition/")}
    assert [url for url in systems if definitions.code_system(url) is None] == []
    assert [url for url in profiles if definitions.profile(url) is None] == []
    shipped = {url for url, definition in definitions.profiles().items() if definition["type"] == "Extension"}
    assert shipped == profiles - {codes.REQUEST_PROFILE}


def test_schemas_allow_exactly_the_codes_of_the_code_systems() -> None:
    draft = json.loads((PROFILES / "schemas/report-draft.json").read_text("utf-8"))["properties"]
    request = json.loads((PROFILES / "schemas/second-opinion-request.json").read_text("utf-8"))["properties"]
    item, option, advice = (draft[name]["items"]["properties"] for name in ("items", "options", "recommendations"))
    axes = draft["items"]["items"]["allOf"][0]
    allowed = {
        codes.SIGNIFICANCE: item["significance"],
        codes.DIAGNOSIS_CONCORDANCE: axes["then"]["properties"]["concordance"],
        codes.TREATMENT_CONCORDANCE: axes["else"]["properties"]["concordance"],
        codes.OPTION_PREFERENCE: option["preference"],
        codes.system("strength"): advice["strength"],
        codes.system("recommendation"): advice["kind"],
        codes.REASON: request["reasons"]["items"]["properties"]["code"],
        codes.PATHWAY: request["pathway"],
    }
    for system, element in allowed.items():
        assert sorted(element["enum"]) == sorted(codes_of(system)), system


@pytest.mark.parametrize("name", [file.stem for file in sorted((PROFILES / "checklists").glob("*.json"))])
def test_items_of_a_checklist_are_codes_of_the_record_items(name: str) -> None:
    assert {item["code"] for item in checklist.load(name)["items"]} <= set(codes_of(codes.RECORD_ITEM))


def written() -> Iterator[tuple[str, str, str]]:
    """(file, system, code) wherever the program names a code of ours beside its system."""
    for file in sorted((ROOT / "fhir_secondop").rglob("*.py")):
        for call in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(call, ast.Call):
                for system, code in itertools.pairwise(call.args):
                    if isinstance(system, ast.Attribute) and isinstance(code, ast.Constant):
                        url = getattr(codes, system.attr, None) if _is_codes(system.value) else None
                        if isinstance(url, str) and url.startswith(codes.CANONICAL):
                            yield file.name, url, str(code.value)


def _is_codes(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "codes"


TAKES_EVIDENCE = ("with_evidence", "_record", "Receipt", "replace")


def facts() -> Iterator[tuple[str, str]]:
    """(file, key) of the dicts that a function hands on as evidence: in the call, or under a name given before."""
    parts = (path.name for path in (ROOT / "fhir_secondop/service/delivering").glob("*.py"))
    of_deliveries = ("service/delivery.py", *(f"service/delivering/{part}" for part in parts))
    for name in (*of_deliveries, "service/providers.py", "ehr/push.py"):
        tree = ast.parse((ROOT / "fhir_secondop" / name).read_text("utf-8"))
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            nodes = list(ast.walk(function))
            named = {
                target.id: node.value
                for node in nodes
                if isinstance(node, ast.Assign)
                for target in node.targets
                if isinstance(target, ast.Name)
            }
            for call in (n for n in nodes if isinstance(n, ast.Call)):
                if getattr(call.func, "attr", getattr(call.func, "id", "")) in TAKES_EVIDENCE:
                    for value in (*call.args[1:], *(k.value for k in call.keywords)):
                        found = named.get(value.id) if isinstance(value, ast.Name) else value
                        for key in found.keys if isinstance(found, ast.Dict) else ():
                            if isinstance(key, ast.Constant):
                                yield name, str(key.value)


def test_every_code_that_the_program_writes_is_in_its_code_system() -> None:
    found = list(written())
    assert len(found) > 15
    assert [each for each in found if each[2] not in codes_of(each[1])] == []


def test_every_fact_of_a_delivery_is_in_the_code_system_of_evidence() -> None:
    found = list(facts())
    assert {"sent", "ack", "sha256", "decision-at", "replays"} <= {key for _, key in found}
    assert [each for each in found if each[1] not in codes_of(codes.EVIDENCE)] == []


def test_concept_map_places_every_code_of_concordance() -> None:
    concept_map = json.loads((PROFILES / "conceptmaps/meyer-2015.json").read_text("utf-8"))
    assert [group["source"] for group in concept_map["group"]] == [
        codes.DIAGNOSIS_CONCORDANCE,
        codes.TREATMENT_CONCORDANCE,
    ]
    for group in concept_map["group"]:
        assert [element["code"] for element in group["element"]] == codes_of(group["source"])
        for target in (target for element in group["element"] for target in element["target"]):
            assert ("code" in target) == (target["equivalence"] != "unmatched")
            assert target.get("code", "changed") in codes_of(group["target"])
            assert target["equivalence"] == "equivalent" or target["comment"]


def test_the_snomed_code_of_a_follow_up_is_not_taken_for_a_second_opinion() -> None:
    # 281036007 means Follow-up consultation and is seen used for "second opinion".
    texts = (".json", ".py", ".md", ".toml", ".typ", ".html")
    for folder in ("profiles", "examples", "fhir_secondop"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in texts:
                assert "281036007" not in file.read_text("utf-8"), file


@pytest.mark.parametrize("profile", EXAMPLES)
def test_profile_costs_little(profile: str) -> None:
    limit_ms = 10.0 if profile == "second-opinion-document" else 2.0
    resource, urls = EXAMPLES[profile][0], [codes.extension(profile)]
    best = float("inf")
    for _ in range(30):
        begun = time.perf_counter()
        validate(resource, profiles=urls)
        best = min(best, time.perf_counter() - begun)
    assert best * 1000 < limit_ms
