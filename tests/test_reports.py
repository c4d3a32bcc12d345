"""The printed reports in docs are what the program would print of the same facts today."""

from __future__ import annotations

from pathlib import Path

import pypdfium2
import pytest

from fhir_secondop.opinion import render
from tools.make_reports import REPORTS, reports


def pages_of(pdf: bytes) -> list[str]:
    return [page.get_textpage().get_text_range() for page in pypdfium2.PdfDocument(pdf)]


@pytest.mark.parametrize("name", ["short", "typical", "long"])
def test_a_report_in_docs_says_what_would_be_printed_now(name: str) -> None:
    """If not: python -m tools.make_reports, and look at the pictures."""
    assert pages_of((REPORTS / f"{name}.pdf").read_bytes()) == pages_of(render.pdf("report", reports()[name]))


def test_a_short_report_is_one_page_and_no_picture_is_large() -> None:
    assert len(pages_of((REPORTS / "short.pdf").read_bytes())) == 1
    assert [p.name for p in Path(REPORTS).glob("*.png") if p.stat().st_size > 300_000] == []
