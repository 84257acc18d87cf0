"""Trials on disk or in a shared database (Optuna): a search that is killed goes on, and several machines share one."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from tersor.search.candidates import Row
from tersor.search.trial import Selection, Trial, written

if TYPE_CHECKING:
    from optuna import Study

BEAT = 10.0
"""Seconds between two signs of life of a worker that others cannot see on their own machine."""

SILENT = 60.0
"""Seconds without one, after which its trial is given to somebody else."""

AGAIN = " (again)"
"""Ends the name of a pipeline that is timed once more."""

_CLAIMS: set[str] = set()
"""What this process works on."""

NOTHING = "-"
"""The value of a pass that is not part of a pipeline."""


Make: TypeAlias = "Callable[[Selection, bool], Trial]"
"""Makes the trial of a pipeline; timed for longer where the second argument is true."""


@dataclass
class Journal:
    """What is known of each pipeline; kept in memory, and in an Optuna study where there is one.

    Attributes:
        rows: what may be chosen.
        study: None keeps everything in memory.
        where: of the study, as the user is told.
        say: told once when the study cannot be written any more.
        shared: whether workers on other machines may take part.
        found: trials by pipeline.
        values: what else is remembered.
    """

    rows: Sequence[Row]
    study: Study | None = None
    where: str = ""
    say: Callable[[str], None] = print
    shared: bool = False
    found: dict[str, Trial] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def evaluate(self, selections: Sequence[Selection], make: Make, *, again: bool = False) -> list[Trial]:
        """The trials of pipelines, from the study where it has them; others that wait there are made on the way.

        With ``again`` they are timed once more, whatever is known of them.
        """
        wanted = {written(item) + (AGAIN if again else ""): item for item in selections}
        self._read()
        self._announce(wanted)
        while missing := {name: item for name, item in wanted.items() if name not in self.found}:
            if self.study is None:
                self.found |= {name: make(item, again) for name, item in missing.items()}
                break
            if not self._work(make):
                time.sleep(0.2)
                self._revive(missing)
            self._read()
        return [self.found[name] for name in wanted]

    def remember(self, key: str, value: Any) -> Any:
        """The value kept under a key; ``value`` where there is none yet, which is kept from now on."""
        with self._writing():
            if self.study is not None:
                self.values |= {k: v for k, v in self.study.user_attrs.items() if k not in self.values}
            if key not in self.values:
                self.values[key] = value
                if self.study is not None:
                    self.study.set_user_attr(key, value)
        return self.values.setdefault(key, value)

    def recall(self, key: str) -> Any:
        """The value kept under a key, or None."""
        with self._writing():
            if self.study is not None:
                self.values |= {k: v for k, v in self.study.user_attrs.items() if k not in self.values}
        return self.values.get(key)

    def _announce(self, wanted: Mapping[str, Selection]) -> None:
        """Put pipelines into the queue that are neither known nor there yet."""
        with self._writing():
            new = {name: item for name, item in wanted.items() if name not in self.found}
            if self.study is None or not new:
                return
            there = {trial.user_attrs.get("pipeline") for trial in self._open_trials()}
            for name, item in new.items():
                if name not in there:
                    self.study.enqueue_trial(self._parameters(item), user_attrs={"pipeline": name})

    def _work(self, make: Make) -> bool:
        """Make the first trial of the queue; False where there is none."""
        taken: Any = None
        with self._writing():
            taken = self._take()
        if taken is None:
            return self.study is None
        name, done = str(taken.user_attrs["pipeline"]), False
        try:
            with self._beating(taken):
                made = self.found.get(name) or make(self._selection(taken.params), name.endswith(AGAIN))
            self.found[name] = made
            done = True
        finally:
            with self._writing():
                self._tell(taken, made if done else None)
        return True

    def _take(self) -> Any:
        from optuna.trial import TrialState

        if self.study is None or not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return None
        trial = self.study.ask(self._distributions())
        if "pipeline" not in trial.user_attrs:  # another worker was faster, and the sampler made one up
            self.study.tell(trial, state=TrialState.FAIL)
            return None
        claim = uuid.uuid4().hex
        _CLAIMS.add(claim)
        trial.set_user_attr("worker", f"{socket.gethostname()} {os.getpid()} {claim}")
        trial.set_user_attr("alive", time.time())
        return trial

    def _tell(self, taken: Any, made: Trial | None) -> None:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        _CLAIMS.discard(str(taken.user_attrs.get("worker", "")).rpartition(" ")[2])
        if self.study is None:
            return
        with contextlib.suppress(UpdateFinishedTrialError):  # another worker took this one for dead
            if made is not None:
                taken.set_user_attr("result", json.dumps(asdict(made)))
            if made is None or made.ratio is None or made.lost is None:
                self.study.tell(taken, state=TrialState.FAIL, skip_if_finished=True)
            else:
                self.study.tell(taken, values=(made.ratio, made.lost), skip_if_finished=True)

    def _read(self) -> None:
        """Take in what is finished; of two trials of one pipeline the first counts."""
        with self._writing():
            if self.study is None:
                return
            for trial in self.study.get_trials(deepcopy=False):
                if "result" in trial.user_attrs and trial.user_attrs["pipeline"] not in self.found:
                    made = Trial(**json.loads(trial.user_attrs["result"]))
                    self.found[trial.user_attrs["pipeline"]] = made

    def _revive(self, missing: Mapping[str, Selection]) -> None:
        """Give trials of workers that are gone back to the queue."""
        from optuna.trial import TrialState

        with self._writing():
            if self.study is None:
                return
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if not _is_alive(trial.user_attrs, trial.datetime_start):
                    self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        self._read()
        self._announce(missing)

    def _open_trials(self) -> list[Any]:
        from optuna.trial import TrialState

        assert self.study is not None
        return self.study.get_trials(deepcopy=False, states=(TrialState.WAITING, TrialState.RUNNING))

    def _parameters(self, selection: Selection) -> dict[str, str]:
        chosen = {item.name: item.spec for item in selection}
        return {row[0].name: chosen.get(row[0].name, NOTHING) for row in self.rows}

    def _selection(self, parameters: dict[str, Any]) -> Selection:
        return tuple(choice for row in self.rows for choice in row if parameters.get(choice.name) == choice.spec)

    def _distributions(self) -> dict[str, Any]:
        from optuna.distributions import CategoricalDistribution

        return {row[0].name: CategoricalDistribution([NOTHING, *(item.spec for item in row)]) for row in self.rows}

    @contextlib.contextmanager
    def _beating(self, taken: Any) -> Iterator[None]:
        """Signs of life while a trial is made, where other machines may wait for it."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(BEAT):
                with contextlib.suppress(Exception):
                    taken.set_user_attr("alive", time.time())

        thread = threading.Thread(target=beat, daemon=True)
        if self.shared:
            thread.start()
        try:
            yield
        finally:
            over.set()
            if self.shared:
                thread.join()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A study that cannot be read or written any more is given up; what was found stays in memory."""
        from optuna.exceptions import OptunaError
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (OptunaError, SQLAlchemyError, OSError) as error:
            self.study = None
            cause = error.__cause__ or error
            line = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            self.say(
                f"the study {self.where} cannot be written any more: {line}; the search goes on in memory, and what "
                "the study already holds stays there for --resume"
            )


def _is_alive(attributes: dict[str, Any], started: Any) -> bool:
    """Whether the worker of a trial still works on it: its process, where that is on this machine, or its last sign."""
    host, _, rest = str(attributes.get("worker", "")).partition(" ")
    process, _, claim = rest.partition(" ")
    if not process:  # taken a moment ago, or its worker was killed in that moment
        return started is not None and time.time() - started.timestamp() < BEAT
    if host == socket.gethostname():
        if int(process) == os.getpid():
            return claim in _CLAIMS
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True
    return time.time() - float(attributes.get("alive", 0.0)) < SILENT
