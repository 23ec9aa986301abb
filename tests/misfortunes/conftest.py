from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.misfortunes.faults import Faults, compiled


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the compiled fault library."""
    return compiled(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def faults(shim: Path, tmp_path: Path) -> Iterator[Faults]:
    """Return faults that strike the store of the test, all switched off."""
    switches = Faults(shim, tmp_path / "faults", "perdure.db")
    yield switches
    switches.close()
