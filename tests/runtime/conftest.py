from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.harness import MODES, STORES, Place, options

from perdure.runtime.embedded import EmbeddedRuntime
from perdure.workflows.registry import Registry


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(request.param, tmp_path)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def opened(place: Place, mode: str) -> Callable[..., EmbeddedRuntime]:
    """Return what makes one more runtime over the same histories, in the mode of the test."""

    def make(registry: Registry, *, store: dict[str, Any] | None = None, **others: Any) -> EmbeddedRuntime:
        runtime_options = {key: others.pop(key) for key in ("clock", "app_id", "worker") if key in others}
        return EmbeddedRuntime(
            place.store(**(store or {})), registry=registry, options=options(mode, **others), **runtime_options
        )

    return make
