"""The review: the record beside the editor, the draft saved as one types, the preview, and the signature."""

from __future__ import annotations

from urllib.parse import quote

from flask import Blueprint, Response, redirect, request
from flask.typing import ResponseReturnValue

from fhir_secondop.errors import Conflict, Invalid
from fhir_secondop.fhir import times
from fhir_secondop.model import Resource
from fhir_secondop.opinion import facts, lines, urgent
from fhir_secondop.opinion.report import Draft
from fhir_secondop.rest.operations import check
from fhir_secondop.service import drafts, gather, signing
from fhir_secondop.service.review import schema
from fhir_secondop.web.pages import actions, draft_form, forms
from fhir_secondop.web.pages.frame import Frame, by_script, seen
from fhir_secondop.web.pages.records import by_chapter

KINDS = ("amended", "corrected", "appended", "entered-in-error")
EMPTY_ROWS = 2  # of options and of recommendations, for those without a script


def add(routes: Blueprint, frame: Frame) -> None:
    """Routes /cases/{id}/review, its preview, and the signature."""

    @routes.get("/cases/<case_id>/review")
    def edit(case_id: str) -> ResponseReturnValue:
        if frame.is_blind(case_id):
            return seen(f"/cases/{case_id}/first-read")
        return _editor(frame, drafts.read(frame.context, frame.caller, case_id))

    @routes.post("/cases/<case_id>/review")
    def save(case_id: str) -> ResponseReturnValue:
        case = frame.find(case_id)
        draft = draft_form.draft_of(request.form, case)
        expected = _version()
        try:
            stored = _store(frame, case_id, draft, expected, signed=drafts.is_signed(case))
        except Conflict as conflict:
            current = drafts.read(frame.context, frame.caller, case_id)
            if current.version == expected:
                raise  # not another's draft: the case itself does not allow it
            if by_script():
                return {"message": conflict.message, "version": current.version}, 409
            return _both(frame, current, draft)
        version = int(stored["meta"]["versionId"])
        if by_script():
            return {"version": version, "saved": times.instant(frame.context.now())[11:16] + " UTC"}
        wanted = "preview" if request.form.get("then") == "preview" else "review?done=saved"
        return seen(f"/cases/{case_id}/{wanted}")

    @routes.get("/cases/<case_id>/preview")
    def preview(case_id: str) -> Response:
        opened = drafts.read(frame.context, frame.caller, case_id)
        _, text = drafts.preview(frame.context, frame.caller, case_id)
        return frame.page("preview", case_id=case_id, opened=opened, text=text,
                          recent=frame.sign_in.recent(frame.signed), over=gather.is_over(opened.case))  # fmt: skip

    @routes.get("/cases/<case_id>/preview.pdf")
    def preview_pdf(case_id: str) -> Response:
        pdf, _ = drafts.preview(frame.context, frame.caller, case_id)
        return actions.document(pdf, "application/pdf")

    @routes.post("/cases/<case_id>/sign")
    def sign(case_id: str) -> ResponseReturnValue:
        if not frame.sign_in.recent(frame.signed):
            # What was confirmed before a fresh sign-in counts for nothing: it leads back to what will be signed.
            return redirect(f"/sign-in/again?next={quote(f'/cases/{case_id}/preview', safe='/')}", 303)
        if request.form.get("read") != "yes":
            raise Invalid("Confirm that you have read the document before you sign it.", path="read")
        signing.sign(frame.context, frame.caller, case_id, {}, expected=_version())
        return seen(f"/cases/{case_id}?done=sign")


def _version() -> int:
    """The version of the draft that the form was made from."""
    text = request.form.get("version", "")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Invalid("The form lacks the version of the draft; open the page again.", path="version")
    return int(text)


def _store(frame: Frame, case_id: str, draft: Draft, expected: int, *, signed: bool) -> Resource:
    check(draft, schema("report-draft"))
    if not signed:
        return signing.submit(frame.context, frame.caller, case_id, draft, expected=expected)
    plain = forms.plain_of(request.form, {})
    changes = {"kind": plain.get("kind", ""), "reason": plain.get("reason", "")}
    check(changes, {"properties": {"kind": {"enum": list(KINDS)}, "reason": {"minLength": 1}}})
    return signing.amend(
        frame.context, frame.caller, case_id, {**changes, "changes": draft}, expected=expected, whole=True
    )


def _editor(frame: Frame, opened: drafts.Opened) -> Response:
    case = opened.case
    weighed = len(opened.draft.get("options", []))
    written = len(opened.draft.get("recommendations", []))
    return frame.page(
        "review",
        case_id=case.id,
        opened=opened,
        fields=draft_form.fields(opened.draft),
        items=case.items,
        titles=[facts.item_title(item) for item in case.items],
        questions=case.questions,
        option_rows=min(weighed + EMPTY_ROWS, draft_form.MAX_OPTIONS),
        rows=min(written + EMPTY_ROWS, draft_form.MAX_RECOMMENDATIONS),
        axes=draft_form.AXES,
        kinds=KINDS,
        signed=drafts.is_signed(case),
        over=gather.is_over(case),
        chapters=by_chapter(lines.of_case(case)),
        gap_titles={i.code: i.title for i in opened.items},
        merged=frame.run("merged-record", case.id),
        urgent=urgent.told(case),
    )


def _both(frame: Frame, current: drafts.Opened, mine: Draft) -> Response:
    """Somebody else, or another window, has stored a draft meanwhile: both side by side, and nothing overwritten."""
    kept = [(name, value) for name, value in request.form.items(multi=True) if name not in ("csrf", "version", "then")]
    return frame.page(
        "both", 409, case_id=current.case.id, version=current.version, kept=kept,
        differences=draft_form.differences(mine, current.draft, current.case),
    )  # fmt: skip
