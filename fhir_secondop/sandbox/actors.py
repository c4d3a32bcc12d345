"""The scripted people of the demo: the coordinator's desk, the reviewer, the doctors. Public HTTP only, like anyone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests

from fhir_secondop.errors import Unavailable

Plain = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a token, talking to the service at `url`."""

    name: str
    url: str
    token: str

    def get(self, path: str) -> Plain:
        """GET below /api/second-opinions."""
        return self._call("GET", path, None)

    def post(self, path: str, body: Plain, key: str = "") -> Plain:
        """POST below /api/second-opinions."""
        return self._call("POST", path, body, key)

    def _call(self, method: str, path: str, body: Plain | None, key: str = "") -> Plain:
        headers = {"Authorization": f"Bearer {self.token}", **({"Idempotency-Key": key} if key else {})}
        answer = requests.request(
            method, f"{self.url}/api/second-opinions{path}", json=body, headers=headers, timeout=60
        )
        plain: Plain = answer.json()
        if answer.status_code >= 400:
            says = "; ".join(f"{i.get('expression', [''])[0]} {i['diagnostics']}" for i in plain.get("issue", []))
            raise Unavailable(f"{self.name}: {method} {path} answered {answer.status_code}: {says}")
        return plain


def acknowledge_by_link(url: str, name: str, role: str) -> None:
    """Opens an acknowledgement link as a person would, and confirms."""
    shown = requests.get(url, timeout=60)
    if shown.status_code == 200 and "Already confirmed" in shown.text:
        return
    answer = requests.post(url, data={"name": name, "role": role}, timeout=60)
    if answer.status_code != 200:
        raise Unavailable(f"The link answered {answer.status_code}.")


def wait(what: str, ready: Callable[[], Any], timeout_s: float = 120.0) -> Any:
    """The first true answer of `ready`, asked ten times a second. Raises Unavailable when it takes too long."""
    ends = time.monotonic() + timeout_s
    while time.monotonic() < ends:
        found = ready()
        if found:
            return found
        time.sleep(0.1)
    raise Unavailable(f"Waited {timeout_s:.0f} s for {what}.")
