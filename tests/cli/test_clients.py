"""`client add|list|remove`, and a running service that follows."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from joserfc import jwt
from joserfc.jwk import ECKey

from fhir_secondop.access.assertions import ASSERTION
from fhir_secondop.store.database import now_ms
from tests.conftest import free_port, wait_for

KEY = ECKey.generate_key("P-384", {"kid": "e1"}, private=True)
URL = ("--jwks-url", "https://lakeside.example/jwks")


@dataclass
class Line:
    """The command line in a folder with a configuration of its own."""

    folder: Path

    def __call__(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "fhir_secondop.cli", *words], cwd=self.folder, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert code == 0 or done.stdout == ""
        return done.stdout if code == 0 else done.stderr

    @property
    def file(self) -> Path:
        return self.folder / "clients.toml"


@pytest.fixture
def line(tmp_path: Path) -> Line:
    (tmp_path / "secondop.toml").write_text("")
    return Line(tmp_path)


def test_a_client_is_added_listed_and_removed_and_comments_stay(line: Line) -> None:
    line.file.write_text('# ours\n[clients.old]  # keep\nscopes = ["system/*.r"]\njwks_file = "x.json"\n')
    line.file.chmod(0o640)
    before = line.file.read_text()

    asked = ("--name", "Lakeside", "--role", "requester", "--scope", "system/Patient.rs", "--scope", "system/Task.read")
    added = json.loads(line("client", "add", "lakeside", *asked, "--party", "npi|1", *URL, "--json"))
    assert added == {
        "added": "lakeside", "file": "clients.toml", "name": "Lakeside", "roles": ["requester"],
        "scopes": ["system/Patient.rs", "system/Task.read"], "parties": ["npi|1"], "jwks_url": URL[1],
    }  # fmt: skip
    assert line.file.read_text().startswith(before)
    assert line.file.stat().st_mode & 0o777 == 0o640
    listed = json.loads(line("client", "list", "--json"))["clients"]
    assert [c["id"] for c in listed] == ["old", "lakeside"]
    assert "lakeside" in line("client", "list")
    assert json.loads(line("client", "remove", "lakeside", "--json")) == {"removed": "lakeside", "file": "clients.toml"}
    assert line.file.read_text().strip() == before.strip()


def test_a_new_clients_file_is_for_its_owner_alone(line: Line) -> None:
    line("client", "add", "lakeside", "--scope", "system/*.rs", *URL)
    assert line.file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("a b", "--scope", "system/*.rs", *URL), "letters"),
        (("a", "--scope", "system/*.sr", *URL), "system/*.sr"),
        (("a", "--scope", "user/*.rs", *URL), "user/"),
        (("a", "--scope", "system/*.rs", "--role", "king", *URL), "king"),
        (("a", "--scope", "system/*.rs"), "jwks_url or jwks_file"),
        (("a", "--scope", "system/*.rs", "--jwks-url", "http://a.example/j"), "https"),
        (("a", "--scope", "system/*.rs", "--jwks-file", "none.json"), "none.json"),
        (("old", "--scope", "system/*.rs", *URL), "already"),
    ],
)
def test_what_can_not_be_registered_is_named_and_nothing_written(
    line: Line, words: tuple[str, ...], named: str
) -> None:
    line.file.write_text('[clients.old]\njwks_url = "https://a.example/j"\n')
    before = line.file.read_text()

    assert named in line("client", "add", *words, code=1)
    assert line.file.read_text() == before


def test_a_client_that_is_not_there_can_not_be_removed(line: Line) -> None:
    assert "client list" in line("client", "remove", "nobody", code=1)


# --- a service as its own process, as operators run it ------------------------------------------------------------


@pytest.fixture
def served(line: Line) -> Iterator[str]:
    port = free_port()
    (line.folder / "secondop.toml").write_text(f'port = {port}\nauth = "smart"\n')
    with open(line.folder / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "fhir_secondop.cli", "serve"], cwd=line.folder, stdout=log, stderr=log
        )
    base = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{base}/healthz", process)
        yield base
    finally:
        process.terminate()
        process.wait(30)


def ask(base: str) -> requests.Response:
    url = f"{base}/auth/token"
    claims: dict[str, Any] = {"iss": "lakeside", "sub": "lakeside", "aud": url, "exp": now_ms() // 1000 + 200,
                              "jti": str(uuid.uuid4())}  # fmt: skip
    assertion = jwt.encode({"alg": "ES384", "kid": "e1"}, claims, KEY, algorithms=["ES384"])
    form = {"grant_type": "client_credentials", "scope": "system/Patient.rs", "client_assertion_type": ASSERTION,
            "client_assertion": assertion}  # fmt: skip
    return requests.post(url, data=form, timeout=30)


def test_a_running_service_follows_what_the_commands_write(line: Line, served: str) -> None:
    assert ask(served).status_code == 401  # it has started, and knows nobody
    (line.folder / "lakeside.json").write_text(json.dumps({"keys": [KEY.as_dict(private=False)]}))
    line("client", "add", "lakeside", "--role", "coordinator", "--scope", "system/Patient.rs", "--jwks-file",
         "lakeside.json")  # fmt: skip

    token = {"Authorization": f"Bearer {ask(served).json()['access_token']}"}
    assert requests.get(f"{served}/fhir/Patient", headers=token, timeout=30).status_code == 200

    line("client", "remove", "lakeside")
    assert requests.get(f"{served}/fhir/Patient", headers=token, timeout=30).status_code == 401
    assert ask(served).status_code == 401
    assert "eyJ" not in (line.folder / "log").read_text()
