"""Long sweeps in worker processes: a case that dies or hangs costs that case, not the sweep."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import queue
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results import FOLDER, append_row, read_rows

Row = dict[str, Any]


def sweep(
    todo: Sequence[str], examine: Callable[[str], Row], *, workers: int = 2, timeout: float = 120.0
) -> Iterator[tuple[str, Row]]:
    """``examine(case)`` for every case, in ``workers`` processes of one thread each, in order of completion.

    A case that takes longer than ``timeout`` seconds, or whose process dies, gets the row ``{"status": "crash"}``.
    """
    context = multiprocessing.get_context("spawn")
    seats = [_Seat(context, examine) for _ in range(min(workers, len(todo)))]
    waiting = list(reversed(todo))
    try:
        while waiting or any(seat.case for seat in seats):
            for seat in seats:
                if seat.case is None and waiting:
                    seat.begin(waiting.pop())
                ended = seat.poll(timeout)
                if ended is not None:
                    yield ended
            time.sleep(0.02)
    finally:
        for seat in seats:
            seat.close()


def arguments(doc: str | None, families: Sequence[str], name: str, workers: int = 2) -> argparse.ArgumentParser:
    """The options that every sweep over the catalog's models has; its rows are kept beside the table of its name."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--family", choices=families, action="append")
    parser.add_argument("--only", default="", help="models with this text in their name")
    rows = FOLDER / "rows" / f"{name}.jsonl"
    parser.add_argument("--rows", type=Path, default=rows, help="rows so far; models that have one are not run")
    parser.add_argument("--before", default="", help="run models again whose row is of an earlier day, as 2026-11-27")
    parser.add_argument("--workers", type=int, default=workers)
    parser.add_argument("--table", action="store_true", help="run nothing, only print the table of the rows there are")
    parser.add_argument("--write", action="store_true", help="write the table to docs/results")
    return parser


def resume(
    todo: Sequence[str], examine: Callable[[str], Row], path: Path, *, workers: int, timeout: float,
    say: Callable[[Row], str], before: str = "",
) -> None:  # fmt: skip
    """Examine those cases that have no row in a file yet, then those whose row is of a day before ``before``.

    Rows are appended as they come, with the day, and said in a line each; at the end the last one of each case is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    days = {case: str(row.get("date", "")) for case, row in read_rows(path).items()}
    missing = sorted((case for case in todo if case not in days or days[case] < before), key=lambda c: days.get(c, ""))
    for case, row in sweep(missing, examine, workers=workers, timeout=timeout):
        append_row(path, {"model": case, **row})
        print(f"{case}: {row['status']} {row['why'][:200]} {say(row)} {row['seconds']:.0f} s", flush=True)
    rows, whole = read_rows(path), path.with_suffix(".new")
    whole.write_text("".join(json.dumps(rows[case]) + "\n" for case in sorted(rows)), encoding="utf-8")
    whole.replace(path)


class _Seat:
    """One worker process, and the case it is at."""

    def __init__(self, context: Any, examine: Callable[[str], Row]) -> None:
        self.context, self.examine = context, examine
        self.case: str | None = None
        self._start()

    def _start(self) -> None:
        self.tasks, self.results = self.context.Queue(), self.context.Queue()
        self.process = self.context.Process(target=_work, args=(self.examine, self.tasks, self.results), daemon=True)
        self.process.start()

    def begin(self, case: str) -> None:
        self.case, self.since = case, time.perf_counter()
        self.tasks.put(case)

    def poll(self, timeout: float) -> tuple[str, Row] | None:
        if self.case is None:
            return None
        elapsed = time.perf_counter() - self.since
        try:
            row = self.results.get_nowait()
        except queue.Empty:
            if elapsed < timeout and self.process.is_alive():
                return None
            died = f"the process died with exit code {self.process.exitcode}"
            row = {"status": "crash", "why": "took too long" if self.process.is_alive() else died}
            self.close()
            self._start()
        case, self.case = self.case, None
        return case, {**row, "seconds": elapsed}

    def close(self) -> None:
        self.process.kill()
        self.process.join()


def _work(examine: Callable[[str], Row], tasks: Any, results: Any) -> None:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    while True:
        results.put(examine(tasks.get()))
