"""A report that was really signed: the same facts are read from its document and from each form that it presents."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.opinion import readers
from tests.service.world import World, opened


@pytest.fixture
def world(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with opened(tmp_path, database_url, monkeypatch) as made:
        made.ehr("lakeside")
        yield made


def test_the_document_and_each_form_of_a_signed_report_say_the_same(world: World) -> None:
    case_id = world.signed()
    world.amend(case_id, "corrected")

    (report,) = [r for r in world.package(case_id, "DiagnosticReport") if r["status"] == "corrected"]
    bundles = {b["identifier"]["value"]: b for b in world.package(case_id, "Bundle")}
    pdf, text, page = (base64.b64decode(form["data"]) for form in report["presentedForm"])
    told = readers.squeezed(readers.of_pdf(pdf))

    assert (told["status"], told["version"]) == ("corrected", 2)
    assert len(told) == 28
    assert readers.squeezed(readers.of_text(text.decode())) == told
    assert readers.squeezed(readers.of_xhtml(page.decode())) == told
    assert readers.squeezed(readers.of_bundle(bundles[told["versionId"]])) == told
