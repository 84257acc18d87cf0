"""Where studies are: one SQLite file per model in the user's cache directory, a file of the user's, or a database."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tersor.errors import OutputError, UsageError
from tersor.search.candidates import Row
from tersor.search.journal import Journal
from tersor.targets.profile import cache_folder

TRIES = 10
RACES = ("unique constraint", "already exists", "locked", "duplicate")
"""What databases say where two workers create the same thing at once."""

_URL = re.compile(r"[a-z][a-z0-9+]*://")


def key(facts: dict[str, Any]) -> str:
    """Sixteen digits that differ wherever one of the facts does: trials are only shared where all are the same."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def open_journal(
    where: str | Path | None, name: str, rows: Sequence[Row], *, resume: bool, say: Callable[[str], None]
) -> Journal:
    """The trials of a search, from where they are kept.

    Args:
        where: a file for SQLite, a database's URL, or None for the user's cache directory.
        name: of the search, see `key`.
        rows: what may be chosen.
        resume: go on with the last search of this name, or join it; otherwise begin a new one.
        say: told where the cache directory cannot be written, and the search is only in memory.

    Raises:
        UsageError: there is no such database, or it cannot be reached.
        OutputError: the file cannot be written.
    """
    path = None if where is not None and _URL.match(str(where)) else _file(where, name)
    try:
        if path is not None:
            _prepare(path, fresh=where is None and not resume)
        url = f"sqlite:///{path}" if path is not None else _driven(str(where))
        study = _opened(url, f"tersor-{name}", resume=resume)
    except (OSError, OutputError) as error:
        if where is not None:
            raise
        say(f"the search is not saved: {error}")
        return Journal(rows, say=say)
    return Journal(rows, study, _shown(url), say, shared=path is None)


def _file(where: str | Path | None, name: str) -> Path:
    if where is not None:
        return Path(where).expanduser().absolute()
    return cache_folder() / "studies" / f"{name}.sqlite3"


def _prepare(path: Path, *, fresh: bool) -> None:
    """Make room for the file; in the cache an earlier search that nobody goes on with is removed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            path.unlink(missing_ok=True)
        with path.open("ab"):
            pass
    except OSError as error:
        raise OutputError(f"the study {str(path)!r} cannot be written: {error.strerror}", "choose another") from None


def _opened(url: str, name: str, *, resume: bool) -> Any:
    """`_study`, tried again where another worker makes the same tables or the same study at this moment."""
    for _ in range(TRIES):
        try:
            return _study(url, name, resume=resume)
        except UsageError as error:
            if not any(word in str(error.__cause__).lower() for word in RACES):
                raise
            time.sleep(0.5)
    return _study(url, name, resume=resume)


def _study(url: str, name: str, *, resume: bool) -> Any:
    """The last study of this name, or the next one; raises UsageError where the database does not do."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = optuna.storages.RDBStorage(url)
        there = [item for item in optuna.get_all_study_names(storage) if item.startswith(f"{name}-")]
        last = max((int(item.rpartition("-")[2]) for item in there), default=0)
        number = max(last, 1) if resume else last + 1
        return optuna.create_study(
            storage=storage, study_name=f"{name}-{number}", directions=["minimize", "minimize"],
            sampler=optuna.samplers.RandomSampler(seed=0), load_if_exists=True,
        )  # fmt: skip
    except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, ValueError, RuntimeError) as error:
        cause = error.__cause__ or error
        line = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise UsageError(
            f"the study {_shown(url)} cannot be opened: {line}",
            "give a file, or a URL such as postgresql://user@host/database with its driver (psycopg2) installed",
        ) from cause


def _driven(url: str) -> str:
    """The URL with the driver of PostgreSQL that is installed, where it names none: SQLAlchemy takes the newer one."""
    scheme, mark, rest = url.partition("://")
    if scheme not in ("postgresql", "postgres") or not mark:
        return url
    found = next((name for name in ("psycopg", "psycopg2") if importlib.util.find_spec(name) is not None), "psycopg2")
    return f"postgresql+{found}://{rest}"


def _shown(url: str) -> str:
    """A URL without its password.

    >>> _shown("postgresql://me:secret@host/plans"), _shown("sqlite:////tmp/a.sqlite3")
    ('postgresql://me@host/plans', '/tmp/a.sqlite3')
    """
    url = re.sub(r"^postgresql\+\w+:", "postgresql:", url)
    if url.startswith("sqlite:///"):
        return url.removeprefix("sqlite:///")
    return re.sub(r"://([^:/@]*):[^@]*@", r"://\1@", url)
