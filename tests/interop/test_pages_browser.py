"""The pages in a real Chromium: a whole case by its people's own hands, with axe on every page and at every width."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.interop.browser import Browser, press, saved
from tests.service.world import EXAMPLES
from tests.web.pages.conftest import PATIENT

pytestmark = pytest.mark.shared


def test_a_case_goes_round_in_a_browser_and_no_page_keeps_anybody_out(browser: Browser) -> None:
    clinic, world = browser.clinic, browser.clinic.world
    browser.look("desk", "/", "work-list-empty")
    case_id = world.open()
    case = f"/cases/{case_id}"
    world.work()

    directory = json.loads((EXAMPLES / "directory.json").read_text("utf-8"))
    assert world.call("POST", "/fhir/$load-directory", directory).status_code == 200
    browser.look("desk", f"{case}/reviewers", "reviewers")

    desk = browser.visit("desk")
    desk.get_by_role("link", name="Maren Elise Sampleton").first.click()
    desk.get_by_label("Given name").fill("Clara")
    desk.get_by_label("Family name").fill("Standin")
    desk.get_by_label("NPI", exact=True).fill("9000000190")
    desk.get_by_label("Organization", exact=True).fill("Harbourview Mock Cancer Institute")
    desk.get_by_label("Code", exact=True).fill("207RX0202X")
    press(desk, "See how independent first")
    browser.check(desk, "independence")
    press(desk, "Ask this reviewer")
    assert desk.get_by_text("The reviewer was asked.").is_visible()
    browser.look("desk", case, "case-asked")
    browser.look("reviewer", case, "case-for-the-reviewer")

    reviewer = browser.visit("reviewer", case)
    reviewer.get_by_label("Your interests in this case").fill("none")
    press(reviewer, "Accept the review")
    reviewer.get_by_role("link", name="Write the report").click()
    _write(browser, reviewer, case_id)
    browser.look("reviewer", f"{case}/review", "review")
    browser.look("reviewer", f"{case}/records", "record")
    press(reviewer, "Preview and sign")
    assert reviewer.get_by_text("Biopsy first; the rest stands.").is_visible()
    browser.look("reviewer", f"{case}/preview", "preview")
    reviewer.get_by_label("I have read this document").check()
    press(reviewer, "Sign the report")
    assert reviewer.get_by_text("The report is signed").is_visible()
    world.work(60)
    browser.look("desk", "/", "work-list")

    surgeon = browser.visit("surgeon", case)
    press(surgeon, "I have received and read the report")
    surgeon.get_by_text("Say what you decide").click()
    surgeon.get_by_label("Decision").first.select_option("adopt")
    press(surgeon, "Record my decision")
    surgeon.get_by_role("group").filter(has_text="Set the plan of record").get_by_label("Decision").select_option(
        "adopt"
    )
    surgeon.get_by_label("The plan").fill("As proposed.")
    press(surgeon, "Set the plan of record")
    pcp = browser.visit("pcp", case)
    press(pcp, "I have received and read the report")
    pcp.get_by_label("Decision").first.select_option("adopt")
    press(pcp, "Record my decision")
    world.work(60)
    for page in (surgeon, pcp):
        page.goto(browser.base + case)
        press(page, "I have received and read the plan of record")
    for delivery in world.get(case_id)["deliveries"]:
        if delivery["evidence"].get("rung") == "10":
            link = world.post(case_id, "cover-sheet", {"task": delivery["task"]})["url"]
            path = link[link.index("/ack/") :]
            browser.look("", path, "acknowledge")
            holder = browser.visit("", path, script=False)
            holder.get_by_label("Your name").fill("Dr. Colm Standish-Sample")
            holder.get_by_label("Your role").fill("Radiation oncologist")
            press(holder, "I have received and read it")
            assert holder.get_by_text("The receipt is recorded").is_visible()
    desk.goto(browser.base + case)
    assert world.get(case_id, "alignment")["waitingFor"] == []
    assert desk.get_by_text("everybody is aligned", exact=True).is_visible()

    clinic.admit(case_id, PATIENT)
    task = world.deliveries(case_id)[0]["task"]
    gap = next(r["uploadLink"] for r in world.get(case_id, "requests")["requests"] if "uploadLink" in r)
    for who, path, name in (
        ("desk", case, "case"), ("surgeon", case, "case-for-the-surgeon"),
        ("desk", f"{case}/deliveries/{task}", "delivery"),
        ("maren", f"/my/{case_id}", "patient"), ("operator", "/connections", "connections"),
        ("", gap[gap.index("/upload/") :], "upload"),
    ):  # fmt: skip
        browser.look(who, path, name)
    operator = browser.visit("operator", "/connections")
    press(operator, "Examine lakeside")
    assert operator.get_by_text("can be reached").is_visible()
    browser.check(operator, "connection")
    assert browser.looked >= 3 * 13


def _write(browser: Browser, page: Any, case_id: str) -> None:
    """The reviewer searches the record and types; what was typed is stored without a button."""
    search = page.get_by_label("Search the record")
    search.fill("latex")
    assert 0 < page.locator("[data-line]:visible").count() < 10
    assert page.locator("#record-lines").get_by_text("Contact urticaria").first.is_visible()
    search.fill("")
    page.get_by_label("Conclusion").fill("Biopsy first; the rest stands.")
    saved(page)
    for number, text in enumerate(("Yes.", "Probably.", "Not yet.", "No images."), 1):
        page.get_by_label(f"{number}. ").fill(text)
    page.get_by_label("It can’t be answered; the text says why (question 4)").check()
    page.locator("select[name='item.0.diagnosis.concordance']").select_option("confirmed")
    page.locator("select[name='item.1.treatment.concordance']").select_option("agreed-modified")
    page.locator("select[name='item.1.treatment.significance']").select_option("major")
    page.locator("[data-add=recommendations]").click()
    page.locator("textarea[name='recommendation.2.text']").fill("Core biopsy of the second lesion.")
    for box in page.locator("input[name=gap]").all():
        box.check()
    saved(page)
    stored = browser.clinic.forms(f"/cases/{case_id}/review", "reviewer")[f"/cases/{case_id}/review"]
    assert stored["conclusion"] == "Biopsy first; the rest stands."
    assert stored["recommendation.0.text"] == "Core biopsy of the second lesion."


def test_two_windows_never_overwrite_each_other_and_what_was_typed_survives_a_sign_out(browser: Browser) -> None:
    world = browser.clinic.world
    case_id = world.gathered()
    world.accept(case_id)
    review = f"/cases/{case_id}/review"

    def stored() -> dict[str, Any]:
        return browser.clinic.forms(review, "reviewer")[review]

    # A refused save stands in the console, as it should: these windows may say so.
    one, other = (browser.visit("reviewer", review, calm=True) for _ in range(2))
    for text in ("First", "First window."):
        one.get_by_label("Conclusion").fill(text)
        saved(one)
    other.get_by_label("Conclusion").fill("Second window.")
    other.get_by_text("This draft was changed in another window").wait_for()
    assert stored()["conclusion"] == "First window."
    press(other, "Show both side by side")
    browser.check(other, "both")
    assert other.get_by_role("cell", name="First window.").is_visible()
    assert other.get_by_role("cell", name="Second window.").is_visible()
    press(other, "Store mine in its place")
    assert stored()["conclusion"] == "Second window."

    late = browser.visit("reviewer", review, calm=True)
    late.context.clear_cookies()
    late.get_by_label("History").fill("Typed after the session had ended.")
    late.get_by_text("You are signed out.").wait_for()
    late.context.add_cookies([{"name": "visitor", "value": "reviewer", "url": browser.base}])
    late.get_by_label("Findings").fill("Signed in again in another tab.")
    saved(late)
    assert stored()["history"] == "Typed after the session had ended."
    # Without a script the buttons do it.
    plain = browser.visit("reviewer", review, script=False)
    plain.get_by_label("Assessment").fill("Without a script.")
    press(plain, "Save")
    assert plain.get_by_text("The draft is saved.").is_visible()
    assert stored()["assessment"] == "Without a script."


def test_the_keyboard_alone_reaches_everything_and_shows_where_it_is(browser: Browser) -> None:
    case_id = browser.clinic.world.gathered()
    page = browser.visit("desk", f"/cases/{case_id}")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        said = page.evaluate(
            "(() => { const e = document.activeElement, s = getComputedStyle(e);"
            " return [e.tagName, e.name || e.textContent.trim().slice(0, 30), s.outlineStyle, s.outlineWidth] })()"
        )
        if said[0] == "BODY":
            break
        assert said[2] != "none", said
        reached.add(said[1])
    assert {"reviewer.family", "reviewer.npi", "Ask this reviewer", "Read the whole record"} <= reached


def test_a_page_prints_its_content_and_no_forms(browser: Browser) -> None:
    case_id = browser.clinic.world.gathered()
    page = browser.visit("desk", f"/cases/{case_id}")
    page.emulate_media(media="print")
    assert page.locator("form:visible").count() == 0
    assert not page.locator("header.top").is_visible()
    assert page.get_by_role("heading", name="Who holds what").is_visible()
