"""The dashboard, the alert rules and the table in the docs ask for what /metrics really gives."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.service.world import World, opened

DOCS = Path(__file__).parents[2] / "docs"
DASHBOARD = DOCS / "operating/grafana-dashboard.json"
RULES = DOCS / "operating/alerts.yml"
_NAME = re.compile(r"\bsecondop_\w+")
_SELECTOR = re.compile(r"\b(secondop_\w+)(?:\{([^}]*)\})?")
_OURS = frozenset({"job", "instance", "le"})  # Prometheus' own labels


@pytest.fixture
def text(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """/metrics after a case whose deliveries partly failed."""
    with opened(tmp_path, database_url, monkeypatch) as world:
        world.ehr("riverside")
        world.ehr("lakeside")
        world.signed()
        world.ehrs["lakeside"].close()
        world.work()
        yield scraped(world)


def scraped(world: World) -> str:
    answer = world.client.get("/metrics", headers={"Authorization": "Bearer desk"})
    return str(answer.get_data(as_text=True))


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    shown = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    text = re.sub(r">-\n\s+(.*?)\n(?=        \w)", lambda m: m[1].replace("\n", " ") + "\n", RULES.read_text("utf-8"),
                  flags=re.DOTALL)  # fmt: skip
    rules = re.findall(r"^ +expr: (.*)$", text, re.MULTILINE)
    assert (len(shown), len(rules)) > (25, 8)
    return [*shown, *rules]


def test_every_metric_that_is_asked_for_is_there_with_the_labels_it_is_asked_by(text: str) -> None:
    families = list(text_string_to_metric_families(text))
    labels: dict[str, set[str]] = {}
    for family in families:
        for name in (family.name, f"{family.name}_total"):
            labels.setdefault(name, set())
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    # These have a sample only when there is something to say.
    labels["secondop_signed_cases"] |= {"breakdown", "group", "measure", "category"}
    labels["secondop_turnaround_business_days"] |= {"breakdown", "group", "clock", "quantile"}
    labels["secondop_workflows"] |= {"queue", "state"}
    labels["secondop_http_refused_total"] |= {"status"}
    labels["secondop_http_connections"] |= {"process"}
    labels["secondop_workflow_steps_total"] |= {"step", "outcome"}
    for expression in expressions():
        named = _SELECTOR.findall(expression)
        assert named, expression
        for name, selected in named:
            assert name in labels, f"{name} is in no answer of /metrics"
            asked = set(re.findall(r"(\w+)\s*=", selected))
            assert asked <= labels[name] | _OURS, (name, asked)
        grouped = {one.strip() for by in re.findall(r"by \(([^)]*)\)", expression) for one in by.split(",")}
        assert grouped <= set().union(*(labels[name] for name, _ in named)) | _OURS, expression


def test_the_table_in_the_docs_has_every_metric_and_no_other(text: str) -> None:
    page = (DOCS / "operating.md").read_text("utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `secondop_")]
    described = {name for row in rows for name in _NAME.findall(row)}
    given = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in text_string_to_metric_families(text)
    }
    assert described == given


@pytest.mark.shared
def test_prometheus_takes_the_rules_and_the_metrics(text: str, tmp_path: Path) -> None:
    tool = promtool(tmp_path)
    done = subprocess.run([tool, "check", "rules", str(RULES)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 rules found" in done.stdout
    done = subprocess.run([tool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "alerts.yml").write_text(RULES.read_text("utf-8"))
    (tmp_path / "late.yml").write_text(LATE)
    done = subprocess.run([tool, "test", "rules", "late.yml"], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


LATE = """
rule_files: [alerts.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: 'secondop_oldest_undelivered_seconds{connection="lakeside", instance="a"}'
        values: '14000+60x30'
      - series: 'secondop_oldest_undelivered_seconds{connection="riverside", instance="a"}'
        values: '0x30'
      - series: 'secondop_workers{state="working", instance="a"}'
        values: '1x10 0x20'
    alert_rule_test:
      - {eval_time: 5m, alertname: DeliveryLate}
      - eval_time: 20m
        alertname: DeliveryLate
        exp_alerts:
          - exp_labels: {severity: page, connection: lakeside}
            exp_annotations:
              summary: "A delivery to lakeside has not arrived for 4h 13m 20s."
              do: "Look at the operator's page; a delivery on hold says why, and is replayed when that is mended."
      - {eval_time: 9m, alertname: NoWorker}
      - eval_time: 15m
        alertname: NoWorker
        exp_alerts:
          - exp_labels: {severity: page}
            exp_annotations: {summary: "Nobody gathers or delivers: no worker is alive."}
"""


def promtool(folder: Path) -> str:
    """Prometheus' own tool: the one that is there, else Debian's, unpacked for this test."""
    there = shutil.which("promtool")
    if there:
        return there
    got = subprocess.run(["apt-get", "download", "prometheus"], cwd=folder, capture_output=True, timeout=300)
    packages = list(folder.glob("prometheus_*.deb"))
    if got.returncode or not packages:
        pytest.skip("no promtool, and Debian's package can't be had")
    subprocess.run(["dpkg", "-x", str(packages[0]), str(folder / "tool")], check=True)
    return str(folder / "tool/usr/bin/promtool")
