"""What the browser is told with every page, whichever way it comes about."""

from __future__ import annotations

import pytest

from fhir_secondop.web import headers
from tests.web.conftest import Start


@pytest.mark.parametrize(
    "path", ["/sign-in", "/sign-in/again", "/sign-in/callback", "/case-link/x", "/ack/x", "/upload/x", "/docs"]
)
def test_every_page_forbids_frames_foreign_scripts_and_copies(start: Start, path: str) -> None:
    answer = start().browser().get(path)
    said = dict(answer.headers)
    rules = dict(rule.strip().partition(" ")[::2] for rule in said["Content-Security-Policy"].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == "'self'"
    assert rules["frame-ancestors"] == rules["base-uri"] == "'none'"
    assert "http" not in said["Content-Security-Policy"]
    assert said["X-Frame-Options"] == "DENY"
    assert said["X-Content-Type-Options"] == "nosniff"
    assert said["Referrer-Policy"] == "no-referrer"
    assert said["Cache-Control"] == "no-store"
    assert set(headers.PAGE) <= set(said)
    assert answer.text.count("<script") == answer.text.count('<script src="/assets/pages.js" defer>')
    assert "<style" not in answer.text


@pytest.mark.parametrize(("base_url", "said"), [("https://second.example", "max-age=31536000"), ("", None)])
def test_a_browser_that_came_by_tls_comes_back_by_tls(start: Start, base_url: str, said: str | None) -> None:
    for path in ("/sign-in", "/fhir/metadata", "/fhir/Patient"):
        answer = start(base_url=base_url).browser().get(path)
        assert answer.headers.get("Strict-Transport-Security") == said
