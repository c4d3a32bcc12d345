"""The pages of the profiles in docs are what would be made of the profiles today."""

from __future__ import annotations

import re
from functools import cache

import pytest

from tools.make_profile_pages import PAGES, pages

NAMES = sorted(file.name for file in PAGES.iterdir())


@cache
def made() -> dict[str, str]:
    return pages()


def test_every_page_is_there_and_no_other() -> None:
    """If not: python -m tools.make_profile_pages"""
    assert {file.name for file in PAGES.iterdir()} == set(made())


@pytest.mark.parametrize("name", NAMES)
def test_page_says_what_would_be_made_now(name: str) -> None:
    """If not: python -m tools.make_profile_pages"""
    assert (PAGES / name).read_text("utf-8") == made()[name]


@pytest.mark.parametrize("name", NAMES)
def test_links_of_a_page_lead_somewhere(name: str) -> None:
    for file, _, anchor in (
        target.partition("#") for target in re.findall(r"\]\((?!http)([^)]+)\)", made()[name]) if target
    ):
        assert not file or (PAGES / file).resolve().is_file(), file
        assert not anchor or f"\n## {anchor}\n" in made()[file or name], anchor


def test_a_table_has_as_many_cells_in_each_row() -> None:
    for name, text in made().items():
        width = 0
        for line in text.split("\n"):
            cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
            assert not cells or not width or cells == width, (name, line)
            width = cells
