"""Settings: what is wrong is named, nothing fails open."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from fhir_secondop import config
from fhir_secondop.access import consent
from fhir_secondop.alert_settings import Alerts, Bounds, Email, Level
from fhir_secondop.ehr import auth
from fhir_secondop.errors import Invalid

WRONG = {
    'consent_policy = "explict"': "consent_policy",
    'same_organization = "pass"': "same_organization",
    'urgent_minutes = "15,30"': "urgent_minutes",
    'urgent_minutes = "15,60,30"': "urgent_minutes",
    'log_level = "LOUD"': "log_level",
    'log_format = "xml"': "log_format",
    'otlp_endpoint = "collector:4318"': "otlp_endpoint",
    "trace_ratio = 2": "trace_ratio",
    "trace_ratio = nan": "trace_ratio",
    'trace_callers = "yes"': "trace_callers",
    "port = 70000": "port",
    "polling_s = -1": "polling_s",
    "requests_per_s = -1": "requests_per_s",
    "requests_per_s = nan": "requests_per_s",
    "burst = 0": "burst",
    "max_entries = 0": "max_entries",
    'trusted_proxy = "*"': "trusted_proxy",
    'trusted_proxy = "proxy.example.org"': "trusted_proxy",
    'trusted_proxy = "10.0.0.1/8"': "trusted_proxy",
    'base_url = "not a url"': "base_url",
    'host = "0.0.0.0"': "trusted_proxy",
    'auth = "open"': "auth",
    "token_s = 59": "token_s",
    "token_s = 3601": "token_s",
    "connections = 3": "connections",
    "prot = 8100": "prot",
    '[connections]\nx = "http://a"': "connections.x",
    '[connections.x]\nbase = "ftp://a"': "connections.x.base",
    '[connections.x]\nbase = "http://a"\nauth = "oauth"': "connections.x.auth",
    '[connections.x]\nbase = "http://a"\ntimeout_s = "soon"': "connections.x.timeout_s",
    '[connections.x]\nbase = "http://a"\ntimeout_s = -1': "connections.x.timeout_s",
    '[connections.x]\nbase = "http://a"\nauth = "bearer"': "connections.x.secret_file",
    '[connections.x]\nbase = "http://a"\norganization = "noPipe"': "connections.x.organization",
    '[connections.x]\nbase = "http://a"\nsurprise = 1': "connections.x.surprise",
    '[connections.x]\nbase = "http://us:s3cret@a"': "connections.x.base",
    '[connections.x]\nbase = "http://[::1"': "connections.x.base",
    '[connections.x]\nbase = "http://a"\norigins = ["http://us@b"]': "connections.x.origins",
    '[connections.x]\nbase = "http://a"\nnetworks = "10.0.0.0/8"': "connections.x.networks",
    '[connections.x]\nbase = "http://a"\nnetworks = [10]': "connections.x.networks",
    '[connections.x]\nbase = "http://a"\nnetworks = ["10.0.0.1/8"]': "connections.x.networks",
    '[connections.x]\nbase = "http://a"\nnetworks = ["inside"]': "connections.x.networks",
    '[connections.x]\nbase = "http://a"\nnetworks = ["0.0.0.0/0"]': "connections.x.networks",
    '[connections.x]\nbase = "http://a"\nnetworks = ["::/0"]': "connections.x.networks",
    "validators = 3": "validators",
    "[validators]\nx = 3": "validators.x",
    '[validators.x]\nprofiles = ["http://p/"]': "validators.x.base",
    '[validators.x]\nbase = "http://a"': "validators.x.profiles",
    '[validators.x]\nbase = "http://a"\nprofiles = []': "validators.x.profiles",
    '[validators.x]\nbase = "http://a"\nprofiles = "http://p/"': "validators.x.profiles",
    '[validators.x]\nbase = "http://a"\nprofiles = ["us-core"]': "validators.x.profiles",
    '[validators.x]\nbase = "http://a"\nprofiles = ["http://p/"]\nprotocol = "java"': "validators.x.protocol",
    '[validators.x]\nbase = "http://a"\nprofiles = ["http://p/"]\nrequired = 1': "validators.x.required",
    '[validators.x]\nbase = "http://a"\nprofiles = ["http://p/"]\ntimeout_s = 600': "validators.x.timeout_s",
    '[validators.x]\nbase = "http://a"\nprofiles = ["http://p/"]\nvendor = "epic"': "validators.x.vendor",
    '[validators.x]\nbase = "http://a"\nprofiles = ["http://p/"]\nauth = "bearer"': "validators.x.secret_file",
    "alerts = 3": "alerts",
    "[alerts]\nqueue = 3": "alerts.queue",
    "[alerts]\nqueue_depth = -1": "alerts.queue_depth",
    "[alerts]\nheld_minutes = 1.5": "alerts.held_minutes",
    "[alerts]\nheld_minutes = true": "alerts.held_minutes",
    "[alerts]\nhold_down_s = 3601": "alerts.hold_down_s",
    "[alerts]\nno_worker_minutes = -1": "alerts.no_worker_minutes",
    "[alerts.overall]\nqueue_depth = -1": "alerts.overall.queue_depth",
    "[alerts.connections.x]\nqueue_depth = 3": "alerts.connections.x",
    '[connections.x]\nbase = "http://a"\n[alerts.connections.x]\ndepth = 3': "alerts.connections.x.depth",
    '[alerts.email]\nsender = "us@a"': "alerts.email.host",
    '[alerts.email]\nhost = "a b"\nsender = "us@a"': "alerts.email.host",
    '[alerts.email]\nhost = "a"\nsender = "Us <us@a>"': "alerts.email.sender",
    '[alerts.email]\nhost = "a"\nsender = "us@a\\nBcc: them@b"': "alerts.email.sender",
    '[alerts.email]\nhost = "a"\nsender = "us@a"\nsecurity = "ssl"': "alerts.email.security",
    '[alerts.email]\nhost = "a"\nsender = "us@a"\nport = 0': "alerts.email.port",
    '[alerts.email]\nhost = "a"\nsender = "us@a"\nusername = "us"': "alerts.email.username",
    '[alerts.email]\nhost = "a"\nsender = "us@a"\nusername = "us"\nsecret_file = "no"': "alerts.email.secret_file",
    '[alerts.email]\nhost = "a"\nsender = "us@a"\nusername = "us"\nsecret_file = "n"\n'
    'security = "none"': "alerts.email.security",
    '[alerts.email]\nhost = "a"\nsender = "us@a"\ntimeout_s = 31': "alerts.email.timeout_s",
    '[alerts.email]\nhost = "a"\nsender = "us@a"\nnetworks = ["inside"]': "alerts.email.networks",
    '[alerts.webhooks.x]\nurl = "http://a"\nsecret_file = "no"': "alerts.webhooks.x.url",
    '[alerts.webhooks.x]\nurl = "https://us:s3cret@a"\nsecret_file = "no"': "alerts.webhooks.x",
    '[alerts.webhooks.x]\nurl = "https://a"': "alerts.webhooks.x.secret_file",
    '[alerts.webhooks.x]\nurl = "https://a"\nsecret_file = "no"': "alerts.webhooks.x.secret_file",
    '[alerts.webhooks.x]\nurl = "https://a"\nsecret_file = "no"\nauth = "basic"': "alerts.webhooks.x.auth",
    "[alerts]\nlevels = 3": "alerts.levels",
    "[[alerts.levels]]\nafter = 3": r"alerts.levels\[1\].after",
    "[[alerts.levels]]\nafter_minutes = 3": r"alerts.levels\[1\]",
    '[[alerts.levels]]\nemail = ["us@a"]': r"alerts.levels\[1\].email",
    '[[alerts.levels]]\nwebhooks = ["x"]': r"alerts.levels\[1\].webhooks",
    '[alerts.email]\nhost = "a"\nsender = "us@a"\n[[alerts.levels]]\nemail = "us@a"': r"alerts.levels\[1\].email",
    '[alerts.email]\nhost = "a"\nsender = "us@a"\n[[alerts.levels]]\nemail = ["us"]': r"alerts.levels\[1\].email",
    '[alerts.email]\nhost = "a"\nsender = "us@a"\n[[alerts.levels]]\nemail = ["us@a"]\n[[alerts.levels]]\n'
    'email = ["us@a"]': r"alerts.levels\[2\].after_minutes",
}


@pytest.mark.parametrize(("text", "named"), WRONG.items(), ids=WRONG.values())
def test_a_wrong_setting_is_refused_and_named(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "secondop.toml").write_text(text)
    with pytest.raises(Invalid, match=named):
        config.load(str(tmp_path / "secondop.toml"), {})


def test_the_alerts_that_the_docs_show_are_taken_as_they_are(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text("utf-8")
    (shown,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    for name in ("smtp.password", "pager.secret"):
        (tmp_path / name).write_text("x")
    (tmp_path / "secondop.toml").write_text(f'{shown}\n[connections.riverside]\nbase = "https://ehr.example"\n')
    alerts = config.load(str(tmp_path / "secondop.toml"), {}).alerts
    assert (alerts.each, alerts.overall) == (Alerts().each, Alerts().overall)
    assert (alerts.hold_down_s, alerts.no_worker_minutes) == (Alerts().hold_down_s, Alerts().no_worker_minutes)
    assert alerts.bounds("riverside") == replace(alerts.each, oldest_undelivered_minutes=15)
    assert [level.after_minutes for level in alerts.levels] == [0, 30]
    for table in (Bounds, Email, Level, Alerts):
        for setting in fields(table):
            written = {
                "each": "[alerts]",
                "overall": "[alerts.overall]",
                "of_connection": "[alerts.connections.",
                "levels": "[[alerts.levels]]",
                "email": "[alerts.email]",
                "webhooks": "[alerts.webhooks.",
            }
            assert written.get(setting.name, setting.name) in shown, setting.name


def test_networks_are_addresses_or_ranges(tmp_path: Path) -> None:
    given = '[connections.x]\nbase = "http://a"\nnetworks = ["10.0.0.0/8", "10.20.30.40", "fc00::/7", "fd12::1/128"]'
    (tmp_path / "secondop.toml").write_text(given)
    connection = config.load(str(tmp_path / "secondop.toml"), {}).connections["x"]
    assert connection.networks == ("10.0.0.0/8", "10.20.30.40", "fc00::/7", "fd12::1/128")


def test_a_validator_is_reached_like_an_ehr_but_sooner_given_up(tmp_path: Path) -> None:
    given = '[validators.x]\nbase = "https://a/fhir/"\nprofiles = ["http://p/"]\nauth = "smart"\nclient_id = "us"'
    (tmp_path / "secondop.toml").write_text(given)
    validator = config.load(str(tmp_path / "secondop.toml"), {}).validators["x"]
    assert (validator.name, validator.profiles, validator.protocol, validator.required) == (
        "x", ("http://p/",), "fhir", False,
    )  # fmt: skip
    assert (validator.connection.base, validator.connection.timeout_s) == ("https://a/fhir", 10.0)
    assert validator.connection.key_file == str(tmp_path / "keys.json"), "the service's own keys"


def test_a_misspelt_variable_is_refused_and_named() -> None:
    with pytest.raises(Invalid, match="SECONDOP_PROT"):
        config.load("", {"SECONDOP_PROT": "1"})


def test_the_command_line_wins_over_variables_and_those_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "secondop.toml").write_text("port = 1")
    path = str(tmp_path / "secondop.toml")
    assert config.load(path, {}).port == 1
    assert config.load(path, {"SECONDOP_PORT": "2"}).port == 2
    assert config.load(path, {"SECONDOP_PORT": "2"}, said={"port": 3}).port == 3
    assert config.load(path, {"SECONDOP_PORT": "2"}, said={"port": 3}).origins["port"] == "--port"


def test_the_settings_know_what_the_rooms_below_can_do() -> None:
    assert config.CONSENT_POLICIES == consent.POLICIES
    assert set(config.CONNECTION_AUTHS) == set(auth.WAYS)
