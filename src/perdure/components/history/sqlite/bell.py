"""The bell: a datagram socket of each process beside the database, on which the others ring when there is news for it.

What is sent is a hint and no more: one byte that says what to look for in the store. So a full queue loses nothing (the
listener is about to look anyway), and a lost datagram costs no more than the listener's next look of its own accord.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

from perdure.ports.history_store import News

_LONGEST_ADDRESS = 100
"""Bytes that every system takes as the path of a socket (Linux 107, macOS 103)."""

_NAME = re.compile("[0-9a-f]{12}")

_HEARD_AT_ONCE = 64
"""Datagrams read in one turn of the event loop at most; the rest has the next one."""

_NOBODY_LISTENS = {errno.ECONNREFUSED, errno.ENOENT}


class Bell:
    """This process's bell, and the way to those of the others.

    Args:
        database: the file beside which the sockets are.

    Attributes:
        name: file name of this process's socket; None while it does not listen.
    """

    def __init__(self, database: Path) -> None:
        self._folder = database.parent
        self._prefix = f"{database.name}-bell-"
        self._folder_fd: int | None = None
        self._listening: socket.socket | None = None
        self._ringing: socket.socket | None = None
        self.name: str | None = None

    def hang(self, on_news: Callable[[News], None]) -> None:
        """Listen from now on; ``on_news`` is called in the running event loop, once for all that came together.

        Raises:
            OSError, NotImplementedError: the system, the event loop or the folder has no such sockets, or the path is
                too long for them.
        """
        name = self._prefix + secrets.token_hex(6)
        listening = _new_socket()
        try:
            listening.bind(self._address(name))
            (self._folder / name).chmod(0o600)
            asyncio.get_running_loop().add_reader(listening, self._hear, listening, on_news)
        except BaseException:
            listening.close()
            self.remove(name)
            raise
        self._listening, self.name = listening, name

    def take_down(self) -> None:
        """Stop listening. Idempotent."""
        if self._listening is not None:
            # A loop that is closed already has forgotten its readers.
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
        if self.name is not None:
            self.remove(self.name)
        self._listening = self.name = None

    def close(self) -> None:
        """Stop listening and ringing. Idempotent."""
        self.take_down()
        if self._ringing is not None:
            self._ringing.close()
            self._ringing = None
        if self._folder_fd is not None:
            os.close(self._folder_fd)
            self._folder_fd = None

    def ring(self, name: str, news: News) -> None:
        """Tell the process with this bell; never waits, never fails."""
        if not self._is_bell(name):
            return
        with contextlib.suppress(OSError):
            if self._ringing is None:
                self._ringing = _new_socket()
            self._ringing.sendto(bytes([news.value]), self._address(name))

    def is_abandoned(self, name: str) -> bool:
        """Whether nobody listens any more to a bell."""
        if not self._is_bell(name):
            return True
        try:
            with _new_socket() as probe:
                probe.connect(self._address(name))
        except OSError as error:
            return error.errno in _NOBODY_LISTENS
        return False

    def remove(self, name: str) -> None:
        """Remove the socket that a process left."""
        if self._is_bell(name):
            with contextlib.suppress(OSError):
                (self._folder / name).unlink(missing_ok=True)

    def _is_bell(self, name: str) -> bool:
        # Names come out of the database, and lead to no other file, whatever is written there.
        return _NAME.fullmatch(name.removeprefix(self._prefix)) is not None and name.startswith(self._prefix)

    def _address(self, name: str) -> str:
        path = self._folder / name
        if len(os.fsencode(path)) <= _LONGEST_ADDRESS:
            return str(path)
        if self._folder_fd is None:
            self._folder_fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # A short way to a far folder, where the system has one.
        return f"/proc/self/fd/{self._folder_fd}/{name}"

    def _hear(self, listening: socket.socket, on_news: Callable[[News], None]) -> None:
        news = News(0)
        with contextlib.suppress(BlockingIOError):
            for _ in range(_HEARD_AT_ONCE):
                news |= _understood(listening.recv(16))
        if news:
            on_news(news)


def _new_socket() -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):  # pragma: no cover
        raise OSError(errno.EAFNOSUPPORT, "this system has no Unix sockets")
    created = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    created.setblocking(False)
    return created


def _understood(heard: bytes) -> News:
    # Whatever is sent here, by whomever: it means news or nothing.
    return News(heard[0] & (News.WORK | News.ENDS).value) if heard else News(0)
