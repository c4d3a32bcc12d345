"""What README and docs show is what there is: commands, files, options."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from fhir_secondop import cli, config
from fhir_secondop.access import tokens

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


def our_commands() -> list[tuple[str, list[str]]]:
    """Every fhir-secondop command shown on any page, as its words."""
    found = []
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.splitlines():
                if "fhir-secondop " in line:
                    words = shlex.split(line[line.index("fhir-secondop ") :], comments=True)
                    found.append((page.name, words[1:]))
        found += [(page.name, shlex.split(c)[1:]) for c in re.findall(r"`(fhir-secondop [^`]+)`", page.read_text())]
    return found


@pytest.mark.parametrize(("page", "words"), our_commands(), ids=lambda v: v if isinstance(v, str) else " ".join(v))
def test_every_command_that_a_page_shows_exists_with_its_options(page: str, words: list[str]) -> None:
    path = []
    group = cli.main
    while words and words[0] in getattr(group, "commands", {}):
        path.append(words[0])
        group = group.commands[words[0]]
        words = words[1:]
    assert path, f"{page}: no such command"
    said = CliRunner().invoke(cli.main, [*path, "--help"]).output
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0] in said, f"{page}: {' '.join(path)} has no {word}"


def test_every_command_has_help_with_an_example() -> None:
    def walk(command: object, path: list[str]) -> None:
        for name, child in getattr(command, "commands", {}).items():
            if not getattr(child, "commands", None):
                said = CliRunner().invoke(cli.main, [*path, name, "--help"])
                assert said.exit_code == 0
                assert "Example: fhir-secondop" in said.output, name
            walk(child, [*path, name])

    walk(cli.main, [])


def test_the_readme_has_one_pasteable_line_for_the_demo_and_one_for_the_tests() -> None:
    lines = [line for block in blocks(ROOT / "README.md", "bash") for line in block.splitlines()]
    assert [line for line in lines if line.startswith("python3 -m venv")] == [
        "python3 -m venv .venv && .venv/bin/pip install -q -e . && .venv/bin/fhir-secondop demo",
        "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/python -m pytest",
    ]


def test_ci_runs_the_commands_of_the_readme(tmp_path: Path) -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    awk = re.search(r'eval "\$\((awk .*? README\.md)\)"', script)
    assert awk is not None
    taken = subprocess.run(["bash", "-c", awk[1]], capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()
    assert taken.endswith(".venv/bin/python -m pytest")
    second = next(line for line in README.splitlines() if "-m shared" in line)
    install, run = second.split(" && ")
    assert install in script
    assert run in script


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text("utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_configuration_that_the_docs_show_is_taken_as_it_is(tmp_path: Path) -> None:
    shown = blocks(ROOT / "docs" / "run.md", "toml")
    (tmp_path / "secondop.toml").write_text(shown[0])
    (tmp_path / "riverside.token").write_text("secret")
    settings = config.load(str(tmp_path / "secondop.toml"), {})
    assert settings.connections["riverside"].settle_s == 60.0
    written = shown[1]
    for digit in "01":  # the docs leave the hashes open
        written = written.replace('token_sha256 = "…"', f'token_sha256 = "{digit * 64}"', 1)
    callers = tokens.load(written)
    assert {c.id for c in callers.values()} == {"coordinator", "dr-placeholder"}


def test_the_repository_names_no_machine_and_no_workplace() -> None:
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=True).stdout.split()
    telling = re.compile(r"/(?:root|work|home/\w+)/")
    for name in listed:
        if name.endswith((".py", ".md", ".toml", ".cfg", ".typ", ".html")) and name != "tests/test_readme.py":
            assert not telling.search((ROOT / name).read_text("utf-8")), name


def test_the_package_declares_what_it_imports() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert tomllib.loads(text)["build-system"]["build-backend"] == "setuptools.build_meta"
    assert subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True).returncode == 0
