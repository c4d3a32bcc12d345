"""The memory of the service while it gathers a record with large files: it must not grow with the record.

The service runs as an operator starts it, the record comes from standin.py: documents of one patient with files of
4 MB, 20 MB of them or 100 MB, each total with a service of its own. Three kinds of EHR:

  binary  the files stand behind URLs, their bytes come as they are
  json    the files stand behind URLs, each comes as a Binary in FHIR JSON (base64)
  inline  the files are in the documents (base64), two documents a page

Flat is: the peak with the large record is at most three files above the peak with the small one.

Example: python benchmarks/memory.py --how binary
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import requests
import rig
import standin

DESK = {"Authorization": "Bearer desk"}


def gathered(how: str, files: int, size: int, per_page: int) -> dict[str, Any]:
    """Gathers one record; the service's memory before, meanwhile and at its peak."""
    with tempfile.TemporaryDirectory(prefix="bench-memory-") as name:
        folder = Path(name)
        options = ["--files", str(files), "--size", str(size), "--how", how, "--per-page", str(per_page)]
        with rig.standin(folder, *options) as base:
            connections = [rig.connection("hospital", base, 1, standin.SYSTEM)]
            with rig.served(folder, connections) as (url, process):
                return _watched(url, process.pid, connections, files)


def _watched(url: str, pid: int, connections: list[Any], files: int) -> dict[str, Any]:
    api = f"{url}/api/second-opinions"
    idle, _ = rig.rss_mb(pid)
    series: list[tuple[float, float]] = []
    over = threading.Event()
    started = time.monotonic()

    def watch() -> None:
        while not over.wait(0.05):
            series.append((round(time.monotonic() - started, 2), round(rig.rss_mb(pid)[0], 1)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        patient = rig.Patient(((standin.SYSTEM, "P-1"),))
        sent = rig.request(patient, 1, connections, gather=True)
        opened = requests.post(api, json=sent, headers=DESK, timeout=60).json()
        state: dict[str, Any] = {}
        while (state.get("gathering") or [{}])[0].get("status") not in ("completed", "failed", "on-hold"):
            if time.monotonic() > started + 300:
                sys.exit(f"The record was not gathered in five minutes: {state.get('gathering')}")
            time.sleep(0.2)
            state = requests.get(f"{api}/{opened['id']}", headers=DESK, timeout=300).json()
        seconds = time.monotonic() - started
        _, peak = rig.rss_mb(pid)
        # What a coordinator looks at next must not cost the record's size either.
        looked = requests.get(f"{api}/{opened['id']}/manifest", headers=DESK, timeout=300).json()
        requests.get(f"{api}/{opened['id']}/completeness", headers=DESK, timeout=300)
        after, looked_peak = rig.rss_mb(pid)
    finally:
        over.set()
        watcher.join()
    return {
        "status": state["gathering"][0]["status"], "documents": files, "seconds": round(seconds, 1),
        "answers": {t["type"]: [t["outcome"], t["received"], t["detail"]]
                    for source in looked["sources"] for t in source["types"] if t["received"] or t["detail"]},
        "idle": idle, "peak": peak, "peak when looked at": looked_peak, "after": after, "series": series,
    }  # fmt: skip


def main() -> None:
    """Runs it."""
    parser = rig.arguments(__doc__)
    parser.add_argument("--how", action="append", choices=["binary", "json", "inline"], help="all by default")
    parser.add_argument("--size-mb", type=float, default=4.0, help="of each file")
    parser.add_argument("--total-mb", type=float, nargs=2, default=[20.0, 100.0])
    parser.add_argument("--per-page", type=int, default=2, help="documents a page, inline; 50 otherwise")
    chosen = parser.parse_args()
    said: dict[str, Any] = {}
    for how in chosen.how or ["binary", "json", "inline"]:
        runs = {}
        for total in chosen.total_mb:
            files = round(total / chosen.size_mb)
            per_page = chosen.per_page if how == "inline" else 50
            runs[total] = gathered(how, files, round(chosen.size_mb * 1e6), per_page)
            found = runs[total]
            rig.say(f"{how}, {total:.0f} MB: {found['status']}, idle {found['idle']:.0f} MB, "
                    f"peak {found['peak']:.0f} MB, looked at {found['peak when looked at']:.0f} MB")  # fmt: skip
        small, large = (runs[total] for total in chosen.total_mb)
        said[how] = {"runs": runs, "growth": large["peak"] - small["peak"],
                     "growth when looked at": large["peak when looked at"] - small["peak when looked at"],
                     "flat": large["peak"] - small["peak"] <= 3 * chosen.size_mb}  # fmt: skip
    if chosen.json:
        print(json.dumps(said, indent=1))
        return
    head = ["files", "MB", "status", "s", "idle", "peak", "peak when looked at", "after"]
    rows = [[how, total, r["status"], r["seconds"], r["idle"], r["peak"], r["peak when looked at"], r["after"]]
            for how, found in said.items() for total, r in found["runs"].items()]  # fmt: skip
    print(rig.table(head, rows))
    for how, found in said.items():
        print(f"{how}: grows by {found['growth']:.0f} MB while gathering, {found['growth when looked at']:.0f} MB with "
              f"looking; {'flat' if found['flat'] else 'NOT flat'}")  # fmt: skip


if __name__ == "__main__":
    main()
