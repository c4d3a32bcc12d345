"""The review in a real Chromium, by its people's own hands: what is found, held, booked, proposed, called about, read
blind, compared and asked; each page with axe at every width, each page with forms gone through by the keyboard."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fhir_secondop.fhir import times
from fhir_secondop.model import Caller
from fhir_secondop.service import learned
from tests.interop.browser import Browser, press
from tests.service.test_proposals import result_of
from tests.service.test_third import DISCORDANT, THIRD
from tests.service.world import EXAMPLES, NPI, World
from tests.web.pages.test_learned import MANY

pytestmark = pytest.mark.shared
THIRD_READER = Caller(
    "third", "Dr. Tertia Sample", frozenset({"reviewer"}), ("user/*.rus",), frozenset({f"{NPI}|9000000199"})
)
STANDIN = "Dr. Clara Standin"


def unfold(page: Any, summary: str) -> Any:
    """Opens a part of a page by the keyboard; the form in it."""
    part = page.locator("details", has=page.locator("summary", has_text=summary)).last
    if part.get_attribute("open") is None:
        part.locator("summary").first.focus()
        page.keyboard.press("Enter")
    form = part.locator("form")
    form.wait_for()
    return form


def typed(page: Any, *said: str) -> None:
    """Goes through the fields of a form by Tab alone and fills them; "" leaves one as it is."""
    for text in said:
        page.keyboard.press("Tab")
        seen = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert seen != "none", text
        if text:
            page.keyboard.type(text)


def test_a_reviewer_is_found_asked_held_and_booked_by_hand(browser: Browser) -> None:
    world = browser.clinic.world
    case_id = world.gathered()
    case = f"/cases/{case_id}"
    directory = json.loads((EXAMPLES / "directory.json").read_text("utf-8"))
    assert world.call("POST", "/fhir/$load-directory", directory).status_code == 200
    browser.look("desk", f"{case}/reviewers", "reviewers", unfolded=True)

    desk = browser.visit("desk", case)
    unfold(desk, "Have it read blind first")
    press(desk, "Read it blind first")
    unfold(desk, "It is read blind first")
    press(desk, "Show the first opinion from the start")
    desk.get_by_role("link", name="Find a reviewer").click()
    box = desk.get_by_label(f"Ask {STANDIN}")
    box.focus()
    desk.keyboard.press("Space")
    assert box.is_checked()
    press(desk, "Ask whom I have ticked")
    assert desk.get_by_text("The reviewer was asked.").is_visible()

    reviewer = browser.visit("reviewer", case)
    reviewer.get_by_label("Your interests in this case").fill("none")
    press(reviewer, "Accept the review")

    desk.goto(browser.base + case)
    form = unfold(desk, "Put the case on hold")
    form.get_by_label("What it waits for").select_option("insufficient-records")
    form.get_by_label("What it waits for").focus()
    typed(desk, "The slides are on their way.")
    press(desk, "Put on hold")
    assert desk.get_by_text("Both clocks stand still.").is_visible()
    browser.look("desk", case, "case-on-hold")
    press(desk, "Go on with the case")
    assert desk.get_by_text("1 pause", exact=True).is_visible()

    form = unfold(desk, "Record a booking")
    form.get_by_label("How").select_option("visit")
    form.get_by_label("Where").fill("Room 4")
    begins = times.instant(world.clock() + 3_600_000)[:13]
    form.get_by_label("From").fill(f"{begins}:00")
    form.get_by_label("To", exact=True).fill(f"{begins}:45")
    press(desk, "Record it")
    assert desk.get_by_role("cell", name="booked").is_visible()
    world.clock.forward(7_200)
    form = unfold(desk, "Say what became of the appointment")
    form.get_by_label("What became of it").select_option("noshow")
    form.get_by_label("Reason, if it did not take place").fill("The train did not run.")
    press(desk, "Record it")
    assert desk.get_by_role("cell", name="the patient did not come").is_visible()
    browser.look("desk", case, "case-booked", unfolded=True)


def test_what_is_proposed_and_urgent_reaches_a_person_and_ends(browser: Browser) -> None:
    world = browser.clinic.world
    case_id = world.gathered()
    case = f"/cases/{case_id}"
    world.accept(case_id)

    reviewer = browser.visit("reviewer", case)
    unfold(reviewer, "Propose a test or a change now")
    typed(reviewer, "", "MRI of the breast", "The margin is not seen.")
    press(reviewer, "Propose it")
    assert reviewer.get_by_text("It is on its way to every recipient.").is_visible()
    form = unfold(reviewer, "Have somebody called now")
    form.get_by_label("Deputy").select_option(label="Dr. Ines Placeholder (requester, PCP)")
    form.locator("xpath=../summary").focus()
    typed(reviewer, "Cord compression on the new images")
    press(reviewer, "Raise it")
    browser.look("reviewer", case, "case-urgent", unfolded=True)
    world.work(60)

    desk = browser.visit("desk")
    browser.look("desk", "/", "work-list-urgent")
    desk.locator("details", has_text="Somebody must be called now").get_by_role(
        "link", name="Maren Elise Sampleton"
    ).click()
    assert desk.url.endswith("#urgent")
    desk.get_by_label("When").fill(times.instant(world.clock())[:16])
    desk.get_by_label("What was read back").fill("Imaging today; the patient is called in.")
    press(desk, "Record the conversation")
    assert desk.get_by_text("spoken about").is_visible()

    reviewer.goto(f"{browser.base}{case}/review")
    item = reviewer.get_by_role("group", name="(diagnosis)").first
    item.get_by_label("Significance").select_option("critical")
    item.get_by_label("Told in the urgent call").select_option(index=1)
    option = reviewer.get_by_role("group", name="Option 1", exact=True)
    option.get_by_label("What", exact=True).fill("Surgery this week")
    option.get_by_label("Your opinion").select_option("preferred")
    option.get_by_label("What speaks for it").fill("The deficit is new.")
    press(reviewer, "Save")
    chosen = reviewer.get_by_label("Told in the urgent call").first.locator("option:checked").inner_text()
    assert chosen == "Cord compression on the new images (spoken about)"
    browser.look("reviewer", f"{case}/review", "editor-critical", unfolded=True)

    surgeon = browser.visit("surgeon", case)
    form = unfold(surgeon, "Answer a proposal")
    form.get_by_label("Your answer").select_option("accepted")
    press(surgeon, "Answer")
    assert surgeon.get_by_text("taken up", exact=True).is_visible()
    browser.look("surgeon", case, "case-answered")

    desk.goto(f"{browser.base}{case}/records")
    desk.get_by_label("The result", exact=True).select_option(result_of(world, case_id))
    browser.look("desk", f"{case}/records", "record-result")
    press(desk, "It is the result")
    assert desk.get_by_text("Result: ").is_visible()


def test_the_opinions_stand_side_by_side_and_a_third_is_read_blind(browser: Browser) -> None:
    clinic, world = browser.clinic, browser.clinic.world
    clinic.visitors.callers = {**clinic.visitors.callers, "third": THIRD_READER}
    case_id = _discordant(world)
    case = f"/cases/{case_id}"

    surgeon = browser.visit("surgeon", case)
    browser.look("surgeon", case, "case-discordant", unfolded=True)
    surgeon.get_by_label("Your question about the report").fill("Does the dose change?")
    press(surgeon, "Ask the reviewer")
    assert surgeon.locator("section", has_text="Does the dose change?").get_by_text("not answered yet").is_visible()
    desk = browser.visit("desk")
    desk.locator("details", has_text="A follow-up question is open").get_by_role("link").click()
    assert desk.get_by_role("heading", name="Questions about the report").is_visible()
    browser.look("desk", case, "case-follow-up")

    surgeon.get_by_label("Why", exact=True).fill("They disagree on the disease.")
    press(surgeon, "Ask for a third opinion")
    surgeon.get_by_role("link", name="its case").click()
    third = surgeon.url.rpartition("/")[2]
    world.work()
    desk.goto(f"{browser.base}/cases/{third}")
    form = unfold(desk, "Ask somebody who is not in the directory")
    for label, text in (("Given name", "Tertia"), ("Family name", "Sample"), ("NPI", "9000000199"),
                        ("Organization", "Northfield Made-up Hospital"), ("Code", "207RX0202X")):  # fmt: skip
        form.get_by_label(label, exact=True).fill(text)
    press(desk, "Ask this reviewer")

    reader = browser.visit("third", f"/cases/{third}")
    reader.get_by_label("Your interests in this case").fill("none")
    reader.get_by_text("Independence is not fully known, or fails").click()
    reader.get_by_label("Attestation").fill("I know none of them.")
    press(reader, "Accept the review")
    browser.look("third", f"/cases/{third}", "case-blind")
    reader.get_by_role("link", name="Read blind, and write your first read").click()
    browser.look("third", f"/cases/{third}/first-read", "first-read", unfolded=True)
    assert DISCORDANT["proposed"]["text"] not in reader.content()
    reader.get_by_label("Assessment").focus()
    reader.keyboard.type("It looks benign to me.")
    typed(reader, "Fibroadenoma", "Watch it.")
    press(reader, "Lock my first read and open the first opinion")
    assert reader.get_by_text("Your first read is locked; the first opinion is open.").is_visible()


def _discordant(world: World) -> str:
    """A signed case whose opinions disagree, so that a third is suggested."""
    with (world.folder / "tokens.toml").open("a") as tokens:
        tokens.write(THIRD)
    case_id = world.gathered()
    world.accept(case_id)
    draft = json.loads((EXAMPLES / "breast-treatment-plan/review.json").read_text("utf-8"))["draft"]
    gaps = world.get(case_id, "completeness")["gaps"]
    world.post(case_id, "submit-report", {**draft, "items": [DISCORDANT], "gapsConfirmed": gaps}, "reviewer")
    world.post(case_id, "sign", who="reviewer")
    world.work(60)
    return case_id


def test_what_was_learned_is_seen_in_plots_and_tables(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    browser.look("desk", "/learned", "learned-few")
    browser.clinic.world.clock.forward(3_600)  # the numbers are kept for a while
    monkeypatch.setattr(learned, "_outcomes", lambda context: iter(MANY))
    browser.look("desk", "/learned", "learned")
    page = browser.visit("desk", "/learned")
    for plot in page.locator("img.plot").all():
        assert plot.evaluate("(one) => one.complete && one.naturalWidth") > 0
