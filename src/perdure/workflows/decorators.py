"""``@workflow`` and ``@activity``: the decorators of the registry where a runtime looks unless told otherwise."""

from __future__ import annotations

from perdure.workflows.registry import default_registry

workflow = default_registry.workflow
activity = default_registry.activity
