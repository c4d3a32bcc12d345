"""What must be there at the end, whatever died on the way: each thing once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fhir_secondop.sandbox.story import Story
from tests.scenarios.cluster import EHRS, Cluster
from tests.scenarios.numbers import check_events

Plain = dict[str, Any]


def check(
    cluster: Cluster, killed: Sequence[str], board: Plain, kills: int, story: Story | None = None
) -> None:  # fmt: skip
    """The board of an undisturbed run of the story, or the cluster's own; each thing once at each EHR, each Task ended
    once, each copy made once."""
    assert len(killed) >= kills, killed
    story = story or cluster.story
    case_id = story.case_id
    assert board["case"]["aligned"] is True
    assert [row["aligned"] for row in board["providers"]] == [True] * 4
    assert [row["rung"] for row in board["providers"]] == ["5", "1", "1", "10"]
    assert [row["version"] for row in board["providers"]] == [1] * 4
    for name in EHRS:
        contents = cluster.copies(name, case_id)
        assert (len(contents), len(set(contents))) == (2, 2), f"{name}: report and plan, once each"
    reports = [r for r in cluster.at("lakeside", "DiagnosticReport") if "47040-1" in json.dumps(r.get("code", {}))]
    ids = Counter(json.dumps(r["identifier"], sort_keys=True) for r in reports)
    assert max(ids.values()) == 1
    results = [o["identifier"][0]["value"] for o in cluster.at("lakeside", "Observation") if "focus" not in o
               and any("urn:uuid" in i.get("value", "") for i in o.get("identifier", []))]  # fmt: skip
    assert max(Counter(results).values(), default=0) == 1

    package = [e["resource"] for e in cluster.ours(f"ServiceRequest/{case_id}/$package")["entry"]]
    tasks = [r for r in package if r["resourceType"] == "Task"]
    gathering = [t for t in tasks if "gather-records" in json.dumps(t["code"])]
    deliveries = [t for t in tasks if "deliver-" in json.dumps(t["code"])]
    assert (len(gathering), len(deliveries)) == (2, 8)
    for task in [*gathering, *deliveries]:
        history = cluster.ours(f"Task/{task['id']}/_history")["entry"]
        ends = [e["resource"]["status"] for e in reversed(history)]
        # Once it is completed it stays so; acknowledgements are written into it afterwards.
        assert ends.index("completed") == len(ends) - ends.count("completed"), ends
        if task in gathering:
            assert ends.count("completed") == 1, ends
    # What was gathered was merged once: each copy is in its first version, and there is one of each.
    copies = [r for r in package if "source" in r.get("meta", {})]
    assert len(copies) > 80
    assert {r["meta"]["versionId"] for r in copies} == {"1"}
    assert max(Counter(r["meta"]["source"] for r in copies).values()) == 1
    assert [r["meta"]["versionId"] for r in package if r["resourceType"] == "List"] == ["1", "1"]
    assert cluster.ours(f"Provenance/{provenance_of(package)}")["meta"]["versionId"] == "1"
    sources = cluster.act(lambda: story.people["coordinator"].get(f"/{case_id}/manifest"))["sources"]
    assert {line["outcome"] for s in sources for line in s["types"]} <= {"answered", "not-offered"}
    assert check_events(cluster.database) > 20
    # The logs name no fault of ours but those of the killing.
    for name in cluster.processes:
        log = cluster.log(name).splitlines()
        faults = [number for number, line in enumerate(log) if "failed: " in line]
        assert faults == [], "\n".join(log[max(0, faults[0] - 60) : faults[0] + 10])


def provenance_of(package: list[Plain]) -> str:
    """The Provenance of the first gathering."""
    found = [p for p in package if p["resourceType"] == "Provenance"
             and any("Binary/" in e["what"].get("reference", "") for e in p.get("entity", []))]  # fmt: skip
    assert len(found) == 2
    return str(found[0]["id"])
