"""The same facts in every form: text, PDF and the narrative of the Composition; and nothing in them is markup."""

from __future__ import annotations

import io
import re
import unicodedata
from functools import cache
from typing import Any

import cases
import hypothesis.strategies as st
import pypdf
import pypdfium2
import pytest
from hypothesis import given, settings
from lxml import etree, html

from fhir_secondop.fhir.validate import validate
from fhir_secondop.model import Answer, Resource
from fhir_secondop.opinion import checklist, codes, facts, independence, narrative, records, render, sections, xhtml
from fhir_secondop.opinion.case import Case, derived_id, reference
from fhir_secondop.opinion.facts import Facts
from fhir_secondop.opinion.independence import Assessment, Finding

BREAST, SPINE = cases.EXAMPLES
AMENDED = "spine-surgery, amended"
MISSING = [
    checklist.Item("images", "The images themselves", "missing"),
    checklist.Item("notes", "Consultation notes", "missing"),
    checklist.Item("problems", "Problem list", "present"),
]
STATED = independence.extension(
    Assessment((Finding("fail", "took part in an item under review"), Finding("warn", "other specialty", "Dr. Other"))),
    attestation="I know none of them.",
    override="Nobody else has the specialty.",
)


CONFLICT = {
    "kind": "dose differs",
    "about": "Metoprolol succinate",
    "sides": [
        {"source": "The First Source", "text": "50 mg once daily", "date": "2026-09-01"},
        {"source": "The Second Source", "text": "100 mg twice daily", "date": "2026-03-02"},
    ],
}


def packages(case: Case) -> list[Resource]:
    """The Lists of two sources, one of which did not answer everything and sent a stranger."""
    whole = records.Gathered({}, (Answer("Condition", "answered", "Condition?patient=", 3),))
    partly = records.Gathered(
        {}, (Answer("Observation", "truncated", "Observation?patient=", 20), Answer("ImagingStudy", "not-offered"),
             Answer("Condition", "answered", "Condition?patient=", 2, 4), Answer("DocumentReference", "refused")),
    )  # fmt: skip
    return [
        records.package(case, "one", "The First Source", whole, "2026-11-22T08:00:00.000Z"),
        records.package(case, "two", "The Second Source", partly, "2026-11-22T08:01:00.000Z"),
    ]


@cache
def facts_of(name: str) -> Facts:
    """The facts of a signed report: of each example, and of the spine example amended."""
    example = SPINE if name == AMENDED else name
    case = cases.case_of(example)
    case = Case(case.id, [*case.resources, *packages(case)])
    before = {"issued": "2026-11-20T10:00:00.000Z", "extension": [{"url": codes.REPORT_VERSION, "valuePositiveInt": 1}]}
    again: dict[str, Any] = {"before": before, "reason": "The date was wrong.", "status": "corrected", "version": 2}
    first: dict[str, Any] = {"status": "final", "version": 1}
    said = facts.of_report(
        case, cases.amended_draft_of(example) if name == AMENDED else cases.draft_of(example), issued=cases.NOW,
        reviewer=cases.person_ref("the-reviewer"), items=MISSING, stated=STATED,
        **(again if name == AMENDED else first),
    )  # fmt: skip
    return {
        **said,
        "conflicts": [CONFLICT],
        "blindness": {
            "said": "The first opinion was opened after the first read was locked.",
            "reads": [{"title": "First read, locked 2026-11-22", "text": "It looks benign.\nPlan: wait."}],
        },
    }


NAMES = (BREAST, SPINE, AMENDED)


def leaves(value: Any, path: str = "") -> dict[str, str]:
    """Path → text of every string and number of the facts."""
    if isinstance(value, dict):
        return {p: s for key, child in value.items() for p, s in leaves(child, f"{path}.{key}").items()}
    if isinstance(value, list):
        return {p: s for place, child in enumerate(value) for p, s in leaves(child, f"{path}[{place}]").items()}
    return {path: str(value)} if value not in (None, "") else {}


def folded(text: str) -> str:
    """Without what a line break or a hyphen at its end may change, and without case."""
    return re.sub(r"[\s\u00ad-]+", "", unicodedata.normalize("NFC", text)).casefold()


def pdf_text(pdf: bytes) -> str:
    """The text of all pages but for all footers except the last, which would part a paragraph that goes on overleaf."""
    pages = [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(pdf)).pages]
    assert all(f"Case {cases.CASE_ID}" in page for page in pages)
    last_footer = "".join(pages[-1].rpartition(f"Case {cases.CASE_ID}")[1:])
    return "".join(page.rpartition(f"Case {cases.CASE_ID}")[0] for page in pages) + last_footer


def not_said(said: Facts, where: str) -> dict[str, str]:
    return {path: text for path, text in leaves(said).items() if folded(text) not in folded(where)}


@cache
def pdf_of(name: str) -> bytes:
    return render.pdf("report", facts_of(name))


# --- all facts, everywhere --------------------------------------------------------------------------------------


def test_the_facts_of_the_test_leave_no_part_of_a_report_out() -> None:
    """An empty fact could not be missed: the three reports together fill every one."""
    filled = {re.sub(r"\[\d+\]", "", path) for name in NAMES for path in leaves(facts_of(name))}
    known = {re.sub(r"\[\d+\]", "", path) for name in NAMES for path in paths(facts_of(name))}

    assert known - filled - {".items.missing"} == set()


def paths(value: Any, path: str = "") -> set[str]:
    if isinstance(value, dict):
        return {p for key, child in value.items() for p in paths(child, f"{path}.{key}")}
    if isinstance(value, list):
        return {p for child in value for p in paths(child, path)}
    return {path} if path != ".amendment" else set()


@pytest.mark.parametrize("name", NAMES)
def test_the_text_says_every_fact(name: str) -> None:
    assert not_said(facts_of(name), render.report_text(facts_of(name))) == {}


@pytest.mark.parametrize("name", NAMES)
def test_the_pdf_says_every_fact(name: str) -> None:
    assert not_said(facts_of(name), pdf_text(pdf_of(name))) == {}


def xhtml_text(said: Facts) -> str:
    return "".join(etree.fromstring(xhtml.report_xhtml(said).encode()).itertext())


@pytest.mark.parametrize("name", NAMES)
def test_the_xhtml_says_every_fact(name: str) -> None:
    assert not_said(facts_of(name), xhtml_text(facts_of(name))) == {}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_the_xhtml_runs_or_is_fetched(name: str) -> None:
    root = etree.fromstring(xhtml.report_xhtml(facts_of(name)).encode())
    elements = list(root.iter(etree.Element))

    assert root.tag == "{http://www.w3.org/1999/xhtml}html"
    assert root.get("lang") == "en"
    assert {etree.QName(e).localname for e in elements} & {"script", "img", "link", "iframe", "object", "form"} == set()
    assert [a for e in elements for a in e.attrib if a.startswith("on") or a in ("src", "href", "style")] == []
    # Read as HTML it is the same: nothing is closed that HTML would leave open.
    again = html.document_fromstring(xhtml.report_xhtml(facts_of(name)))
    assert "".join(again.find("body").itertext()) == "".join(root[1].itertext())


@pytest.mark.parametrize("name", NAMES)
def test_the_narrative_says_conclusion_answers_recommendations_prose_and_gaps(name: str) -> None:
    said = facts_of(name)
    example = SPINE if name == AMENDED else name
    draft = cases.amended_draft_of(example) if name == AMENDED else cases.draft_of(example)
    case = cases.case_of(example)
    first = cases.signed(case, cases.draft_of(example))
    resources = cases.composed(
        first if name == AMENDED else case, draft, status=said["status"], version=said["version"],
        extra=sections.of_facts(said), replaces="DiagnosticReport/1/_history/4" if name == AMENDED else "",
    )  # fmt: skip
    told = " ".join(narrative.text(s["text"]["div"]) for s in resources[-2]["section"])

    parts = {name: said[name] for name in ("conclusion", "answers", "prose", "missing", "consultation")}
    parts["recommendations"] = [r["text"] for r in said["recommendations"]]
    parts["options"] = said["options"]
    parts["gaps"] = [gap for source in said["records"] for gap in source["gaps"]]
    parts["concordance"] = [item["concordance"] for item in said["items"]]
    parts["prose"] = [part["text"] for part in said["prose"]]
    for part in ("requester", "reasons", "decision", "independence", "blindness", "recipients", "conflicts"):
        parts[part] = said[part]
    if said["amendment"]:
        parts["amendment"] = said["amendment"]
    assert not_said(parts, told) == {}


@pytest.mark.parametrize("name", NAMES)
def test_all_forms_name_the_same_version(name: str) -> None:
    said = facts_of(name)

    for form in (render.report_text(said), pdf_text(pdf_of(name))):
        assert set(re.findall(r"urn:uuid:[0-9a-f-]{36}", form)) >= {said["versionId"]}
        assert re.search(rf"version:?\s+{said['version']}\b", form, re.IGNORECASE)


def test_a_question_that_can_not_be_answered_says_so_in_every_form() -> None:
    said = facts_of(BREAST)
    [answer] = [a for a in said["answers"] if a["cannotAnswer"]]

    assert answer["text"] == ""
    for form in (render.report_text(said), pdf_text(pdf_of(BREAST))):
        assert "Cannot be answered:" in form


@pytest.mark.parametrize("name", NAMES)
def test_an_amendment_is_announced_before_the_conclusion_and_only_then(name: str) -> None:
    text = render.report_text(facts_of(name))

    before_conclusion = text.partition("CONCLUSION")[0]
    assert ("REPLACES VERSION 1" in before_conclusion) is (name == AMENDED)
    assert ("The date was wrong." in before_conclusion) is (name == AMENDED)


def test_a_whole_record_and_an_unassessed_report_are_said_in_words() -> None:
    said = {**facts_of(SPINE), "missing": [], "records": [], "overall": "not assessed"}

    for form in (render.report_text(said), pdf_text(render.pdf("report", said))):
        assert "Nothing on the checklist is missing." in form
        assert "not assessed" in form


# --- the form itself --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_pdf_is_tagged_titled_and_in_a_language(name: str) -> None:
    reader = pypdf.PdfReader(io.BytesIO(pdf_of(name)))
    root: Any = reader.trailer["/Root"]

    assert "/StructTreeRoot" in root
    assert root["/MarkInfo"]["/Marked"]
    assert root["/Lang"].startswith("en")
    assert reader.metadata is not None
    assert cases.CASE_ID in str(reader.metadata.title)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_page_has_the_conclusion_the_concordance_and_who_it_is_about(name: str) -> None:
    said, first = facts_of(name), pypdf.PdfReader(io.BytesIO(pdf_of(name))).pages[0].extract_text()

    for text in (said["conclusion"], said["overall"], said["patient"]["name"], said["patient"]["birthDate"],
                 said["reviewer"]["name"]):  # fmt: skip
        assert folded(text) in folded(first)


@pytest.mark.parametrize("name", NAMES)
def test_every_page_of_the_pdf_names_the_patient_and_the_version(name: str) -> None:
    said = facts_of(name)

    for page in pypdf.PdfReader(io.BytesIO(pdf_of(name))).pages:
        assert folded(said["patient"]["name"]) in folded(page.extract_text())
        assert folded(f"version {said['version']}") in folded(page.extract_text())


def too_long(text: str) -> list[str]:
    """Lines of more than 78 columns that a space would have let end before."""
    return [line for line in text.split("\n") if len(line) > render.WIDTH and " " in line[4 : render.WIDTH].strip()]


@pytest.mark.parametrize("name", NAMES)
def test_the_text_is_78_columns_wide(name: str) -> None:
    assert too_long(render.report_text(facts_of(name))) == []


def test_the_text_is_78_columns_wide_whatever_the_names_are_like() -> None:
    long = "A Clinic With A Name That Goes On And On For Much Longer Than Any Line Of This Document May Ever Be"
    said = facts_of(AMENDED)
    said = {
        **said, "patient": {**said["patient"], "name": long, "identifiers": [f"ID-{n:08d}" for n in range(12)]},
        "reviewer": {"name": long, "organization": long, "identifier": "1"}, "requester": long,
        "decision": {**said["decision"], "owner": long}, "recipients": [{"name": long, "role": long}],
        "records": [{"name": long, "asOf": cases.NOW, "received": 1, "gaps": [f"{long}: refused"]}],
    }  # fmt: skip

    assert too_long(render.report_text(said)) == []


WORD = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=12)


@given(
    conclusion=st.lists(WORD, min_size=1, max_size=60).map(" ".join), history=st.lists(WORD, max_size=60).map(" ".join)
)
@settings(max_examples=40, deadline=None)
def test_any_text_is_wrapped_and_whole(conclusion: str, history: str) -> None:
    said = {**facts_of(SPINE), "conclusion": conclusion, "prose": [{"title": "History", "text": history}]}

    text = render.report_text(said)

    assert too_long(text) == []
    assert folded(conclusion) in folded(text)
    assert folded(history) in folded(text)


# --- hostile strings --------------------------------------------------------------------------------------------

HOSTILE = {
    "typst code": '#set text(size: 0pt) #panic("no") #read("/etc/passwd")',
    "typst markup": "[*bold*] _it_ = Heading `raw` $x^2$ @ref <label> // comment /* c */ ~ --- ... - x + y / z: w",
    "typst string": '" + sys.version + "',
    "html": "<script>alert(1)</script> <b>&amp; &lt;",
    "backslashes": "C:\\new\\table \\u{41} \\# \\",
    "quotes": "'single' \"double\" „low“ ’",
    "json": '{"a": [1, 2]}, "conclusion": "x"',
    "long word": "Pneumonoultramicroscopic" * 60,
    "combining": "Zoe\u0308 A\u030angstro\u0308m",
    "other scripts": "Ελένη Иванова Łukasz",
}
RIGHT_TO_LEFT = "שלום עולם"
NO_FONT_HAS = {"emoji": "heart 🫀 and 👩🏽‍⚕️", "rare Chinese": "𠮷野 and 㐂"}
SCRIPTS = {
    "Latin": "Łukasz Nguyễn Þór", "Greek": "Ελένη Παπαδοπούλου", "Cyrillic": "Иванова Ђорђе Їжак",
    "Hebrew": "שרה כהן", "Arabic": "محمد العلي", "Chinese": "王小明 陳嘉玲 喆堃", "Japanese": "田中 さくら 髙橋 カズ",
    "Korean": "김민준 뷁쯔", "Thai": "สมชาย ใจดี", "Armenian": "Նարեկ", "Georgian": "გიორგი", "Ethiopic": "ሰላም",
    "Devanagari": "अमित", "Tamil": "தமிழ்",
}  # fmt: skip


def hostile_facts(text: str) -> Facts:
    """The same text in every place where somebody else's text may stand."""
    said = facts_of(AMENDED)
    return {
        **said,
        "conclusion": text, "requester": text, "reasons": [text], "missing": [text],
        "patient": {**said["patient"], "name": text, "identifiers": [text]},
        "reviewer": {"name": text, "organization": text, "identifier": text},
        "decision": {"text": text, "owner": text, "deadline": "2026-12-18"},
        "items": [{**said["items"][0], "title": text, "basis": text, "wouldChange": text, "missing": text}],
        "answers": [{"question": text, "text": text, "cannotAnswer": ""},
                    {"question": text, "text": "", "cannotAnswer": text}],
        "recommendations": [{"text": text, "strength": "strong", "kind": "plan"}],
        "prose": [{"title": "History", "text": text}],
        "independence": {**said["independence"], "findings": [text], "attestation": text, "override": text},
        "records": [{"name": text, "asOf": cases.NOW, "received": 1, "gaps": [text]}],
        "recipients": [{"name": text, "role": "pcp"}],
        "amendment": {**said["amendment"], "reason": text},
    }  # fmt: skip


TIMES_SAID = 25


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_survives_in_text_and_pdf_as_data(text: str) -> None:
    said = hostile_facts(text)
    expected = [path for path, leaf in leaves(said).items() if leaf == text]
    assert len(expected) >= TIMES_SAID - 2

    assert folded(xhtml_text(said)).count(folded(text)) >= len(expected)
    # Each place says it: as often as it stands in the facts (the PDF's footer says some of them once more a page).
    assert folded(render.report_text(said)).count(folded(text)) >= len(expected)
    assert folded(pdf_text(render.pdf("report", said))).count(folded(text)) >= len(expected)


def test_text_from_right_to_left_survives() -> None:
    said = hostile_facts(RIGHT_TO_LEFT)
    drawn = pdf_text(render.pdf("report", said))

    assert render.report_text(said).count(RIGHT_TO_LEFT) >= TIMES_SAID - 2
    for word in RIGHT_TO_LEFT.split():
        assert drawn.count(word) + drawn.count(word[::-1]) >= TIMES_SAID - 2


@pytest.mark.parametrize("text", NO_FONT_HAS.values(), ids=NO_FONT_HAS.keys())
def test_a_character_that_no_font_has_is_spelled_out_and_the_rest_stays(text: str) -> None:
    """A patient's name comes from the request: the report about her must be possible, and lack nothing silently."""
    said = {**facts_of(BREAST), "patient": {**facts_of(BREAST)["patient"], "name": f"{text} 王小明"}}

    drawn = folded(pdf_text(render.pdf("report", said)))

    lost = [c for c in text if not (folded(c) in drawn or folded(f"[U+{ord(c):04X}]") in drawn)]
    assert lost == []
    assert f"[u+{ord(text[-1] if text.endswith('㐂') else '🫀'):04x}]" in drawn
    assert "王小明" in drawn
    assert folded(said["conclusion"]) in drawn


@pytest.mark.parametrize("name", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_a_name_is_drawn_in_its_own_script_and_can_be_copied(name: str) -> None:
    """By PDFium, which puts what goes from right to left into the order in which it is read."""
    said = {**facts_of(BREAST), "patient": {**facts_of(BREAST)["patient"], "name": name}}

    page = pypdfium2.PdfDocument(render.pdf("report", said))[0].get_textpage().get_text_range()

    assert "[U+" not in page
    assert [word for word in name.split() if word not in unicodedata.normalize("NFC", page)] == []


@pytest.mark.parametrize("codec", ["gb2312", "big5", "shift_jis", "euc_kr"])
def test_each_letter_of_the_common_sets_of_the_east_is_drawn(codec: str) -> None:
    """Once 30 of 33,000 were not found in the font although it has them: 博 and ？ among them."""
    letters = [c for c in map(chr, range(0x3041, 0xFF60)) if unicodedata.category(c) in ("Lo", "Lm") and has(codec, c)]
    said = {**facts_of(BREAST), "conclusion": "".join([*letters, "？：；＜＝＞"])}

    drawn = "".join(page.get_textpage().get_text_range() for page in pypdfium2.PdfDocument(render.pdf("report", said)))

    assert len(letters) > 2_000
    assert "[U+" not in drawn


def has(codec: str, letter: str) -> bool:
    try:
        letter.encode(codec)
    except UnicodeEncodeError:
        return False
    return True


def test_every_font_of_a_document_is_embedded() -> None:
    said = {**facts_of(BREAST), "conclusion": " ".join(SCRIPTS.values())}
    reader = pypdf.PdfReader(io.BytesIO(render.pdf("report", said)))

    fonts: dict[str, Any] = {
        name: font for page in reader.pages for name, font in page["/Resources"]["/Font"].items()
    }  # fmt: skip

    assert len(fonts) > 8
    for font in fonts.values():
        (inner,) = font["/DescendantFonts"]
        descriptor = inner.get_object()["/FontDescriptor"]
        assert {"/FontFile2", "/FontFile3"} & set(descriptor)
        assert "/ToUnicode" in font


@given(name=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_a_report_can_be_made_whatever_the_name_is_written_in(name: str) -> None:
    said = facts_of(BREAST)

    pdf = render.pdf("report", {**said, "patient": {**said["patient"], "name": name}})

    assert pdf.startswith(b"%PDF-")


@pytest.mark.parametrize("text", [*HOSTILE.values(), RIGHT_TO_LEFT, *NO_FONT_HAS.values()])
def test_hostile_text_survives_in_the_narrative_as_data(text: str) -> None:
    draft = {
        "conclusion": text, "items": [{"item": 0, "axis": "diagnosis", "concordance": "confirmed", "basis": text}],
        "answers": [{"question": n, "text": text} for n in range(4)], "recommendations": [{"text": text}],
        "history": text, "findings": text, "assessment": text,
    }  # fmt: skip
    resources = cases.composed(cases.case_of(SPINE), draft, status="final")

    told = "\n".join(narrative.text(s["text"]["div"]) for s in resources[-2]["section"])

    assert told.count(text) >= 9
    assert [fault for r in resources for fault in validate(cases.stored(r))] == []


# --- the plan of record -----------------------------------------------------------------------------------------


def plan_facts(**changes: Any) -> Facts:
    case = cases.case_of(BREAST)
    said = cases.read(BREAST, "responses.json")["planOfRecord"]
    plan = {
        "resourceType": "CarePlan", "id": derived_id(case.id, "plan-of-record", 1), "created": cases.NOW,
        "author": {"reference": cases.person_ref("surgeon")}, "description": said["text"],
        "subject": {"reference": reference(case.patient)},
        "extension": [{"url": codes.DECISION_EXTENSION, "valueCode": said["decision"]},
                      {"url": codes.CITES_REPORT, "valuePositiveInt": 2}],
        "activity": [{"detail": {"status": "not-started", "description": item}} for item in said["items"]],
    }  # fmt: skip
    return {**facts.of_plan(case, plan, 1), **changes}


def test_the_plan_of_record_says_every_fact_as_text() -> None:
    assert not_said(plan_facts(), render.plan_text(plan_facts())) == {}
    assert too_long(render.plan_text(plan_facts())) == []


def test_the_plan_of_record_says_every_fact_as_pdf() -> None:
    said = plan_facts()
    assert said["decision"] == "adopt-in-part"

    assert not_said(said, pdf_text(render.pdf("plan", said))) == {}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_survives_in_the_plan_of_record(text: str) -> None:
    said = plan_facts(text=text, items=[text, text], author=text)

    assert folded(render.plan_text(said)).count(folded(text)) >= 4
    assert folded(pdf_text(render.pdf("plan", said))).count(folded(text)) >= 4
