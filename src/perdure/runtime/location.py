"""Where the database is, and which app a program is, unless its caller says so."""

from __future__ import annotations

import os
from pathlib import Path

from perdure.base.errors import StoreReadOnlyError

FILE_NAME = "perdure.db"
DEFAULT_APP = "default"


def store_path(chosen: str | os.PathLike[str] | None = None) -> Path:
    """Return the path of the database file.

    Args:
        chosen: a path that wins over everything; otherwise ``PERDURE_STORE`` names the file, ``PERDURE_HOME`` its
            folder, and the default is ``~/.perdure/perdure.db``.

    Raises:
        StoreReadOnlyError: the folder cannot be made.
    """
    if chosen is not None:
        return Path(chosen).expanduser()
    named = os.environ.get("PERDURE_STORE")
    if named:
        return Path(named).expanduser()
    home = Path(os.environ.get("PERDURE_HOME") or "~/.perdure").expanduser()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreReadOnlyError(
            str(home), f"the folder cannot be made ({error.strerror}); choose another with --store or PERDURE_HOME"
        ) from None
    return home / FILE_NAME


def app_id_of(chosen: str | None = None) -> str:
    """Return the app id of this program, by which it finds its runs again.

    Args:
        chosen: an id that wins over everything; otherwise ``PERDURE_APP_ID`` or ``APP_ID`` names it, and the default
            is ``default``.
    """
    return chosen or os.environ.get("PERDURE_APP_ID") or os.environ.get("APP_ID") or DEFAULT_APP
