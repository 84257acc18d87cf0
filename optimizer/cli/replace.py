"""Replace a folder by a new one, so that at every moment one of the two is whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tersor.errors import OutputError


@contextmanager
def replacing(folder: Path, *, force: bool) -> Iterator[Path]:
    """A path to create the new folder at; it takes the place of ``folder`` when the block ends well.

    Without ``force``, or where there is no folder yet, the path is ``folder`` itself.
    """
    if not (force and folder.is_dir() and any(folder.iterdir())):
        yield folder
        return
    if not _is_ours(folder):
        raise OutputError(f"{str(folder)!r} holds files that Tersor did not write", "choose another folder")
    room = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield room / "new"
        folder.rename(room / "old")
        try:
            (room / "new").rename(folder)
        except BaseException:
            (room / "old").rename(folder)
            raise
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """Only a folder that `save` has written may be replaced: a mistyped path must not cost a home directory."""
    return (folder / "report.json").is_file() and not any(item.is_dir() for item in folder.iterdir())
