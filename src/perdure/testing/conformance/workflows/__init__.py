"""The conformance suite of workflows: one test for each thing that a workflow, or somebody outside, may do.

It holds for every runtime, and so for every history store under one. Inherit :class:`WorkflowConformance` in a class
whose name begins with ``Test`` and override ``make_runtime``; pytest collects the rest. For a history store::

    class TestWorkflowsOnMyStore(WorkflowConformance):
        def make_runtime(self, folder, registry, *, app_id="default", worker=True):
            return EmbeddedRuntime(MyHistoryStore(folder / "store"), registry=registry, app_id=app_id, worker=worker)

Nothing in it sleeps or looks at a clock but to wait for what must come, for at most ``patience`` seconds.
"""

from perdure.testing.conformance.workflows.authoring import Authoring
from perdure.testing.conformance.workflows.children import Children
from perdure.testing.conformance.workflows.forks import Forks
from perdure.testing.conformance.workflows.generations import Generations
from perdure.testing.conformance.workflows.kit import CapableRuntime
from perdure.testing.conformance.workflows.operations import Operations
from perdure.testing.conformance.workflows.purging import Purging
from perdure.testing.conformance.workflows.queries import Queries
from perdure.testing.conformance.workflows.starting import Starting
from perdure.testing.conformance.workflows.versions import Versions

__all__ = ["CapableRuntime", "WorkflowConformance"]


class WorkflowConformance(Authoring, Children, Generations, Operations, Starting, Versions, Forks, Queries, Purging):
    """What every runtime lets workflows do; inherit it to prove a runtime, or a history store under one.

    Override ``make_runtime``. ``patience`` is the number of seconds after which what must come has not come.
    """
