"""Makes the three printed reports of docs/reports (short, typical, long), as PDF and as picture.

    python -m tools.make_reports

Everybody in them is invented. The pictures need Pillow; the PDF are what the program itself would print.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from fhir_secondop.model import Answer, Resource
from fhir_secondop.opinion import blinding, checklist, codes, facts, independence, records, render
from fhir_secondop.opinion.case import Case
from fhir_secondop.opinion.facts import Facts
from fhir_secondop.opinion.independence import Assessment, Finding
from tests.opinion import cases

REPORTS = Path(__file__).parent.parent / "docs" / "reports"
BREAST, SPINE = cases.EXAMPLES
PASSED = independence.extension(
    Assessment((Finding("pass", "same specialty", "Dr. Victor Mocksley"),)), attestation="", override=""
)
WARNED = independence.extension(
    Assessment((Finding("warn", "same parent organization", "Dr. Victor Mocksley"),
                Finding("unknown", "whether the patient was treated before", "Dr. Salma Placeholder-Reed"))),
    attestation="I have never worked with either of them, and never met the patient.", override="",
)  # fmt: skip
# "Example", "Sample", "Specimen" and the like, in the scripts of the world.
NAMES = {
    "pcp": ("Образцова", "Проба"), "surgeon": ("דוגמה", "בדיון"), "neurologist": ("見本", "太郎"),
    "physiotherapist": ("نموذج", "تجربة"),
}  # fmt: skip


def reports() -> dict[str, Facts]:
    """Name → facts."""
    return {"short": _short(), "typical": _typical(), "long": _long()}


def main() -> None:
    """All three."""
    REPORTS.mkdir(exist_ok=True)
    for name, said in reports().items():
        pdf = render.pdf("report", said)
        (REPORTS / f"{name}.pdf").write_bytes(pdf)
        _picture(pdf, REPORTS / f"{name}.png")
        print(name, *(f"{(REPORTS / f'{name}.{kind}').stat().st_size:,}" for kind in ("pdf", "png")))


def _picture(pdf: bytes, path: Path, most: int = 3) -> None:
    """The first pages side by side."""
    import pypdfium2
    from PIL import Image

    pages = [page.render(scale=1.25).to_pil() for page in list(pypdfium2.PdfDocument(pdf))[:most]]
    gap = 12
    whole = Image.new("RGB", (sum(p.width + gap for p in pages) + gap, pages[0].height + 2 * gap), "#c9d0d7")
    for place, page in enumerate(pages):
        whole.paste(page, (gap + place * (page.width + gap), gap))
    whole.quantize(96).save(path, optimize=True)


def _report(case: Case, draft: dict[str, Any], stated: Resource, items: list[checklist.Item], **how: Any) -> Facts:
    reviewer = cases.person_ref("the-reviewer")
    given: dict[str, Any] = {"status": "final", "version": 1, "issued": cases.NOW, "reviewer": reviewer, **how}
    said = facts.of_report(case, draft, items=items, stated=stated, **given)
    # The records themselves are not made up for a picture.
    return {**said, "records": [{**one, "received": 41 + 17 * n} for n, one in enumerate(said["records"])]}


def _source(case: Case, key: str, name: str, *answers: Answer) -> Resource:
    return records.package(case, key, name, records.Gathered({}, answers), "2026-11-22T08:00:00.000Z")


def _short() -> Facts:
    """A question with one answer: nothing missing, everybody of one mind."""
    plain = cases.with_reviewer(cases.request_of(BREAST), BREAST)
    plain = {**plain, "questions": [], "underReview": plain["underReview"][:1], "decision": None}
    case = cases.case_of(BREAST, plain={key: value for key, value in plain.items() if value is not None})
    draft = {
        "conclusion": "The diagnosis stands as it was made. Nothing in the record suggests another.",
        "items": [{"item": 0, "axis": "diagnosis", "concordance": "confirmed", "confidence": "high"}],
    }
    source = _source(case, "one", "Riverside Example Hospital", Answer("Condition", "answered", "x", 3))
    return _report(Case(case.id, [*case.resources, source]), draft, PASSED, [])


def _typical() -> Facts:
    """The spine example as its reviewer signed it, on the record of two hospitals."""
    case = cases.case_of(SPINE)
    sources = [
        _source(case, "one", "Northgate Sample Family Practice", Answer("Condition", "answered", "x", 7)),
        _source(case, "two", "Stonebridge Mock Hospital", Answer("Observation", "truncated", "x", 20),
                Answer("ImagingStudy", "not-offered")),
    ]  # fmt: skip
    items = [checklist.Item("images", "Flexion/extension films of the lumbar spine", "missing")]
    return _report(Case(case.id, [*case.resources, *sources]), cases.draft_of(SPINE), PASSED, items)


def _long() -> Facts:
    """All that a report may have, in the names and letters of many scripts, over and over."""
    plain = cases.with_reviewer(cases.request_of(SPINE), SPINE)
    plain["patient"] = {**plain["patient"], "family": "示例-Παραδειγματίδου", "given": ["Þóra", "Beispiel", "예시"]}
    for key, (family, given) in NAMES.items():
        plain["providers"][key] = {**plain["providers"][key], "family": family, "given": [given]}
    plain["questions"] = [*plain["questions"], "האם אפשר לחכות?", "هل يمكن الانتظار؟", "可以等待吗？"]
    case = cases.case_of(SPINE, plain=plain)
    seen = blinding.Blindness(blinding.LOCKED, "2026-11-22T10:00:00.000Z")
    read = {
        "resourceType": "ClinicalImpression", "id": blinding.first_read_id(case, 0), "date": "2026-11-22T10:00:00.000Z",
        "summary": "Severe central stenosis at L4-L5 with a slip of 4 to 6 mm. No dynamic films.",
        "finding": [{"itemCodeableConcept": {"text": "Degenerative spondylolisthesis L4-L5, grade I"}}],
        "note": [{"text": "Decompression; fusion only if instability is shown."}],
    }  # fmt: skip
    coordination = blinding.stated(case.coordination, seen)
    kept = [coordination if r["id"] == coordination["id"] else r for r in case.resources]
    sources = [
        _source(case, f"s{n}", name, *answers)
        for n, (name, answers) in enumerate((
            ("Northgate Sample Family Practice", (Answer("Condition", "answered", "x", 7),)),
            ("مستشفى نموذج", (Answer("Observation", "truncated", "x", 20), Answer("ImagingStudy", "not-offered"))),
            ("示例骨科医院", (Answer("DocumentReference", "refused"), Answer("Condition", "answered", "x", 2, 4))),
        ))
    ]  # fmt: skip
    draft = cases.amended_draft_of(SPINE)
    told = {name: "\n\n".join([draft[name]] * 4) for name in ("history", "findings", "assessment")}
    answers = [*draft["answers"], {"question": 4, "text": "כן, כל עוד אין החמרה בכוח או בתחושה."},
               {"question": 5, "cannotAnswer": "الصور غير موجودة في السجل."},
               {"question": 6, "text": "可以，只要力量和感觉没有变差。"}]  # fmt: skip
    draft = {**draft, **told, "answers": answers, "recommendations": draft["recommendations"] * 2}
    items = [checklist.Item(f"i{n}", title, "missing") for n, title in enumerate((
        "Flexion/extension films of the lumbar spine", "Operative consent form", "Anticoagulation plan",
        "Consultation notes of the last two years"))]  # fmt: skip
    replaced = [{"url": codes.REPORT_VERSION, "valuePositiveInt": 1}]
    said = _report(
        Case(case.id, [*kept, read, *sources]), draft, WARNED, items, status="corrected", version=2,
        before={"issued": "2026-11-20T10:00:00.000Z", "extension": replaced},
        reason="The date of the operation was wrong.",
    )  # fmt: skip
    dose = {"kind": "dose differs", "about": "Apixaban", "sides": [
        {"source": "Northgate Sample Family Practice", "text": "5 mg twice a day", "date": "2026-09-01"},
        {"source": "مستشفى نموذج", "text": "2.5 mg twice a day", "date": "2026-03-02"},
    ]}  # fmt: skip
    return {**said, "conflicts": [dose], "notices": [records.PART2_NOTICE]}


if __name__ == "__main__":
    sys.exit(main())
