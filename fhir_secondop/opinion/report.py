"""The report as FHIR: the reviewer's draft ↔ DiagnosticReport, Observations, answers, proposals, Composition.

`to_fhir` and `from_fhir` are each other's inverse, so the draft needs no store of its own. A draft of an amendment
lives under ids of its own (`stage`) until it is signed; the signed version before it stays current meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fhir_secondop.errors import Invalid, Issue
from fhir_secondop.model import Resource
from fhir_secondop.opinion import codes, narrative
from fhir_secondop.opinion.case import Case, derived_id, filler, profile, reference
from fhir_secondop.opinion.compose import compose
from fhir_secondop.opinion.concordance import Judgement, overall

Draft = dict[str, Any]
"""What profiles/schemas/report-draft.json describes."""

UNWRITTEN = "(not written yet)"
"""What stands in the place of a draft's conclusion until there is one; it is never signed."""

PLAN_OF_CARE = codes.concept(codes.LOINC, "18776-5", "Plan of care note")
OPTION_PARTS = {"forWhom": "for-whom", "advantages": "advantages", "disadvantages": "disadvantages"}
"""What is said of an option: name in the draft → part of the extension."""
OPTION_LABELS = (("For whom", "forWhom"), ("For it", "advantages"), ("Against it", "disadvantages"))
"""The same in words, as every form of the report has it."""
_AXIS_CODE = {"diagnosis": "diagnosis-concordance", "treatment": "treatment-concordance"}
_AXIS_SYSTEM = {"diagnosis": codes.DIAGNOSIS_CONCORDANCE, "treatment": codes.TREATMENT_CONCORDANCE}
_WORDS = {"confidence": "confidence", "wouldChange": "would-change", "missing": "missing",
          "urgentContact": "urgent-contact"}  # fmt: skip
PROSE = (
    ("history", "History", codes.concept(codes.LOINC, "11348-0", "History of Past illness")),
    ("findings", "Findings", codes.concept(codes.LOINC, "30954-2", "Relevant diagnostic tests/laboratory data")),
    ("assessment", "Assessment", codes.concept(codes.LOINC, "51848-0", "Evaluation note")),
)
_STATUS_OF_COMPOSITION = {"registered": "preliminary", "preliminary": "preliminary", "final": "final",
                          "amended": "amended", "corrected": "amended", "appended": "amended",
                          "entered-in-error": "entered-in-error"}  # fmt: skip
_STATUS_OF_OBSERVATION = {"appended": "amended"}
CODE = {
    "coding": [
        codes.coding(codes.LOINC, "47040-1", "Consultation 2nd opinion"),
        codes.coding(codes.LOINC, "11488-4", "Consult note"),
    ],
    "text": "Second opinion",
}


def judgements(draft: Draft) -> list[Judgement]:
    """The judgements of a draft."""
    return [Judgement(i["axis"], i["concordance"], i.get("significance", "none")) for i in draft["items"]]


def check_draft(case: Case, draft: Draft) -> None:
    """Raises Invalid for each item or question that the case does not have, and for one that stands twice."""
    issues = []
    seen: set[tuple[Any, ...]] = set()
    for name, known, parts in (("items", case.items, ("item", "axis")), ("answers", case.questions, ("question",))):
        for place, entry in enumerate(draft.get(name, [])):
            key = (name, *(entry[part] for part in parts))
            if entry[parts[0]] >= len(known):
                issues.append(
                    Issue("error", "not-found", f"{name}[{place}].{parts[0]}", f"The case has {len(known)} of them.")
                )
            if key in seen:
                issues.append(Issue("error", "duplicate", f"{name}[{place}]", "It stands twice."))
            seen.add(key)
    if issues:
        raise Invalid(f"{len(issues)} fault(s) in the draft; nothing was stored.", issues=issues)


def check_showable(draft: Draft) -> None:
    """Raises Invalid unless there is a conclusion and a judgement: less says nothing to anybody."""
    issues = list(_unwritten(draft))
    if issues:
        raise Invalid(f"The draft can't be shown yet: {len(issues)} thing(s) to do.", issues=issues)


def _unwritten(draft: Draft) -> Iterator[Issue]:
    if not draft.get("conclusion"):
        yield Issue("error", "required", "conclusion", "Write the conclusion.")
    if overall(judgements(draft)) is None:
        yield Issue("error", "business-rule", "items", "Assess at least one axis of one item.")


def check_signable(
    case: Case, draft: Draft, missing: list[str], kind: str = "final", *, spoken: frozenset[str] = frozenset()
) -> None:
    """Raises Invalid with everything that stands between a draft and its signature.

    `missing` are the codes of the record's named gaps: the reviewer must say that it knows of each.
    Follow-up questions are answered by an addendum (`kind` appended); a correction or retraction never waits for them.
    What is critical is told at once and not by a report: each such item names its own urgent contact, and that is one
    of those that ended in a recorded conversation (`spoken`). A retraction waits for no call.
    """
    issues = list(_unwritten(draft))
    answered = {answer["question"] for answer in draft.get("answers", [])}
    for number, _ in enumerate(case.questions if kind == "appended" else case.first_questions):
        if number not in answered:
            issues.append(
                Issue("error", "required", f"answers[question={number}]",
                      f"Question {number + 1} has no answer; give one, or cannotAnswer with the reason.")
            )  # fmt: skip
    for place, item in enumerate(draft["items"]):
        if item["concordance"] == "indeterminate" and not item.get("missing"):
            issues.append(Issue("error", "required", f"items[{place}].missing", "Indeterminate: name what is missing."))
    preferred = [place for place, one in enumerate(draft.get("options", [])) if one["preference"] == "preferred"]
    for place in preferred[1:]:
        said = "Another option is preferred already; where either would do, both are acceptable."
        issues.append(Issue("error", "business-rule", f"options[{place}].preference", said))
    if kind != "entered-in-error":
        issues += _untold(draft, spoken)
    for code in missing:
        if code not in draft.get("gapsConfirmed", []):
            issues.append(
                Issue("error", "required", "gapsConfirmed", f"The record lacks {code}; confirm that you know.")
            )
    if issues:
        raise Invalid(f"The report can't be signed: {len(issues)} thing(s) to do.", issues=issues)


def _untold(draft: Draft, spoken: frozenset[str]) -> Iterator[Issue]:
    """A critical item without a conversation of its own; both axes of an item may have been told in one."""
    about: dict[str, int] = {}
    for place, item in enumerate(draft["items"]):
        if item.get("significance") != "critical":
            continue
        contact, path = item.get("urgentContact", ""), f"items[{place}].urgentContact"
        if contact not in spoken:
            said = ("Critical: have the clinician called with $raise-urgent, have the conversation recorded with "
                    "$record-call, and name that contact here; then sign.")  # fmt: skip
            yield Issue("error", "business-rule", path, said)
        elif about.setdefault(contact, item["item"]) != item["item"]:
            yield Issue("error", "business-rule", path, "That conversation was about another item; each has its own.")


def to_fhir(
    case: Case,
    draft: Draft,
    *,
    status: str,
    version: int,
    reviewer: str,
    now: str,
    stage: str = "",
    extra: tuple[Resource, ...] = (),
    presented: tuple[Resource, ...] = (),
    replaces: str = "",
    composition_version: str = "1",
    started: str = "",
    stated: Resource | None = None,
) -> list[Resource]:
    """The report's resources, dependent ones first; the last two are the Composition and the DiagnosticReport.

    `extra` are Composition sections in the order of reading: one with the code of a section that the draft alone makes
    takes its place, with its entries. `presented` are Attachments, `replaces` the versioned reference of the report
    before and `composition_version` the version of its Composition, `stated` the independence extension.
    """
    subject = {"reference": reference(case.patient)}
    base: Resource = {"subject": subject, "encounter": {"reference": reference(case.encounter)}}
    performer = [{"reference": reviewer}]
    request = [{"reference": reference(case.request)}]

    def named(*parts: str | int) -> str:
        return derived_id(case.id, *parts, *([stage] if stage else []))

    observations = [_observation(named, item, case, base, performer, request, status, now) for item in draft["items"]]
    total = overall(judgements(draft))
    if total is not None:
        observations.append(
            compose(
                "Observation", id=named("overall"),
                meta=profile("concordance-observation"), status=_STATUS_OF_OBSERVATION.get(status, status),
                identifier=[_identifier(case, "overall")],
                code=codes.concept(codes.SECTION, "overall-concordance", "Overall concordance"),
                basedOn=request, performer=performer, effectiveDateTime=now,
                valueCodeableConcept=codes.concept(codes.OVERALL_CONCORDANCE, total.code, text=total.text), **base,
            )
        )  # fmt: skip
    answers = _answers(named("answers"), case, draft, subject, reviewer, now) if draft.get("answers") else None
    proposals = _proposals(named("proposals"), draft, base, reviewer, now) if draft.get("recommendations") else None
    options = _options(named("options"), draft, base, reviewer, now) if draft.get("options") else None
    composition = _composition(
        named("composition"), case, draft, base, reviewer, now, status, observations, answers, options, proposals, extra
    )
    if replaces:
        earlier = f"Composition/{named('composition')}/_history/{composition_version}"
        composition["relatesTo"] = [{"code": "replaces", "targetReference": {"reference": earlier}}]
    extensions: list[Resource] = [{"url": codes.REPORT_VERSION, "valuePositiveInt": version}]
    if replaces:
        extensions.append({"url": codes.SUPERSEDES, "valueReference": {"reference": replaces}})
    if stated:
        extensions.append(stated)
    report = compose(
        "DiagnosticReport",
        id=named("report"),
        meta=profile("second-opinion-report"),
        extension=extensions,
        identifier=[_identifier(case, "report"), filler(case.id)],
        basedOn=request,
        status=status,
        category=[codes.concept(codes.V2_DIAGNOSTIC_SERVICE, "PHY", "Physician (Hx. Dx, admission note, etc.)")],
        code=CODE,
        effectiveDateTime=started or now,
        issued=now,
        performer=performer,
        resultsInterpreter=performer,
        result=[{"reference": reference(o)} for o in observations],
        conclusion=draft.get("conclusion") or UNWRITTEN,
        presentedForm=list(presented),
        **base,
    )
    return [r for r in (*observations, answers, options, proposals, composition, report) if r is not None]


def _identifier(case: Case, role: str) -> Resource:
    """The set id of a part of the report: the same for every version."""
    return {"system": f"{codes.CANONICAL}/set", "value": f"urn:uuid:{derived_id(case.id, 'set', role)}"}


def set_id(case: Case) -> str:
    """The set id of the report: the same over all versions."""
    return f"urn:uuid:{derived_id(case.id, 'set', 'report')}"


def _observation(
    named: Any, item: dict[str, Any], case: Case, base: Resource, performer: list[Resource], request: list[Resource],
    status: str, now: str,
) -> Resource:  # fmt: skip
    def component(code: str, **value: Any) -> Resource:
        return {"code": codes.concept(codes.SECTION, code), **value}

    components = []
    if "significance" in item:
        components.append(
            component("significance", valueCodeableConcept=codes.concept(codes.SIGNIFICANCE, item["significance"]))
        )
    for name, code in _WORDS.items():
        if name in item:
            components.append(component(code, valueString=item[name]))
    proposed = item.get("proposed", {})
    if proposed:
        coded = {"coding": [proposed["code"]]} if "code" in proposed else {}
        components.append(component("proposed", valueCodeableConcept={**coded, "text": proposed["text"]}))
    if "site" in proposed:
        components.append(component("proposed-site", valueCodeableConcept={"coding": [proposed["site"]]}))
    return compose(
        "Observation",
        id=named("concordance", item["item"], item["axis"]),
        meta=profile("concordance-observation"),
        identifier=[_identifier(case, f"concordance/{item['item']}/{item['axis']}")],
        basedOn=request,
        status=_STATUS_OF_OBSERVATION.get(status, status),
        code=codes.concept(codes.SECTION, _AXIS_CODE[item["axis"]]),
        focus=[{"reference": reference(case.items[item["item"]])}],
        effectiveDateTime=now,
        performer=performer,
        valueCodeableConcept=codes.concept(_AXIS_SYSTEM[item["axis"]], item["concordance"]),
        note=[{"text": item["basis"]}] if "basis" in item else None,
        component=components,
        **base,
    )


def _answers(answer_id: str, case: Case, draft: Draft, subject: Resource, reviewer: str, now: str) -> Resource:
    items = []
    for answer in sorted(draft["answers"], key=lambda a: a["question"]):
        number = answer["question"]
        cannot = "cannotAnswer" in answer
        items.append(
            {
                "linkId": f"{'cannot-' if cannot else ''}answer-{number + 1}",
                "text": case.questions[number],
                "answer": [{"valueString": answer["cannotAnswer"] if cannot else answer["text"]}],
            }
        )
    return compose(
        "QuestionnaireResponse", id=answer_id, status="completed", subject=subject, authored=now,
        author={"reference": reviewer}, item=items,
    )  # fmt: skip


def _options(plan_id: str, draft: Draft, base: Resource, reviewer: str, now: str) -> Resource:
    """What was weighed: a CarePlan of intent option, among whose activities one may be chosen."""
    return compose(
        "CarePlan", id=plan_id, status="draft", intent="option", title="Options weighed in the second opinion",
        created=now, author={"reference": reviewer}, activity=[_option(one) for one in draft["options"]], **base,
    )  # fmt: skip


def _option(option: dict[str, str]) -> Resource:
    parts = [{"url": url, "valueString": option[name]} for name, url in OPTION_PARTS.items() if name in option]
    return {
        **({"extension": [{"url": codes.OPTION, "extension": parts}]} if parts else {}),
        "detail": {
            "status": "not-started",
            "code": codes.concept(codes.OPTION_PREFERENCE, option["preference"]),
            "description": option["text"],
        },
    }


def _proposals(plan_id: str, draft: Draft, base: Resource, reviewer: str, now: str) -> Resource:
    """The recommendations: a CarePlan of intent proposal, never an order."""
    activities = []
    for recommendation in draft["recommendations"]:
        code: Resource = {"coding": []}
        if "kind" in recommendation:
            code["coding"].append(codes.coding(codes.system("recommendation"), recommendation["kind"]))
        if "strength" in recommendation:
            code["coding"].append(codes.coding(codes.system("strength"), recommendation["strength"]))
        activities.append(
            {
                "detail": {
                    "status": "not-started",
                    **({"code": code} if code["coding"] else {}),
                    "description": recommendation["text"],
                }
            }
        )
    return compose(
        "CarePlan", id=plan_id, status="draft", intent="proposal", title="Recommendations of the second opinion",
        created=now, author={"reference": reviewer}, activity=activities, **base,
    )  # fmt: skip


def _composition(
    composition_id: str, case: Case, draft: Draft, base: Resource, reviewer: str, now: str, status: str,
    observations: list[Resource], answers: Resource | None, options: Resource | None, proposals: Resource | None,
    extra: tuple[Resource, ...],
) -> Resource:  # fmt: skip
    conclusion = narrative.div(draft.get("conclusion") or UNWRITTEN)
    sections = [
        narrative.section("Conclusion", codes.concept(codes.SECTION, "conclusion"), conclusion),
        narrative.section(
            "Concordance", codes.concept(codes.SECTION, "concordance"),
            narrative.bullets([f"{i['axis']}: {i['concordance']}" for i in draft["items"]] or ["(nothing judged yet)"]),
            map(reference, observations),
        ),
    ]  # fmt: skip
    if answers is not None:
        lines = [f"{i['text']} {i['answer'][0]['valueString']}" for i in answers["item"]]
        sections.append(
            narrative.section("Questions and answers", codes.concept(codes.SECTION, "questions-and-answers"),
                              narrative.bullets(lines), [reference(answers)])
        )  # fmt: skip
    for title, section_code, plan in (
        ("Options", codes.concept(codes.SECTION, "options"), options),
        ("Recommendations", PLAN_OF_CARE, proposals),
    ):
        if plan is not None:
            lines = [a["detail"]["description"] for a in plan["activity"]]
            sections.append(narrative.section(title, section_code, narrative.bullets(lines), [reference(plan)]))
    sections += [
        narrative.section(title, code, narrative.div(draft[name])) for name, title, code in PROSE if name in draft
    ]
    if draft.get("gapsConfirmed"):
        sections.append(
            narrative.section("Gaps known to the reviewer", codes.concept(codes.SECTION, "gaps-confirmed"),
                              narrative.bullets(draft["gapsConfirmed"]))
        )  # fmt: skip
    return compose(
        "Composition",
        id=composition_id,
        meta=profile("second-opinion-composition"),
        identifier=_identifier(case, "report"),
        status=_STATUS_OF_COMPOSITION[status],
        type=CODE,
        date=now,
        author=[{"reference": reviewer}],
        title="Second opinion",
        section=_in_order(sections, extra),
        **base,
    )


def _in_order(of_draft: list[Resource], extra: tuple[Resource, ...]) -> list[Resource]:
    left = {section["code"]["coding"][0]["code"]: section for section in of_draft}
    told = [{**left.pop(section["code"]["coding"][0]["code"], {}), **section} for section in extra]
    return [*told, *left.values()]


def from_fhir(case: Case, stage: str = "") -> Draft:
    """The draft that these resources say. Raises NotFound when there is none at that stage."""

    def named(*parts: str | int) -> str:
        return derived_id(case.id, *parts, *([stage] if stage else []))

    by_id = {r["id"]: r for r in case.resources}
    report = case.one("DiagnosticReport", named("report"))
    written = {} if report["conclusion"] == UNWRITTEN else {"conclusion": report["conclusion"]}
    draft: Draft = {**written, "items": [], "answers": []}
    for place, _ in enumerate(case.items):
        for axis in _AXIS_CODE:
            observation = by_id.get(named("concordance", place, axis))
            if observation is not None and any(
                r.get("reference") == reference(observation) for r in report.get("result", [])
            ):
                draft["items"].append(_item(place, axis, observation))
    answers = by_id.get(named("answers"))
    if answers is not None and answers["status"] == "completed":
        for item in answers["item"]:
            kind, _, number = item["linkId"].rpartition("answer-")
            name = "cannotAnswer" if kind == "cannot-" else "text"
            draft["answers"].append({"question": int(number) - 1, name: item["answer"][0]["valueString"]})
    options = by_id.get(named("options"))
    if options is not None and options["status"] == "draft":
        draft["options"] = [_weighed(activity) for activity in options["activity"]]
    proposals = by_id.get(named("proposals"))
    if proposals is not None and proposals["status"] == "draft":
        draft["recommendations"] = [_recommendation(a["detail"]) for a in proposals["activity"]]
    composition = by_id[named("composition")]
    for section in composition["section"]:
        for name, _, code in PROSE:
            if codes.has(section["code"], codes.LOINC, code["coding"][0]["code"]):
                draft[name] = narrative.text(section["text"]["div"])
        if codes.has(section["code"], codes.SECTION, "gaps-confirmed"):
            draft["gapsConfirmed"] = narrative.text(section["text"]["div"]).split()
    return draft


def _item(place: int, axis: str, observation: Resource) -> dict[str, Any]:
    item: dict[str, Any] = {
        "item": place,
        "axis": axis,
        "concordance": codes.code_of(observation["valueCodeableConcept"], _AXIS_SYSTEM[axis]),
    }
    if "note" in observation:
        item["basis"] = observation["note"][0]["text"]
    names = {code: name for name, code in _WORDS.items()}
    for component in observation.get("component", []):
        code = codes.code_of(component["code"], codes.SECTION) or ""
        if code == "significance":
            item["significance"] = codes.code_of(component["valueCodeableConcept"], codes.SIGNIFICANCE)
        elif code in names:
            item[names[code]] = component["valueString"]
        elif code == "proposed":
            value = component["valueCodeableConcept"]
            coded = {"code": value["coding"][0]} if "coding" in value else {}
            item["proposed"] = {"text": value["text"], **coded}
        elif code == "proposed-site":
            item["proposed"]["site"] = component["valueCodeableConcept"]["coding"][0]
    return item


def _weighed(activity: Resource) -> dict[str, Any]:
    detail = activity["detail"]
    said = {part["url"]: part["valueString"] for whole in activity.get("extension", []) for part in whole["extension"]}
    return {
        "text": detail["description"],
        "preference": codes.code_of(detail["code"], codes.OPTION_PREFERENCE),
        **{name: said[url] for name, url in OPTION_PARTS.items() if url in said},
    }


def _recommendation(detail: Resource) -> dict[str, Any]:
    result = {"text": detail["description"]}
    for name, system in (("strength", "strength"), ("kind", "recommendation")):
        code = codes.code_of(detail.get("code"), codes.system(system))
        if code is not None:
            result[name] = code
    return result


def version_of(report: Resource) -> int:
    """The version of a signed report, or of the draft that will be it."""
    value = codes.extension_value(report, codes.REPORT_VERSION)
    return value if isinstance(value, int) else 0
