"""Settings from one TOML file and SECONDOP_* variables over it; the only reader of the environment.

The file is the one that `--config` or SECONDOP_CONFIG names, else ./secondop.toml where there is one.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fhir_secondop.errors import Invalid
from fhir_secondop.model import Connection

DEFAULT_FILE = "secondop.toml"
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
AUTHS = ("tokens", "none")


@dataclass(frozen=True, slots=True)
class Settings:
    """What is in force. `origins` says where each value came from: default, the file, or the variable."""

    host: str = "127.0.0.1"
    port: int = 8100
    base_url: str = ""  # the public URL; never taken from the Host header
    database: str = "secondop.sqlite"
    auth: str = "tokens"
    token_file: str = "tokens.toml"
    link_secret_file: str = "link-secret"
    consent_policy: str = "treatment-implied"
    log_level: str = "INFO"
    polling_s: float = 0.2
    connections: Mapping[str, Connection] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def public_url(self) -> str:
        """The URL under which others reach us, without a slash at the end."""
        return (self.base_url or f"http://{self.host}:{self.port}").rstrip("/")


def load(path: str = "", environment: Mapping[str, str] | None = None) -> Settings:
    """The settings in force. Raises Invalid naming the key that is wrong, and what is allowed."""
    variables = os.environ if environment is None else environment
    chosen = path or variables.get("SECONDOP_CONFIG", "")
    file = Path(chosen or DEFAULT_FILE)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    connections: dict[str, Connection] = {}
    if file.exists():
        loaded = _read(file)
        connections = {name: _connection(name, entry, file) for name, entry in loaded.pop("connections", {}).items()}
        for key, value in loaded.items():
            values[key] = value
            origins[key] = str(file)
    elif chosen:
        raise Invalid(f"The configuration file {chosen} does not exist.")
    for key, value in variables.items():
        name = key.removeprefix("SECONDOP_").lower()
        if key.startswith("SECONDOP_") and name in _KEYS:
            values[name] = value
            origins[name] = key
    settings = Settings(**_typed(values, file), connections=connections, origins=origins)
    return _checked(settings, file)


_KEYS = {f.name: f.type for f in fields(Settings) if f.name not in ("connections", "origins")}


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"{file} is not TOML: {error}") from error


def _typed(values: dict[str, Any], file: Path) -> dict[str, Any]:
    unknown = sorted(set(values) - set(_KEYS))
    if unknown:
        raise Invalid(f"{file}: unknown setting {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}.")
    try:
        converters: dict[str, Any] = {"int": int, "float": float, "str": str}
        return {key: converters[str(_KEYS[key])](value) for key, value in values.items()}
    except ValueError as error:
        raise Invalid(f"{file}: {error}") from error


def _connection(name: str, entry: dict[str, Any], file: Path) -> Connection:
    known = {f.name for f in fields(Connection)} - {"name"}
    unknown = sorted(set(entry) - known)
    if unknown:
        raise Invalid(f"{file}: connections.{name}.{unknown[0]} is unknown; known are {', '.join(sorted(known))}.")
    if not str(entry.get("base", "")).startswith(("http://", "https://")):
        raise Invalid(f"{file}: connections.{name}.base must be an http(s) URL.")
    connection = Connection(name=name, **entry)
    return replace(connection, base=connection.base.rstrip("/"))


def _checked(settings: Settings, file: Path) -> Settings:
    if settings.auth not in AUTHS:
        raise Invalid(f"auth={settings.auth}: use one of {', '.join(AUTHS)}.")
    if settings.host not in _LOOPBACK:
        raise Invalid(
            f"host={settings.host}: this version listens on loopback only (127.0.0.1); "
            "sign-in for a network is not built yet, see docs/roadmap.md."
        )
    # Paths in the file are meant from where the file is.
    folder = file.parent
    changed = {
        key: str(folder / getattr(settings, key))
        for key in ("token_file", "link_secret_file")
        if not Path(getattr(settings, key)).is_absolute()
    }
    if "://" not in settings.database and not Path(settings.database).is_absolute():
        changed["database"] = str(folder / settings.database)
    return replace(settings, **changed)  # type: ignore[arg-type]
