"""The sign-in of a system that docs/run.md shows, pasted as it stands there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.web.limits.conftest import serving

PAGE = (Path(__file__).parents[3] / "docs" / "run.md").read_text("utf-8")


def test_a_system_signs_in_with_curl_as_the_page_says(tmp_path: Path) -> None:
    [section] = re.findall(r"\nTo try it by hand,(.*?)\nSettings:", PAGE, re.DOTALL)
    key, add, assertion, asked, answers = re.findall(r"```\w+\n(.*?)```", section, re.DOTALL)
    here = f"'{sys.executable}'"
    ours = f'fhir-secondop() {{ {here} -m fhir_secondop.cli "$@"; }}; python() {{ {here} "$@"; }}\n'
    subprocess.run([sys.executable, "-c", key], cwd=tmp_path, check=True)
    # given a service that knows nobody, and is told while it runs
    with serving(tmp_path, auth="smart") as service:

        def pasted(commands: str) -> str:
            script = ours + commands.replace("http://127.0.0.1:8100", service.url)
            done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
            return done.stdout

        (tmp_path / "assertion.py").write_text(assertion.replace("http://127.0.0.1:8100", service.url))
        pasted(add)
        # when the commands of the page are given
        printed = pasted(asked.replace("\ncurl", "\necho; curl")).split("\n")
    # then it got a token for what it may do, and each call the answer of the page
    granted = json.loads((tmp_path / "token.json").read_text())
    assert (granted["token_type"], granted["scope"], granted["expires_in"]) == ("bearer", "system/*.rs", 300)
    shown = answers.replace("http://127.0.0.1:8100", service.url).splitlines()
    assert [line for line in printed if line] == shown
