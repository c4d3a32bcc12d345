"""The settings and the people file that docs/security.md shows are taken as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

from fhir_secondop import config
from fhir_secondop.access import people

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text("utf-8")


def test_what_the_page_on_sign_in_shows_is_taken_as_it_is(tmp_path: Path) -> None:
    section = PAGE.partition("## Sign-in for people")[2]
    settings, known = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)[:2]
    for name, text in (("secondop.toml", settings), ("people.toml", known), ("oidc-secret", "x")):
        (tmp_path / name).write_text(text)
    read = config.load(str(tmp_path / "secondop.toml"), {})
    assert read.people_file == str(tmp_path / "people.toml")
    found = people.load(known)
    assert {p.id: sorted(p.roles) for p in found.values()} == {
        "clara": ["reviewer"],
        "desk": ["coordinator", "requester"],
    }
    for role in people.SCOPES:
        assert role in section, role
