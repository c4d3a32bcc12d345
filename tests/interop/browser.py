"""A real Chromium before the pages: opened as somebody, looked at with axe at every width, its complaints kept."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.web.pages.conftest import Clinic

WIDTHS = (1280, 390, 360)
GRAVE = ("serious", "critical")
CONTROLS = "a[href], button, input:not([type=hidden]), select, textarea, summary"
SHOTS = os.environ.get("PAGES_SHOTS", "")  # a folder: every page that is looked at is drawn there


@dataclass
class Browser:
    """A Chromium, and the pages served to it."""

    clinic: Clinic
    chromium: Any
    base: str
    looked: int = 0
    bad: list[str] = field(default_factory=list)

    def visit(self, who: str, path: str = "/", *, width: int = 1280, script: bool = True, calm: bool = False) -> Any:
        """A page opened by somebody; whatever the browser complains about fails the test, unless `calm`."""
        context = self.chromium.new_context(viewport={"width": width, "height": 900}, java_script_enabled=script)
        context.set_default_timeout(15_000)
        page = context.new_page()
        page.on(
            "console",
            lambda m: self.bad.append(f"{path}: {m.text}") if m.type in ("error", "warning") and not calm else None,
        )
        page.on("pageerror", lambda error: self.bad.append(f"{path}: {error}"))
        page.on("request", lambda r: None if r.url.startswith((self.base, "data:")) else self.bad.append(r.url))
        if who:
            context.add_cookies([{"name": "visitor", "value": who, "url": self.base}])
        page.goto(self.base + path)
        return page

    def look(self, who: str, path: str, name: str, *, unfolded: bool = False) -> None:
        """A page at every width; `unfolded` with every part opened that a click opens, and gone through by Tab."""
        page = self.visit(who, path)
        if unfolded:
            page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            self.check(page, f"{name}-{width}")
        if unfolded:
            self.tab_through(page, name)
        page.context.close()

    def tab_through(self, page: Any, name: str) -> None:
        """The Tab key alone reaches every control that is shown, and the page shows where it is."""
        shown = page.evaluate(
            "(controls) => (window.shown = [...document.querySelectorAll(controls)]"
            ".filter((one) => one.checkVisibility())).length",
            CONTROLS,
        )
        reached = set()
        for _ in range(4 * shown):  # a date is several stops
            page.keyboard.press("Tab")
            place, outline = page.evaluate(
                "[window.shown.indexOf(document.activeElement), getComputedStyle(document.activeElement).outlineStyle]"
            )
            assert outline != "none" or place < 0, f"{name}: control {place} of {shown} shows no focus"
            reached.add(place)
            if len(reached - {-1}) == shown:
                return
        missed = page.evaluate(
            "(reached) => window.shown.filter((one, place) => !reached.includes(place)).map((one) => one.outerHTML)",
            list(reached),
        )
        raise AssertionError(f"{name}: not reached {missed}")

    def check(self, page: Any, name: str) -> None:
        """axe finds nothing grave on what is shown, and nothing reaches beyond the window."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(page).response["violations"]
        assert [(v["id"], [n["target"] for n in v["nodes"]]) for v in found if v["impact"] in GRAVE] == [], name
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, name
        below = page.evaluate("document.documentElement.scrollHeight - document.querySelector('footer').offsetTop")
        height = page.evaluate("Math.max(innerHeight, document.querySelector('footer').offsetHeight + 40)")
        assert below <= height, f"{name}: {below} px of nothing below"
        self.looked += 1
        if SHOTS:
            page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))
            page.screenshot(path=str(Path(SHOTS) / f"{name}-full.png"), full_page=True)


def press(page: Any, name: str) -> None:
    """Presses the button of that name and waits for the page that follows."""
    with page.expect_navigation():
        page.get_by_role("button", name=name, exact=True).click()


def saved(page: Any) -> None:
    """Waits until the page says that what was typed is stored."""
    page.locator("#draft-status", has_text=re.compile(r"^Saved \d\d:\d\d")).wait_for()
