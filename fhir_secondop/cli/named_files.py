"""The files that a configuration names, each by where it stands there: "alerts.email.secret_file"."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from fhir_secondop.alert_settings import Email
from fhir_secondop.config import FILES, Settings
from fhir_secondop.model import Connection

_OF_SERVICE = (*(f.name for f in fields(Settings) if f.name.endswith("_file")), "demo_people", "checklists", "clocks")
# Whoever reads one of them signs in as somebody, or signs. The others may be known, and must not be lost.
_SECRET = frozenset({
    "token_file", "link_secret_file", "metrics_token_file", "keys_file", "document_keys_file", "oidc_secret_file",
    "demo_people", "secret_file", "key_file", "client_key",
})  # fmt: skip


def of(settings: Settings) -> dict[str, str]:
    """Where it stands → the file or folder, of those that are there."""
    named = {key: getattr(settings, key) for key in _OF_SERVICE}
    for where, one in _reached(settings).items():
        named |= {f"{where}.{key}": getattr(one, key) for key in FILES if hasattr(one, key)}
    return {where: name for where, name in named.items() if name and Path(name).exists()}


def secret(settings: Settings) -> dict[str, str]:
    """Those of them that nobody else may read. The token file has none unless systems sign in by it."""
    unused = frozenset() if settings.auth == "tokens" else frozenset({"token_file"})
    return {
        where: name
        for where, name in of(settings).items()
        if where.rpartition(".")[2] in _SECRET and where not in unused
    }


def asked(settings: Settings) -> dict[str, Connection]:
    """Whom we send something of a patient, by where the configuration has it: EHRs, and validators, who see what is
    written.
    """
    return {
        **{f"connections.{name}": each for name, each in settings.connections.items()},
        **{f"validators.{name}": each.connection for name, each in settings.validators.items()},
    }


def _reached(settings: Settings) -> dict[str, Connection | Email]:
    """Everybody whom we connect to."""
    found: dict[str, Connection | Email] = {**asked(settings)}
    found |= {f"alerts.webhooks.{name}": each for name, each in settings.alerts.webhooks.items()}
    return found | ({"alerts.email": settings.alerts.email} if settings.alerts.email else {})
