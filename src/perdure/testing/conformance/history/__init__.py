"""The conformance suite of history stores: one test for each rule of the port.

Inherit :class:`HistoryStoreConformance` in a class whose name begins with ``Test`` and override ``make_store``; pytest
collects the rest. The suite needs nothing but a store: no mocks, no clock but the times that it passes itself.
"""

from perdure.testing.conformance.history.changes import ChangesOfEpisodes
from perdure.testing.conformance.history.histories import Histories
from perdure.testing.conformance.history.instances import Instances
from perdure.testing.conformance.history.keeping import Keeping, Reclaiming
from perdure.testing.conformance.history.leases import Leases
from perdure.testing.conformance.history.news import Telling
from perdure.testing.conformance.history.owning import Owning
from perdure.testing.conformance.history.queues import Queues
from perdure.testing.conformance.history.signals import Signals

__all__ = ["HistoryStoreConformance", "ReclaimingConformance"]


class HistoryStoreConformance(
    Instances, Histories, Owning, Signals, Leases, Telling, ChangesOfEpisodes, Keeping, Queues
):
    """The rules that every history store keeps; inherit it to prove an adapter.

    Override ``make_store``, and ``reopen`` where one object cannot stand for two processes. ``patience`` is the number
    of seconds after which a store must have noticed that a worker is dead.
    """


class ReclaimingConformance(Reclaiming):
    """What a store on a disk does besides: a purge gives back the room of content that nobody refers to."""
