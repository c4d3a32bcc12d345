"""A service with simulated EHRs and the pages in front; who visits is said by a cookie."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import TestResponse

from fhir_secondop.model import REPORT, Caller
from fhir_secondop.service import audience
from tests.service.world import World, opened
from tests.web.pages.visitors import COOKIE, Visitors, app_with_pages

PATIENT = Caller(
    "maren",
    "Maren Elise Sampleton",
    frozenset({"patient"}),
    ("user/*.rs", "user/ServiceRequest.u"),
    frozenset({"https://riverside.example/mrn|RS-100482"}),
)
OPERATOR = Caller("operator", "Operations", frozenset({"operator"}))

ANSWERS = {"conclusion": "The plan stands.", "item.1.treatment.concordance": "agreed",
           "answer.0.text": "Yes.", "answer.1.text": "Yes.", "answer.2.text": "No.", "answer.3.text": "No images.",
           "answer.3.cannot": "yes"}  # fmt: skip
WHY = {"kind": "amended", "reason": "A dose was wrong."}


class Form(HTMLParser):
    """The forms of a page: action → the names and values that a browser would send of it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.forms: list[tuple[str, dict[str, Any]]] = []
        self._field = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append((said.get("action", ""), {}))
        elif tag in ("input", "textarea", "select") and self.forms and "name" in said:
            ticked = said.get("type") not in ("checkbox", "radio") or "checked" in said
            if ticked and said.get("type") == "checkbox":
                self.forms[-1][1].setdefault(said["name"], []).append(said.get("value", "on"))
            elif ticked:
                self.forms[-1][1].setdefault(said["name"], said.get("value", ""))
            self._field = said["name"] if tag != "input" else ""
        elif tag == "option" and "selected" in said and self._field:
            self.forms[-1][1][self._field] = said["value"]

    def handle_data(self, data: str) -> None:
        if self._field and self.forms and self.lasttag == "textarea":
            self.forms[-1][1][self._field] = data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("textarea", "select"):
            self._field = ""


@dataclass
class Clinic:
    """The pages of a world, as its people open them."""

    world: World
    visitors: Visitors = field(init=False)

    def __post_init__(self) -> None:
        self.world.start()
        words = ("desk", "clinic", "reviewer", "pcp", "surgeon", "stranger")
        known = {word: self.world.caller(word) for word in words}
        self.visitors = Visitors({**known, "maren": PATIENT, "operator": OPERATOR})
        self.app = app_with_pages(self.world.service, self.visitors)

    def get(self, path: str, who: str = "desk", **headers: str) -> TestResponse:
        return self._open("GET", path, who, None, headers)

    def post(self, path: str, form: dict[str, Any] | None = None, who: str = "desk", **headers: str) -> TestResponse:
        """Posts a form with the token of the session, unless `form` says another."""
        return self._open("POST", path, who, {"csrf": f"token-of-{who}", **(form or {})}, headers)

    def _open(self, method: str, path: str, who: str, form: dict[str, Any] | None, headers: Any) -> TestResponse:
        client = self.app.test_client()
        if who:
            client.set_cookie(COOKIE, who)
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return client.open(path, method=method, data=form, headers=named)

    def text(self, path: str, who: str = "desk") -> str:
        """The words of a page that must be there, without tags."""
        answer = self.get(path, who)
        assert answer.status_code == 200, (path, answer.status_code)
        return words_of(answer)

    def forms(self, path: str, who: str = "desk") -> dict[str, dict[str, Any]]:
        """The forms that a page offers, by action."""
        answer = self.get(path, who)
        assert answer.status_code == 200, (path, answer.status_code)
        return dict(Form(answer.get_data(as_text=True)).forms)

    def send(self, page: str, action: str, who: str, **filled: Any) -> TestResponse:
        """Fills in a form of a page as a person would, and sends it; it must be offered there."""
        offered = self.forms(page, who)
        assert action in offered, (action, sorted(offered))
        return self.post(action, {**offered[action], **filled}, who)

    def admit(self, case_id: str, who: Caller) -> None:
        """Lets somebody into the audience of a case, as sign-in by link does for a patient."""
        with self.world.context.database.transaction(self.world.caller("desk")) as tx:
            audience.admit(tx, case_id, who.parties, part=REPORT)


def words_of(answer: TestResponse) -> str:
    text = re.sub(r"<[^>]*>", " ", answer.get_data(as_text=True))
    return " ".join(unescape(text).split())


def written(clinic: Clinic, case_id: str, **fields: str) -> Any:
    """The reviewer fills in the editor and saves."""
    return clinic.send(f"/cases/{case_id}/review", f"/cases/{case_id}/review", "reviewer", **fields)


def gaps_of(clinic: Clinic, case_id: str) -> list[str]:
    found: list[str] = clinic.world.get(case_id, "completeness")["gaps"]
    return found


@pytest.fixture
def clinic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clinic]:
    """Two EHRs that can be read and written, on SQLite."""
    with opened(tmp_path, f"sqlite:///{tmp_path / 'test.sqlite'}", monkeypatch) as world:
        world.ehr("riverside")
        world.ehr("lakeside")
        yield Clinic(world)


@pytest.fixture
def bare(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clinic]:
    """Without EHRs, on both databases: for what is asked of the store."""
    with opened(tmp_path, database_url, monkeypatch) as world:
        yield Clinic(world)
