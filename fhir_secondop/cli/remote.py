"""A running service, as the commands see it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click

from fhir_secondop.cli.output import Plain, json_option
from fhir_secondop.errors import Invalid, Issue, Unavailable


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say which service, and as whom."""
    for option in (
        json_option,
        click.option("--token-file", default="", help=(
            "A file with your token, or a token file of the service (then as its --caller).")),
        click.option("--caller", default="coordinator", show_default=True, help="Whose token of a token file."),
        click.option("--url", default="http://127.0.0.1:8100", show_default=True, help="The service."),
    ):  # fmt: skip
        command = option(command)
    return command


class Remote:
    """A running service, for the commands that ask it."""

    def __init__(self, url: str, token_file: str, caller: str) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {_token(token_file, caller)}"} if token_file else {}

    def call(self, method: str, path: str, body: Plain | None = None) -> Plain:
        """One request at the plain JSON door, below /api/second-opinions. Raises Unavailable with what it refuses."""
        return self._send(method, f"/api/second-opinions{path}", body, "application/json")

    def api(self, method: str, path: str, body: Plain | None = None) -> Plain:
        """One request at the plain JSON door, below /api. Raises Unavailable with what it refuses."""
        return self._send(method, f"/api{path}", body, "application/json")

    def fhir(self, method: str, path: str, body: Plain) -> Plain:
        """One request at the FHIR door. Raises Unavailable with what it refuses."""
        return self._send(method, f"/fhir{path}", body, "application/fhir+json")

    def _send(self, method: str, path: str, body: Plain | None, kind: str) -> Plain:
        import requests

        headers = {**self._headers, "Content-Type": kind}
        answer = requests.request(method, f"{self._url}{path}", json=body, headers=headers, timeout=120)
        plain: Plain = answer.json()
        if answer.status_code >= 400:
            issues = [Issue("error", "", i.get("expression", [""])[0], i["diagnostics"]) for i in plain["issue"]]
            raise Unavailable(issues[0].diagnostics, issues=issues)
        return plain


def _token(path: str, caller: str) -> str:
    import tomllib

    text = Path(path).read_text("utf-8").strip()
    if "[callers." not in text:
        return text
    entry = tomllib.loads(text)["callers"].get(caller)
    if entry is None or "token" not in entry:
        raise Invalid(f"{path} has no token of {caller!r}.")
    return str(entry["token"])


def read_json(file: Path) -> Plain:
    """The JSON object in a file. Raises Invalid."""
    try:
        loaded = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise Invalid(f"{file} is not JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise Invalid(f"{file} must hold one JSON object.")
    return loaded
