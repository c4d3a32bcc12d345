"""Facts → what a report says to the patient: short sentences, the field's codes in everyday words, nothing judged anew.

What the reviewer wrote is never reworded: it stands as it is, under a heading that says what it is.
"""

from __future__ import annotations

from typing import Any

from fhir_secondop.opinion.facts import Facts

OVERALL = {
    "full": "The second doctor agrees with your first doctor.",
    "partial": "The second doctor agrees in part. Some things should be changed or added.",
    "discordant": "The second doctor sees something important in a different way. "
                  "This does not mean that somebody made a mistake.",
    "indeterminate": "The second doctor could not decide everything yet. Something is still missing or has to wait.",
    "not assessed": "The second doctor did not compare the two opinions.",
}  # fmt: skip
SCOPE = {"diagnosis": "your illness", "treatment": "your treatment"}
DIAGNOSIS = {
    "confirmed": "The second doctor thinks so too.",
    "refined": "It is the same illness. The second doctor describes it in a different way.",
    "additional": "The second doctor found something more.",
    "changed": "The second doctor thinks that it is something else.",
    "refuted": "The second doctor thinks that you do not have this.",
    "indeterminate": "The second doctor can not tell yet.",
    "not-assessed": "The second doctor did not look at this.",
}
TREATMENT = {
    "agreed": "The second doctor would do the same.",
    "agreed-modified": "The second doctor would do the same, but in a different way. The dose or the time may differ.",
    "additional": "The second doctor would do this, and something more.",
    "deescalate": "The second doctor would do less of it.",
    "alternative": "The second doctor would choose a different treatment.",
    "not-recommended": "The second doctor would not do this.",
    "defer": "The second doctor would wait before this is decided.",
    "not-assessed": "The second doctor did not look at this.",
}
WEIGHT = {
    "": "", "none": "", "minor": "The difference is small.", "major": "This may change your treatment.",
    "critical": "This is urgent. Call your doctor today.",
}  # fmt: skip
STRENGTH = {
    "": "",
    "strong": "The second doctor is sure of this.",
    "conditional": "This depends on you. Talk about it.",
}
PREFERENCE = {
    "preferred": "The second doctor would choose this for you.",
    "acceptable": "This is a good way too. It depends on what matters to you.",
    "not-advised": "The second doctor would not choose this for you.",
}
WITHDRAWN = "This report was taken back. Do not rely on it. Ask your doctor what happened."
NEWER = "This report was changed. It takes the place of the one before."
ASK = (
    "Which of this do we do, and when?",
    "What happens if we wait?",
    "What does this mean for my daily life?",
)
ASK_IF_DIFFERENT = ("Why do the two doctors see it in different ways?", "Should we ask a third doctor?")


def of_facts(facts: Facts) -> dict[str, Any]:
    """The parts of the page: sentences of ours, and what was written by people as it was written."""
    if facts["status"] == "entered-in-error":
        return {"withdrawn": WITHDRAWN}
    overall, _, scope = facts["overall"].partition(" (")
    axes = [axis for axis in SCOPE if axis in scope]
    differs = overall in ("discordant", "indeterminate")
    return {
        "withdrawn": "",
        "newer": NEWER if facts["version"] > 1 else "",
        "by": facts["reviewer"],
        "on": facts["issued"][:10],
        "requester": facts["requester"],
        "reasons": facts["reasons"],
        "overall": OVERALL[overall],
        "about": f"This is about {SCOPE[axes[0]]} only." if len(axes) == 1 else "",
        "urgent": WEIGHT["critical"] if facts["significance"] == "critical" else "",
        "conclusion": facts["conclusion"],
        "items": [_item(item) for item in facts["items"]],
        "answers": [
            {"question": a["question"], "text": a["text"], "cannot": a["cannotAnswer"]} for a in facts["answers"]
        ],
        "options": [{**one, "says": PREFERENCE[one["preference"]]} for one in facts["options"]],
        "suggested": [{"text": r["text"], "says": STRENGTH[r["strength"]]} for r in facts["recommendations"]],
        "ask": [*ASK, *(ASK_IF_DIFFERENT if differs else ())],
        "decision": facts["decision"],
    }


def _item(item: Facts) -> dict[str, str]:
    words = DIAGNOSIS if item["axis"] == "diagnosis" else TREATMENT
    assessed = item["concordance"] != "not-assessed"
    return {
        "title": item["title"],
        "about": SCOPE[item["axis"]],
        "says": words[item["concordance"]],
        "weight": WEIGHT[item["significance"]] if assessed else "",
        "instead": item["proposed"],
        "missing": item["missing"],
    }
