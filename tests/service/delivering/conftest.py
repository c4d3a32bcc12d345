"""Deliveries are tried on SQLite, and on both databases where it matters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.world import World, opened


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """On SQLite: what is tried here does not depend on the database."""
    with opened(tmp_path, f"sqlite:///{tmp_path / 'test.sqlite'}", monkeypatch) as made:
        yield made


@pytest.fixture
def both(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """On both databases: for what stands or falls with a transaction."""
    with opened(tmp_path, database_url, monkeypatch) as made:
        yield made
