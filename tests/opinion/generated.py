"""Reports from a seed: cases, drafts and records of every shape that a report may have, in names of many scripts.

The same seed gives the same report in every run.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from fhir_secondop.model import Answer, Resource
from fhir_secondop.opinion import (
    blinding,
    checklist,
    codes,
    conflicts,
    document,
    facts,
    follow_up,
    independence,
    records,
    report,
    sections,
)
from fhir_secondop.opinion.case import Case, reference
from fhir_secondop.opinion.independence import Assessment, Finding
from tests.opinion import cases

NAMES = {
    "Latin": ("Łukasiewicz Nguyễn", "Þórdís"), "Greek": ("Παπαδοπούλου", "Ελένη"), "Cyrillic": ("Їжаківна", "Ђорђе"),
    "Hebrew": ("כהן", "שרה"), "Arabic": ("العلي", "محمد"), "Chinese": ("陳", "小明 嘉玲"),
    "Japanese": ("髙橋", "さくら"),
    "Korean": ("김", "민준"), "Thai": ("ใจดี", "สมชาย"), "Armenian": ("Նարեկացի", "Աննա"),
    "Georgian": ("გიორგაძე", "ნინო"), "Ethiopic": ("ሰላም", "አበበ"),
}  # fmt: skip
WORDS = (
    "stenosis", "margin", "receptor", "biopsy", "without", "mild", "HbA1c", "7.3", "%", "58", "mm2", "L4-L5",
    "(T2N0M0)", "grade-I", "Grüße", "naïve", "œdème", "Λ-chain", "ψ", "β-blocker", "пациент", "2026-09-02", "“quoted”",
    "#hash", "*star*", "<b>", "&", "$x$", "_under_", "@ref", "C:\\new", "~", "a/b,", "don't", "mg/dL",
)  # fmt: skip
SENTENCES = {
    "Hebrew": "אין עדות לגרורות", "Arabic": "لا يوجد دليل على النقائل", "Chinese": "没有转移的证据",
    "Japanese": "転移の証拠はない",
    "Korean": "전이의 증거는 없다", "Thai": "ไม่มีหลักฐาน",
}  # fmt: skip


RIGHT_TO_LEFT = ("Hebrew", "Arabic")


@dataclass(frozen=True, slots=True)
class Generated:
    """A report of a seed: its facts, and the resources that carry it."""

    said: facts.Facts
    bundle: Resource
    report: Resource


class _Dice:
    """What chance decides. A seed is short, ordinary or very long all through, as reports are."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.script = list(NAMES)[seed % len(NAMES)]
        self.length = ("short", "ordinary", "long")[seed % 3]

    def often(self) -> bool:
        return self.random.random() < 0.6

    def name(self) -> dict[str, Any]:
        family, given = NAMES[self.script if self.often() else self.random.choice(list(NAMES))]
        return {"family": family, "given": given.split()}

    def words(self, most: int) -> str:
        count = 1 if self.length == "short" else self.random.randint(2, most if self.length == "ordinary" else 8 * most)
        said = [self.random.choice(WORDS) for _ in range(count)]
        if self.script in SENTENCES and self.script not in RIGHT_TO_LEFT and self.often():
            said.append(SENTENCES[self.script])
        return "X" + " ".join(said)

    def text(self, most: int = 60) -> str:
        count = 1 if self.length == "short" else self.random.randint(1, 3)
        # Prose in one of these stands in paragraphs of its own; names in them stand anywhere.
        own = [SENTENCES[self.script]] if self.script in RIGHT_TO_LEFT and self.often() else []
        return "\n\n".join([*(self.words(most) for _ in range(count)), *own])

    def some(self, most: int) -> range:
        return range(0 if self.length == "short" else self.random.randint(0, most))


def generate(seed: int) -> Generated:
    """The report of a seed."""
    dice = _Dice(seed)
    case = _case(dice)
    status = ("final", "amended", "corrected", "appended", "entered-in-error")[seed % 5]
    if status == "appended":
        asked = follow_up.resource(case, dice.words(20), {"reference": reference(case.patient)}, cases.NOW)
        case = Case(case.id, [*case.resources, asked])
    draft = _draft(dice, case)
    version = 1 if status == "final" else dice.random.randint(2, 9)
    before = None
    if version > 1:
        replaced = [{"url": codes.REPORT_VERSION, "valuePositiveInt": version - 1}]
        before = {"issued": "2026-11-20T10:00:00.000Z", "extension": replaced}
    stated = _stated(dice)
    how: dict[str, Any] = {"status": status, "version": version, "reviewer": cases.person_ref("the-reviewer")}
    said = facts.of_report(
        case, draft, **how, issued=cases.NOW, items=_missing(dice), stated=stated, before=before,
        reason=dice.words(10) if before else "",
    )  # fmt: skip
    said |= {"conflicts": [_conflict(dice) for _ in dice.some(2)]}
    said |= {"notices": [records.PART2_NOTICE] if seed % 7 == 0 else []}
    composed = report.to_fhir(
        case, draft, **how, now=cases.NOW, stated=stated, extra=sections.of_facts(said),
        replaces=f"DiagnosticReport/x/_history/{version - 1}" if before else "",
    )  # fmt: skip
    person = case.directory.person(how["reviewer"])
    assert person is not None
    made = document.bundle(case, composed, person, version, cases.NOW, "https://secondop.example/fhir")
    return Generated(said, cases.stored(made), cases.stored(composed[-1]))


def _case(dice: _Dice) -> Case:
    example = dice.random.choice(cases.EXAMPLES)
    plain = cases.with_reviewer(cases.request_of(example), example)
    plain["patient"] = {**plain["patient"], **dice.name()}
    plain["providers"] = {key: {**provider, **dice.name()} for key, provider in plain["providers"].items()}
    for organization in plain["organizations"].values():
        organization["name"] = f"{organization['name']} {dice.name()['family']}"
    plain["underReview"] = [{**item, "text": dice.words(25)} for item in plain["underReview"]]
    plain["questions"] = [dice.words(20) for _ in dice.some(4)]
    if plain.get("decision") and dice.often():
        plain["decision"] = {**plain["decision"], "text": dice.words(20)}
    else:
        plain.pop("decision", None)
    plain["reasons"] = [
        {"code": code, **({"text": dice.words(30)} if dice.often() else {})}
        for code in dice.random.sample(codes.REASONS, dice.random.randint(1, 3))
    ]
    case = cases.case_of(example, plain=plain)
    return Case(case.id, [*_blind(dice, case), *_packages(dice, case)])


def _blind(dice: _Dice, case: Case) -> list[Resource]:
    """The case's resources with or without a blind first read, locked or opened early."""
    state = dice.random.choice([None, blinding.OPENED, blinding.LOCKED])
    if state is None:
        return list(case.resources)
    reason = dice.words(10) if state == blinding.OPENED else ""
    coordination = blinding.stated(case.coordination, blinding.Blindness(state, cases.NOW, reason))
    reads = [
        {
            "resourceType": "ClinicalImpression", "id": blinding.first_read_id(case, number), "date": cases.NOW,
            "summary": dice.words(30), "note": [{"text": dice.words(10)}],
            **({"finding": [{"itemCodeableConcept": {"text": dice.words(5)}}]} if dice.often() else {}),
            **({"description": dice.words(5)} if number else {}),
        }
        for number in range(dice.random.randint(1, 2) if state == blinding.LOCKED else 0)
    ]  # fmt: skip
    return [*(coordination if r["id"] == coordination["id"] else r for r in case.resources), *reads]


def _packages(dice: _Dice, case: Case) -> list[Resource]:
    answers = (
        Answer("Condition", "answered", "Condition?patient=", 3), Answer("Observation", "truncated", "x", 20),
        Answer("ImagingStudy", "not-offered"), Answer("DocumentReference", "refused"),
        Answer("Condition", "answered", "Condition?patient=", 2, 4),
    )  # fmt: skip
    return [
        records.package(
            case, f"source-{number}", f"{dice.words(8)} {dice.name()['family']}",
            records.Gathered({}, tuple(dice.random.sample(answers, dice.random.randint(0, 4)))),
            f"2026-11-2{number}T08:00:00.000Z",
        )
        for number in dice.some(3)
    ]  # fmt: skip


def _draft(dice: _Dice, case: Case) -> report.Draft:
    places = [(n, axis) for n in range(len(case.items)) for axis in ("diagnosis", "treatment")]
    chosen = sorted(dice.random.sample(places, dice.random.randint(1, len(places))))
    draft: report.Draft = {"conclusion": dice.text(80), "items": [_item(dice, *place) for place in chosen]}
    draft["answers"] = [
        {"question": number, "text" if dice.often() else "cannotAnswer": dice.text(40)}
        for number in range(len(case.questions))
    ]
    draft["options"] = [
        {
            "text": dice.words(20), "preference": dice.random.choice(codes.OPTION_PREFERENCES),
            **{name: dice.words(30) for name in report.OPTION_PARTS if dice.often()},
        }
        for _ in dice.some(4)
    ]  # fmt: skip
    draft["recommendations"] = [
        {
            "text": dice.words(30),
            **({"strength": dice.random.choice(["strong", "conditional"])} if dice.often() else {}),
            **({"kind": dice.random.choice(["test", "plan", "information"])} if dice.often() else {}),
        }
        for _ in dice.some(6)
    ]
    return {**draft, **{name: dice.text() for name, _, _ in report.PROSE if dice.often()}}


def _item(dice: _Dice, place: int, axis: str) -> dict[str, Any]:
    known = codes.DIAGNOSIS_CODES if axis == "diagnosis" else codes.TREATMENT_CODES
    item: dict[str, Any] = {"item": place, "axis": axis, "concordance": dice.random.choice(known)}
    if dice.often():
        item["significance"] = dice.random.choice(codes.SIGNIFICANCES)
    if dice.often():
        item["confidence"] = dice.random.choice(["low", "moderate", "high"])
    item |= {name: dice.words(40) for name in ("basis", "wouldChange") if dice.often()}
    if dice.often():
        item["proposed"] = {"text": dice.words(12)}
    if item["concordance"] == "indeterminate":
        item["missing"] = dice.words(8)
    return item


def _stated(dice: _Dice) -> Resource:
    findings = [
        Finding(dice.random.choice(["fail", "unknown", "warn", "pass"]), dice.words(6)) for _ in range(2)
    ]  # fmt: skip
    found = Assessment(tuple(findings))
    return independence.extension(
        found, attestation=dice.words(10) if found.result == "unknown" or dice.often() else "",
        override=dice.words(10) if found.result == "fail" or dice.often() else "",
    )  # fmt: skip


def _missing(dice: _Dice) -> list[checklist.Item]:
    states = ("missing", "stale", "withheld", "requested", "present")
    return [checklist.Item(f"i{n}", dice.words(5), dice.random.choice(states)) for n in dice.some(5)]


def _conflict(dice: _Dice) -> facts.Facts:
    return {
        "kind": dice.random.choice(list(conflicts.WORDS.values())),
        "about": dice.words(4),
        "sides": [
            {"source": f"Source {place}", "text": dice.words(6), "date": "2026-09-01" if dice.often() else ""}
            for place in range(2)
        ],
    }
