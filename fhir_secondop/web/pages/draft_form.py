"""The editor's form ↔ the reviewer's draft, as profiles/schemas/report-draft.json has it."""

from __future__ import annotations

from typing import Any

from werkzeug.datastructures import MultiDict

from fhir_secondop.opinion import codes, facts
from fhir_secondop.opinion.case import Case
from fhir_secondop.opinion.report import Draft
from fhir_secondop.web.pages import words
from fhir_secondop.web.pages.forms import tidy

PROSE = ("history", "findings", "assessment")
AXES = {"diagnosis": codes.DIAGNOSIS_CODES, "treatment": codes.TREATMENT_CODES}
_MORE = ("significance", "confidence", "basis", "wouldChange", "missing", "urgentContact")
_OPTION = ("preference", "forWhom", "advantages", "disadvantages")
MAX_RECOMMENDATIONS = 50
MAX_OPTIONS = 20
LABELS = {
    "conclusion": "Conclusion", "history": "History", "findings": "Findings", "assessment": "Assessment",
    "basis": "Basis", "wouldChange": "What would change it", "missing": "What is missing",
    "significance": "Significance", "confidence": "Confidence", "concordance": "Concordance",
    "urgentContact": "Told in the urgent call",
    "text": "what", "preference": "opinion", "forWhom": "for whom", "advantages": "for it",
    "disadvantages": "against it",
}  # fmt: skip


def draft_of(form: MultiDict[str, str], case: Case) -> Draft:
    """What was typed. Nothing typed is dropped: an axis with a basis and no judgement yet is "not assessed"."""
    typed = {name: tidy(text) for name, text in form.items()}
    draft: Draft = {"items": _items(typed, case), "answers": _answers(typed, case)}
    draft |= {name: typed[name] for name in ("conclusion", *PROSE) if typed.get(name)}
    options = list(filter(None, (_option(typed, n) for n in range(MAX_OPTIONS))))
    if options:
        draft["options"] = options
    recommendations = list(filter(None, (_recommendation(typed, n) for n in range(MAX_RECOMMENDATIONS))))
    if recommendations:
        draft["recommendations"] = recommendations
    confirmed = form.getlist("gap")
    if confirmed:
        draft["gapsConfirmed"] = confirmed
    return draft


def _items(typed: dict[str, str], case: Case) -> list[dict[str, Any]]:
    found = []
    for place, _ in enumerate(case.items):
        for axis in AXES:
            said = {name: typed.get(f"item.{place}.{axis}.{name}", "") for name in ("concordance", *_MORE)}
            proposed = _proposed(typed, f"item.{place}.{axis}.")
            if any(said.values()) or proposed:
                judged = {"item": place, "axis": axis, "concordance": said["concordance"] or "not-assessed"}
                found.append({**judged, **{name: said[name] for name in _MORE if said[name]}, **proposed})
    return found


def _proposed(typed: dict[str, str], key: str) -> dict[str, Any]:
    """The reviewer's own diagnosis or treatment; a code alone stands for itself."""
    text, system, code = (typed.get(f"{key}{name}", "") for name in ("proposed", "system", "code"))
    if not text and not code:
        return {}
    coded = {"code": {"system": system, "code": code}} if code else {}
    return {"proposed": {"text": text or code, **coded}}


def _answers(typed: dict[str, str], case: Case) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for number, _ in enumerate(case.questions):
        text = typed.get(f"answer.{number}.text", "")
        if text:
            name = "cannotAnswer" if typed.get(f"answer.{number}.cannot") else "text"
            found.append({"question": number, name: text})
    return found


def _option(typed: dict[str, str], number: int) -> dict[str, str] | None:
    """Nothing typed is dropped: what has no name yet, or no preference, gets one that says so."""
    said = {name: typed.get(f"option.{number}.{name}", "") for name in ("text", *_OPTION)}
    if not any(said.values()):
        return None
    kept = {name: value for name, value in said.items() if value}
    return {"text": f"Option {number + 1}", "preference": "acceptable", **kept}


def _recommendation(typed: dict[str, str], number: int) -> dict[str, str] | None:
    text = typed.get(f"recommendation.{number}.text", "")
    if not text:
        return None
    more = {name: typed.get(f"recommendation.{number}.{name}", "") for name in ("strength", "kind")}
    return {"text": text, **{name: value for name, value in more.items() if value}}


def fields(draft: Draft) -> dict[str, str]:
    """The form's fields as a draft fills them."""
    found = {name: draft[name] for name in ("conclusion", *PROSE) if draft.get(name)}
    for item in draft["items"]:
        for name in ("concordance", *_MORE):
            found[f"item.{item['item']}.{item['axis']}.{name}"] = item.get(name, "")
        proposed = item.get("proposed", {})
        for name, value in (("proposed", proposed.get("text", "")), *proposed.get("code", {}).items()):
            found[f"item.{item['item']}.{item['axis']}.{name}"] = value
    for answer in draft["answers"]:
        found[f"answer.{answer['question']}.text"] = answer.get("text") or answer["cannotAnswer"]
        found[f"answer.{answer['question']}.cannot"] = "yes" if "cannotAnswer" in answer else ""
    for number, one in enumerate(draft.get("options", [])):
        for name in ("text", *_OPTION):
            found[f"option.{number}.{name}"] = one.get(name, "")
    for number, one in enumerate(draft.get("recommendations", [])):
        for name in ("text", "strength", "kind"):
            found[f"recommendation.{number}.{name}"] = one.get(name, "")
    return found


def differences(mine: Draft, stored: Draft, case: Case) -> list[tuple[str, str, str]]:
    """What two drafts say differently: the field's name, mine, the stored one."""
    ours, theirs = _labelled(mine, case), _labelled(stored, case)
    names = dict.fromkeys([*ours, *theirs])
    return [(n, ours.get(n, ""), theirs.get(n, "")) for n in names if ours.get(n, "") != theirs.get(n, "")]


def _labelled(draft: Draft, case: Case) -> dict[str, str]:
    found = {LABELS[name]: str(draft[name]) for name in ("conclusion", *PROSE) if draft.get(name)}
    for item in draft["items"]:
        about = f"{facts.item_title(case.items[item['item']])} ({item['axis']})"
        for name in ("concordance", *_MORE):
            if item.get(name):
                found[f"{about}: {LABELS[name].lower()}"] = words.of(words.CONCORDANCE, item[name])
        if "proposed" in item:
            code = item["proposed"].get("code", {}).get("code", "")
            found[f"{about}: instead"] = item["proposed"]["text"] + (f" ({code})" if code else "")
    for answer in draft["answers"]:
        cannot = "cannotAnswer" in answer
        text = f"Can't be answered: {answer['cannotAnswer']}" if cannot else answer["text"]
        found[f"Answer to question {answer['question'] + 1}"] = text
    for number, one in enumerate(draft.get("options", []), 1):
        for name in ("text", *_OPTION):
            if name in one:
                found[f"Option {number}: {LABELS.get(name, name)}"] = words.of(words.PREFERENCE, one[name])
    for number, one in enumerate(draft.get("recommendations", []), 1):
        more = ", ".join(one[name] for name in ("strength", "kind") if name in one)
        found[f"Recommendation {number}"] = one["text"] + (f" ({more})" if more else "")
    if draft.get("gapsConfirmed"):
        found["Gaps confirmed"] = ", ".join(draft["gapsConfirmed"])
    return found
