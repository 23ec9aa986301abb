"""Episodes whose commit failed in the last flush, and may have been kept all the same.

What was written before a flush that failed is in the log; whoever reads the whole log after a crash takes it for
committed. The worker that submits such an episode again must then find its own row, and not another worker's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from perdure.components.history.sqlite.errors import is_unknown
from perdure.components.history.sqlite.group import Append, Submission

_RECORDED = """
SELECT 1 FROM worker, history
WHERE worker.token = ? AND history.instance = ? AND history.seq = ? AND history.events = ?
"""


class Doubts:
    """Remembers the episodes of one writer that are in doubt."""

    def __init__(self) -> None:
        self._places: set[tuple[int, int, int]] = set()

    def note_failure(self, submissions: Iterable[Submission], error: Exception) -> None:
        """Take note of a commit that failed."""
        if is_unknown(error):
            # What an episode changes around it has answers of its own: such a one is refused later, and its instance
            # begun anew.
            appends = (one for one in submissions if type(one) is Append)
            self._places.update(_place(append) for append in appends if append.episode.changes is None)

    def note_success(self, submissions: Iterable[Submission]) -> None:
        """Take note of a commit."""
        if self._places:
            self._places.difference_update(_place(one) for one in submissions if type(one) is Append)

    def resolves(self, connection: sqlite3.Connection, submission: Submission) -> bool:
        """Whether an episode in doubt turns out to be in the history, under a lease that is still valid.

        Raises:
            sqlite3.Error: the store cannot be read.
        """
        if type(submission) is not Append or _place(submission) not in self._places:
            return False
        row = connection.execute(_RECORDED, (*_place(submission), submission.episode.events)).fetchone()
        self._places.discard(_place(submission))
        return row is not None


def _place(append: Append) -> tuple[int, int, int]:
    return append.lease.token, append.episode.key, append.episode.seq
