"""docs/endpoint.md, as a new user would paste it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.interop.our_service import serving

PAGE = Path(__file__).parents[2] / "docs" / "endpoint.md"


def test_every_line_of_the_page_is_answered_as_it_says(tmp_path: Path) -> None:
    lines = [line for block in re.findall(r"```bash\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
             for line in block.splitlines()]  # fmt: skip
    said = [line[2:5] for line in lines if line.startswith("# ")]
    asked = [line for line in lines if line.startswith("curl -si ")]
    assert len(said) == len(asked) > 20
    with serving(tmp_path / "service") as base:
        script = "\n".join(f"{line} | head -n 1" if line in asked else line for line in lines)
        script = script.replace("http://127.0.0.1:8100/fhir", base)
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    answered = re.findall(r"^HTTP/1\.1 (\d{3})", done.stdout, re.MULTILINE)
    assert list(zip(answered, asked, strict=True)) == list(zip(said, asked, strict=True))
