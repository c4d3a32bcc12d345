from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of reference data that is not ours to ship (SECONDOP_TEST_DATA)."""
    root = Path(__file__).parent.parent
    folder = Path(os.environ.get("SECONDOP_TEST_DATA", root / "../shared/data"))
    if not folder.is_dir():
        pytest.skip("reference data absent; set SECONDOP_TEST_DATA")
    return folder
