"""Trials that outlive their process, and workers that share them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tersor.errors import OutputError, UsageError
from tersor.search.greedy import Search
from tersor.search.journal import Journal
from tersor.search.store import open_journal
from tersor.search.trial import Selection, Trial, written
from tests.search.models import World, row

ROWS = (row("prune", 2), row("quantize", 1))
EFFECTS = {"prune{0}": (0.8, 0.001), "prune{1}": (0.6, 0.004), "quantize{0}": (0.5, 0.004)}


def searched(journal: Journal, made: World) -> Search:
    search = Search(ROWS, lambda items: journal.evaluate(items, made.trial), made.budget)
    search.run()
    return search


def journal(path: Path, *, resume: bool) -> Journal:
    return open_journal(path, "test", ROWS, resume=resume, say=print)


def test_a_second_search_makes_nothing_again(tmp_path: Path) -> None:
    first, second = World(EFFECTS, 0.01), World(EFFECTS, 0.01)
    whole = searched(journal(tmp_path / "study", resume=False), first)
    again = searched(journal(tmp_path / "study", resume=True), second)
    assert second.seen == [] and again.best() == whole.best() and again.trials == whole.trials


def test_without_resume_it_begins_anew(tmp_path: Path) -> None:
    first, second = World(EFFECTS, 0.01), World(EFFECTS, 0.01)
    searched(journal(tmp_path / "study", resume=False), first)
    searched(journal(tmp_path / "study", resume=False), second)
    assert second.seen == first.seen


KILLED = """
import os, signal, sys
from tests.search.test_journal import EFFECTS, ROWS, journal, searched
from tests.search.models import World
from pathlib import Path

class Deadly(World):
    left = int(sys.argv[2])
    def trial(self, selection, again=False):
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        return super().trial(selection, again)

print(searched(journal(Path(sys.argv[1]), resume=True), Deadly(EFFECTS, 0.01)).best())
"""


def test_killed_in_the_middle_it_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = World(EFFECTS, 0.01)
    wanted = searched(Journal(ROWS), whole).best()
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "study"), "2"], cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    rest = World(EFFECTS, 0.01)
    assert searched(journal(tmp_path / "study", resume=True), rest).best() == wanted
    assert len(rest.seen) == len(whole.seen) - 2, "what the one that was killed had made is not made again"


def test_two_workers_share_the_work(tmp_path: Path) -> None:
    check_two_workers(str(tmp_path / "study"))


def check_two_workers(where: str) -> None:
    """Both end with the same plan, and hardly anything is made twice."""
    worlds, found = [World(EFFECTS, 0.01), World(EFFECTS, 0.01)], {}
    barrier = threading.Barrier(2, timeout=120)

    def work(number: int) -> None:
        own = open_journal(where, "shared", ROWS, resume=True, say=print)
        barrier.wait()
        found[number] = searched(own, worlds[number]).best()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    alone = World(EFFECTS, 0.01)
    assert found[0] == found[1] == searched(Journal(ROWS), alone).best()
    assert {*worlds[0].seen, *worlds[1].seen} == set(alone.seen)


def test_what_raises_in_the_middle_is_given_back(tmp_path: Path) -> None:
    def interrupted(selection: Selection, again: bool) -> Trial:
        raise KeyboardInterrupt

    own = journal(tmp_path / "study", resume=False)
    with pytest.raises(KeyboardInterrupt):
        own.evaluate([()], interrupted)
    made = World(EFFECTS, 0.01)
    assert [trial.pipeline for trial in own.evaluate([()], made.trial)] == [""]


def test_timed_again_is_another_trial(tmp_path: Path) -> None:
    own, made, choice = journal(tmp_path / "study", resume=False), World(EFFECTS, 0.01), (ROWS[0][0],)
    (first,) = own.evaluate([choice], made.trial)
    (second,) = own.evaluate([choice], lambda selection, again: replace(first, ratio=0.1 if again else 0.2), again=True)
    assert second.ratio == 0.1 and own.evaluate([choice], made.trial) == [first]
    assert journal(tmp_path / "study", resume=True).evaluate([choice], made.trial, again=True) == [second]
    assert made.seen == ["prune{0}"]


def test_values_are_remembered_once(tmp_path: Path) -> None:
    own = journal(tmp_path / "study", resume=False)
    assert own.remember("ms", 3.5) == 3.5 and own.remember("ms", 4.0) == 3.5
    assert journal(tmp_path / "study", resume=True).recall("ms") == 3.5
    assert own.recall("nothing") is None


FULL = """
import resource, sys
from pathlib import Path
from tests.search.test_journal import EFFECTS, ROWS, journal, searched
from tests.search.models import World
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
said = []
own = journal(Path(sys.argv[1]), resume=True)
own.say = said.append
world = World(EFFECTS, 0.01)
own.evaluate([(), (ROWS[0][0],)], world.trial)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
best = searched(own, world).best()
print(len(said), ",".join(item.spec for item in best), said)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on the size of files here")
def test_a_full_disk_ends_the_study_and_not_the_search(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path / "study")], cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    wanted = searched(Journal(ROWS), World(EFFECTS, 0.01)).best()
    assert done.stdout.startswith(f"1 {written(wanted)} "), done.stdout + done.stderr
    assert "goes on in memory" in done.stdout
    rest = World(EFFECTS, 0.01)
    searched(journal(tmp_path / "study", resume=True), rest)
    whole = World(EFFECTS, 0.01)
    searched(Journal(ROWS), whole)
    assert len(rest.seen) < len(whole.seen), "what was written before the disk was full is still there"


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite3").write_text("this is a text, and no database at all " * 100)
    with pytest.raises(UsageError, match="cannot be opened: "):
        journal(tmp_path / "text.sqlite3", resume=False)
    with pytest.raises(OutputError, match="cannot be written"):
        journal(tmp_path / "text.sqlite3" / "below", resume=False)
    for url in ("postgresql://nobody@127.0.0.1:1/none", "nonsense://x"):
        with pytest.raises(UsageError, match="such as postgresql://"):
            open_journal(url, "test", ROWS, resume=False, say=print)


def test_a_cache_that_cannot_be_written_leaves_the_search_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    said: list[str] = []
    own = open_journal(None, "test", ROWS, resume=False, say=said.append)
    assert own.study is None and "not saved" in said[0]
    assert searched(own, World(EFFECTS, 0.01)).best()
