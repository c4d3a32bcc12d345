"""The pages of a service with three EHRs, and a Chromium before them."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from waitress.server import create_server

from tests.conftest import free_port
from tests.interop.browser import Browser
from tests.service.world import opened
from tests.web.pages.conftest import Clinic


@pytest.fixture
def browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Browser]:
    # Asked for inside the fixture: a skip at collection would show in the first suite, which skips nothing.
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    pytest.importorskip("axe_playwright_python", reason="pip install axe-playwright-python")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with opened(tmp_path, f"sqlite:///{tmp_path / 'test.sqlite'}", monkeypatch) as world:
        for name, shape in (("riverside", "full"), ("lakeside", "full"), ("hillcrest", "read-only")):
            world.ehr(name, shape)
        clinic = Clinic(world)
        port = free_port()
        server = create_server(clinic.app, host="127.0.0.1", port=port, threads=8)
        threading.Thread(target=server.run, daemon=True).start()
        with playwright.sync_playwright() as started:
            chromium = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
            made = Browser(clinic, chromium, f"http://127.0.0.1:{port}")
            yield made
            chromium.close()
            assert made.bad == []
        server.close()
