"""The red list: each thing that is unfit is named, and nothing is when it is fit."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fhir_secondop import config
from fhir_secondop.alert_settings import Alerts, Email
from fhir_secondop.cli import main, named_files, production
from fhir_secondop.config import Settings
from fhir_secondop.errors import Invalid
from fhir_secondop.model import Connection, Validator


def fit(folder: Path) -> Settings:
    return Settings(
        host="0.0.0.0", auth="smart", base_url="https://opinion.example", trusted_proxy="10.0.0.2", audit="strict",
        database="postgresql://user@db.example/secondop?sslmode=verify-full", oidc_issuer="https://id.example",
        people_file=str(folder / "people.toml"), link_secret_file=str(folder / "link"),
        keys_file=str(folder / "keys.json"),
        connections={"a": Connection("a", "https://ehr.example/fhir", auth="smart", client_id="x")},
    )  # fmt: skip


def levels(settings: Settings) -> set[str]:
    return {check.level for check in production.checks(settings)}


def test_a_fit_configuration_is_all_green(tmp_path: Path) -> None:
    assert levels(fit(tmp_path)) == {"ok"}
    assert production.report(fit(tmp_path))["fit"] is True


UNFIT: list[tuple[dict[str, Any], str, str]] = [
    ({"auth": "none"}, "red", "everybody who reaches the port"),
    ({"auth": "tokens"}, "red", "tokens that never end"),
    ({"base_url": ""}, "red", "no https address"),
    ({"base_url": "http://opinion.example"}, "red", "no https address"),
    ({"trusted_proxy": ""}, "warn", "no trusted_proxy"),
    ({"demo_people": "accounts.toml"}, "red", "accounts of the demo"),
    ({"oidc_issuer": ""}, "warn", "people can't sign in"),
    ({"oidc_issuer": "http://id.example"}, "red", "without TLS"),
    ({"session_idle_s": 7200}, "warn", "nobody uses"),
    ({"database": "postgresql://user:secret@127.0.0.1/x"}, "red", "password stands in the configuration"),
    ({"database": "postgresql://user@db.example/x"}, "red", "without a checked certificate"),
    ({"database": "postgresql://user@db.example/x?sslmode=require"}, "red", "without a checked certificate"),
    ({"database": "secondop.sqlite"}, "warn", "SQLite"),
    ({"requests_per_s": 0.0}, "red", "no limit of requests"),
    ({"log_level": "DEBUG"}, "warn", "the log says more"),
    ({"blocked_labels": " "}, "red", "labels keep nothing out"),
    ({"audit": "default"}, "warn", "power failure"),
    ({"connections": {"a": Connection("a", "http://ehr.example/fhir")}}, "red", "a: records travel without TLS"),
    ({"connections": {"a": Connection("a", "https://ehr.example", auth="basic")}}, "warn", "a: signs in by basic"),
    (
        {"validators": {"v": Validator(Connection("v", "http://v.example"), ("http://p/",))}},
        "red",
        "v: records travel without TLS",
    ),
]


@pytest.mark.parametrize(("changed", "level", "said"), UNFIT)
def test_each_unfit_thing_is_named(tmp_path: Path, changed: dict[str, Any], level: str, said: str) -> None:
    found = [c for c in production.checks(replace(fit(tmp_path), **changed)) if c.level != "ok"]
    assert [(c.level, c.what) for c in found if said in c.what], found
    assert {c.level for c in found if said in c.what} == {level}
    assert all(c.do for c in found)


# What stands in a file in the configuration, and whether it is a secret: whatever ends like a file's name must be here.
OF_SERVICE = {
    "token_file": True, "clients_file": False, "link_secret_file": True, "metrics_token_file": True, "keys_file": True,
    "document_keys_file": True, "people_file": False, "oidc_secret_file": True, "demo_people": True,
    "checklists": False, "clocks": False,
}  # fmt: skip
OF_REACHED = {"secret_file": True, "key_file": True, "ca_bundle": False, "client_cert": False, "client_key": True}
REACHED = {
    "connections.ehr": Connection("ehr", "https://ehr.example/fhir"),
    "validators.guide": Connection("guide", "https://v.example"),
    "alerts.webhooks.pager": Connection("pager", "https://pager.example"),
    "alerts.email": Email("mail.example", 587, "desk@hospital.example"),
}


def naming(where: str, file: Path) -> Settings:
    """A configuration that names one file, in the place that is said ("alerts.email.secret_file")."""
    table, _, key = where.rpartition(".")
    if not table:
        return replace(fit(file.parent), **{key: str(file)})  # type: ignore[arg-type]
    one: Any = replace(REACHED[table], **{key: str(file)})
    name = table.rpartition(".")[2]
    return replace(
        fit(file.parent),
        connections={name: one} if table.startswith("connections") else {},
        validators={name: Validator(one, ("http://p/",))} if table.startswith("validators") else {},
        alerts=Alerts(
            email=one if table == "alerts.email" else None, webhooks={name: one} if "webhooks" in table else {}
        ),
    )


NAMED = OF_SERVICE | {
    f"{table}.{key}": secret
    for table, one in REACHED.items()
    for key, secret in OF_REACHED.items()
    if hasattr(one, key)
}


@pytest.mark.parametrize(("where", "secret"), NAMED.items())
def test_every_file_that_is_named_is_kept_besides_and_a_secret_is_red_when_others_can_read_it(
    tmp_path: Path, where: str, secret: bool
) -> None:
    file = tmp_path / "named"
    file.write_text("x")
    file.chmod(0o640)
    settings = naming(where, file)
    assert {key: path for key, path in named_files.of(settings).items() if path == str(file)} == {where: str(file)}
    if where == "token_file":
        assert levels(settings) == {"ok"}, "where systems sign in with keys there are no tokens in it"
        settings = replace(settings, auth="tokens")
    said = [c.level for c in production.checks(settings) if c.what == f"{where}: others on this machine can read it"]
    assert said == (["red"] if secret else [])
    file.chmod(0o600)
    assert not any("others on this machine" in c.what for c in production.checks(settings))


def test_no_setting_that_names_a_file_is_forgotten() -> None:
    known = {*OF_SERVICE, *OF_REACHED}
    for table in (Settings, Connection, Email):
        named = {f.name for f in fields(table) if re.search("(file|cert|key|bundle)$", f.name)}
        assert named <= known, table


def test_a_token_that_stands_in_its_file_is_red(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text('[callers.a]\ntoken = "abc"\n')
    file.chmod(0o600)
    found = production.checks(replace(fit(tmp_path), auth="tokens", token_file=str(file)))
    assert any("stand in the token file" in c.what for c in found)


def test_the_command_says_it_and_fails(tmp_path: Path) -> None:
    file = tmp_path / "secondop.toml"
    file.write_text('auth = "none"\n')
    done = CliRunner().invoke(main, ["doctor", "--production", "--json", "--config", str(file)])
    said = json.loads(done.stdout)
    assert (done.exit_code, said["fit"]) == (1, False)
    assert len(said["notChecked"]) >= 5
    shown = CliRunner().invoke(main, ["doctor", "--production", "--config", str(file)]).stdout
    assert shown.splitlines()[0].startswith("RED ")
    assert "you answer for it" in shown


# ---- nothing is reached from elsewhere without sign-in and TLS

EXPOSED = 'host = "0.0.0.0"\nauth = "smart"\nbase_url = "https://o.example"\ntrusted_proxy = "10.0.0.2"\n'


def test_with_sign_in_and_a_proxy_others_may_reach_it(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(EXPOSED)
    assert config.load(str(tmp_path / "a.toml"), {}).is_exposed


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [('"smart"', '"tokens"', "auth"), ('"smart"', '"none"', "auth"), ("https:", "http:", "base_url"),
     ('base_url = "https://o.example"', "", "base_url"), ('trusted_proxy = "10.0.0.2"', "", "trusted_proxy")],
)  # fmt: skip
def test_without_one_of_them_it_does_not_start(tmp_path: Path, old: str, new: str, named: str) -> None:
    (tmp_path / "a.toml").write_text(EXPOSED.replace(old, new))
    with pytest.raises(Invalid, match=named):
        config.load(str(tmp_path / "a.toml"), {})
