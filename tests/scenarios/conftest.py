"""What the walks leave in their databases is kept where KEEP_STORED says: both validators judge it.

KEEP_STORED=kept pytest tests/scenarios
python -m tests.conformance --stored kept
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import stored


@pytest.fixture(autouse=True)
def keep_stored(request: pytest.FixtureRequest) -> Iterator[None]:
    target = os.environ.get("KEEP_STORED")
    # Only then: not every test has a folder of its own.
    folder: Path | None = request.getfixturevalue("tmp_path") if target else None
    yield
    if target and folder:
        stored.keep(folder, re.sub(r"\W+", "-", request.node.name).strip("-"), Path(target))
