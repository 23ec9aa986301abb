from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from tests.runtime.harness import Place, options

from perdure.runtime.embedded import EmbeddedRuntime
from perdure.testing.conformance.workflows import CapableRuntime, WorkflowConformance
from perdure.workflows.registry import Registry


class _Embedded(WorkflowConformance):
    kind, mode = "sqlite", "warm"

    def make_runtime(
        self, folder: Path, registry: Registry, *, app_id: str = "default", worker: bool = True
    ) -> AbstractAsyncContextManager[CapableRuntime]:
        places: dict[Path, Place] = self.__dict__.setdefault("places", {})
        store = places.setdefault(folder, Place(self.kind, folder)).store()
        given: dict[str, Any] = {"app_id": app_id, "worker": worker}
        return EmbeddedRuntime(store, registry=registry, options=options(self.mode), **given)


class TestWorkflowsOnSQLite(_Embedded):
    pass


class TestWorkflowsOnSQLitePutAway(_Embedded):
    mode = "put-away"


class TestWorkflowsInMemory(_Embedded):
    kind = "memory"


class TestWorkflowsInMemoryPutAway(_Embedded):
    kind, mode = "memory", "put-away"
