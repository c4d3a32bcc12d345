"""A TOML file that commands change in place: comments stay, and readers never see half of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fhir_secondop.errors import Invalid


def document(file: Path) -> Any:
    """The file as tomlkit edits it; an empty document where there is none. Raises Invalid when it is not TOML."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        return tomlkit.parse(file.read_text("utf-8")) if file.exists() else tomlkit.document()
    except TOMLKitError as error:
        raise Invalid(f"{file} is not TOML: {error}") from error


def write(file: Path, edited: Any) -> None:
    """Replaces the file by the edited document, with the mode that it had, else for this user alone."""
    import tomlkit

    partial = file.with_name(f"{file.name}.part")
    partial.touch(mode=0o600)
    partial.write_text(tomlkit.dumps(edited), "utf-8")
    if file.exists():
        partial.chmod(file.stat().st_mode)
    partial.replace(file)
