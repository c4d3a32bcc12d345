"""SEKMET's scenarios (PyPI sekmet-fhir) with our running service as the hospital's FHIR server: it signs in by SMART
Backend Services, and registers, admits, orders, reports, books and bills there; and its smoke test of R4's rules."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey

from tests.web.limits.conftest import serving

pytestmark = pytest.mark.shared

CLIENT = """
[clients.clinic]
name = "The clinic's system"
roles = ["coordinator"]
scopes = ["system/*.cruds"]
jwks_file = "clinic.json"
"""
# How many steps of each pass.
PASSED = {
    "adt_admit_transfer_discharge": 9, "adt_merge_update": 6, "appointment_book_cancel": 13, "billing_claim": 7,
    "clinical_documentation": 12, "conformance_smoke": 18, "lab_order_to_result": 11, "medication_order_dispense": 9,
    "rad_order_imaging_report": 8,
}  # fmt: skip
# What it leaves out of them: our CapabilityStatement does not say that we do it, or nobody here plays that part.
SKIPPED = {
    "billing_claim": "peer does not play role 'payer'",
    "bulk_export_group": "peer does not advertise $export",
    "lab_order_peer_fills": "peer does not play role 'lab-filler'",
    "messaging_adt_orders": "peer does not advertise FHIR messaging",
    "subscription_backport_roundtrip": "peer does not advertise create on Subscription",
    "subscription_roundtrip": "peer does not advertise create on Subscription",
}


def test_its_scenarios_pass_but_those_of_what_we_do_not_offer(tmp_path: Path) -> None:
    # Asked for inside the test: a skip at collection would show in the first suite, which skips nothing.
    pytest.importorskip("sekmet")
    key = ECKey.generate_key("P-384", {"kid": "c1", "alg": "ES384", "use": "sig"}, private=True)
    (tmp_path / "clinic.json").write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    (tmp_path / "clinic.pem").write_bytes(key.as_pem(private=True))
    (tmp_path / "clients.toml").write_text(CLIENT)
    with serving(tmp_path, auth="smart", writable_types="all", requests_per_s=0) as service:
        auth = {"type": "smart", "client_id": "clinic", "private_key_path": str(tmp_path / "clinic.pem"),
                "kid": "c1", "alg": "ES384", "scope": "system/*.cruds"}  # fmt: skip
        settings = {"base_url": "http://127.0.0.1:9/fhir", "data_dir": str(tmp_path / "sekmet"),
                    "simulator": {"enabled": False},
                    "peers": {"secondop": {"base_url": f"{service.url}/fhir", "auth": auth}}}  # fmt: skip
        (tmp_path / "settings.yaml").write_text(json.dumps(settings))  # JSON is YAML
        command = [sys.executable, "-c", "from sekmet.cli import app; app()", "scenario", "run", "all",
                   "--peer", "secondop", "--no-serve", "--config", str(tmp_path / "settings.yaml"),
                   "--report-dir", str(tmp_path / "reports")]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    [report] = (tmp_path / "reports").rglob("results.json")
    results = {Path(each["file"]).stem: each for each in json.loads(report.read_text("utf-8"))}
    failed = [(name, step["name"], step["message"]) for name, each in results.items() for step in each["steps"]
              if step["status"] not in ("passed", "skipped")]  # fmt: skip
    assert failed == [], done.stdout[-6000:]
    assert {name: passed(each) for name, each in results.items() if passed(each)} == PASSED
    left_out = {name: {step["message"] for step in each["steps"] if step["status"] == "skipped"}
                for name, each in results.items()}  # fmt: skip
    assert {name for name, messages in left_out.items() if messages} == SKIPPED.keys(), left_out
    for name, says in SKIPPED.items():
        assert all(message.startswith(says) for message in left_out[name]), left_out[name]


def passed(result: dict[str, Any]) -> int:
    return sum(step["status"] == "passed" for step in result["steps"])
