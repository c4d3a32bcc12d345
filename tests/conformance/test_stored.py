"""Everything that a whole case stores and sends, in the end, is right by both validators."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance import oracle, report, stored
from tests.scenarios.test_loop import told

pytestmark = pytest.mark.shared


def test_all_that_an_amended_case_leaves_anywhere_is_valid(tmp_path: Path) -> None:
    with told(tmp_path) as story:
        story.run()
        story.amend()
    found = list(stored.kept(tmp_path))
    assert {name.partition(" ")[0] for name, _ in found} == {"secondop", "lakeside", "riverside", "hillcrest"}
    with oracle.running() as validator:
        counted, refused = stored.judged(found, validator)
    print(report.table(counted))
    assert (counted.differing, refused) == ([], [])
    assert counted.total.cases > 200
