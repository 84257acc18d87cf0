"""How long work tells the user where it is."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bars


class Progress(Protocol):
    """Takes notice of stages and of the steps within one; a context manager, so that a terminal is given back."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End, also where the work failed."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage of ``total`` steps, None where that is not known; ends the one before."""

    def advance(self, amount: int = 1, detail: str = "") -> None:
        """``amount`` more steps are done; ``detail`` names the last."""

    def message(self, text: str) -> None:
        """Something the user should read even after the work is over."""


class Silent:
    """Says nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to give back."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Ignored."""

    def advance(self, amount: int = 1, detail: str = "") -> None:
        """Ignored."""

    def message(self, text: str) -> None:
        """Ignored."""


class Plain:
    """One line per stage, for logs and pipes.

    >>> plain = Plain(sys.stdout); plain.stage("capture"); plain.message("2 inputs"); plain.close()
    capture ...
    2 inputs
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._name = ""
        self._began = 0.0

    def stage(self, name: str, total: int | None = None) -> None:
        """Write the time of the stage before, where it took a second or more, and the name of this one."""
        self.close()
        self._name, self._began = name, time.monotonic()
        steps = f" ({total} steps)" if total else ""
        self.message(f"{name}{steps} ...")

    def advance(self, amount: int = 1, detail: str = "") -> None:
        """Ignored: a log wants no line per step."""

    def message(self, text: str) -> None:
        """Write the line."""
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """End the last stage."""
        elapsed = time.monotonic() - self._began
        if self._name and elapsed >= 1:
            self.message(f"{self._name}: {elapsed:.1f} s")
        self._name = ""


class Console:
    """A bar per stage with steps, elapsed and remaining time on a terminal; plain lines anywhere else.

    Colours follow the terminal and ``NO_COLOR``.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._plain = None if self._stream.isatty() else Plain(self._stream)
        self._bars: Bars | None = None
        self._task: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a bar; without ``total`` it pulses."""
        if self._plain is not None:
            self._plain.stage(name, total)
            return
        bars = self._open()
        self._finish()
        self._task = bars.add_task(name, total=total, detail="")

    def advance(self, amount: int = 1, detail: str = "") -> None:
        """Move the bar, and show ``detail`` beside it."""
        if self._bars is None or self._task is None:
            return
        self._bars.update(self._task, advance=amount, detail=detail)  # type: ignore[arg-type]

    def message(self, text: str) -> None:
        """Write a line above the bar."""
        if self._plain is not None:
            self._plain.message(text)
            return
        self._open().console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """End the last stage and give the terminal back."""
        if self._plain is not None:
            self._plain.close()
        if self._bars is not None:
            self._finish()
            self._bars.stop()
            self._bars = None

    def _open(self) -> Bars:
        if self._bars is None:
            self._bars = _bars(self._stream)
            self._bars.start()
        return self._bars

    def _finish(self) -> None:
        if self._bars is None or self._task is None:
            return
        task = self._bars.tasks[self._task]
        total = task.total if task.total is not None else 1
        self._bars.update(self._task, total=total, completed=total, detail="")  # type: ignore[arg-type]
        self._task = None


def _bars(stream: TextIO) -> Bars:
    from rich.console import Console as Terminal
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description:<9}", markup=False),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        console=Terminal(file=stream),
    )
