"""Two workers on one PostgreSQL, which the test starts in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.search.test_journal import check_two_workers


def program(name: str) -> str | None:
    """A program of the server, which Debian keeps out of the path."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(places[-1]) if places else None)


@pytest.fixture
def database() -> Iterator[str]:
    """The URL of a fresh server's database."""
    initdb, control = program("initdb"), program("pg_ctl")
    if initdb is None or control is None:
        pytest.skip("no PostgreSQL server is installed (apt-get install postgresql)")
    pytest.importorskip("psycopg2")
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    try:
        owner = pwd.getpwnam(user)
    except KeyError:
        pytest.skip("the server does not run as root, and there is no user postgres")
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(*command: str) -> None:
        kind = {"user": owner.pw_uid, "group": owner.pw_gid} if os.getuid() == 0 else {}
        subprocess.run(
            command, check=True, capture_output=True, cwd=folder, env={"HOME": str(folder), "PATH": os.environ["PATH"]},
            **kind,  # type: ignore[call-overload]
        )  # fmt: skip

    data = str(folder / "data")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder} -c fsync=off"
    try:
        run(initdb, "-D", data, "-U", user, "-A", "trust", "--no-sync")
        run(control, "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        yield f"postgresql://{user}@127.0.0.1:{port}/postgres"
        run(control, "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_two_workers_share_one_postgresql(database: str) -> None:
    check_two_workers(database)
