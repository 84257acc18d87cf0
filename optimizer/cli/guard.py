"""What ends a command: every failure as one line on standard error and an exit code of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from types import FrameType
from typing import Any, NoReturn

import typer

from tersor.errors import TersorError

INTERRUPTED = 130
TERMINATED = 143
BROKEN_PIPE = 141
INTERNAL = 70
"""Exit codes that no TersorError has: by signal 2 and 15 as shells report them, and EX_SOFTWARE of sysexits.h."""

_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
_ANY_CLICK_ERROR: Any = typer.BadParameter.__mro__[2]


def guarded(run: Callable[[], Any], *, debug: bool = False) -> int:
    """Call ``run`` and turn how it ends into an exit code; ``debug`` adds the traceback."""
    try:
        with _terminable(), _quiet(debug):
            code = run()
    except BaseException as error:
        if debug and not isinstance(error, SystemExit):
            traceback.print_exc()
        return _ended(error)
    if code == INTERRUPTED:
        return _ended(KeyboardInterrupt())
    return code if isinstance(code, int) else 0


def _ended(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return _say("interrupted; nothing was left half written", INTERRUPTED)
    if isinstance(error, TersorError):
        return _say(str(error), error.exit_code)
    if isinstance(error, _ANY_CLICK_ERROR):
        # Without any argument the help was shown, and there is no message.
        return _say(_usage(error), 2) if error.format_message() else 2
    if isinstance(error, BrokenPipeError):
        # Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    if isinstance(error, MemoryError):
        return _say("the machine has too little memory for this model; close other programs or use a smaller input", 1)
    line = (str(error).strip() or "no message").splitlines()[0]
    return _say(f"internal error, {type(error).__name__}: {line}; run again with --debug and report it", INTERNAL)


def _usage(error: Any) -> str:
    """Click's message with a remedy, on one line."""
    text = " ".join(error.format_message().split())
    text = re.split(r"\.?\s*\(?(?:Possible options:|Did you mean)", text)[0].rstrip(". ")
    near = _nearest(error)
    meant = f"; did you mean {near!r}?" if near else ""
    path = getattr(getattr(error, "ctx", None), "command_path", None) or "tersor"
    return f"{text[:1].lower()}{text[1:]}{meant}; see '{path} --help'"


def _nearest(error: Any) -> str:
    """The known option or command that is most like what was written."""
    wrong = getattr(error, "option_name", None)
    known = list(getattr(error, "possibilities", None) or ())
    if wrong is None and (match := re.search(r"No such command '([^']*)'", error.format_message())):
        wrong, known = match[1], list(getattr(getattr(error.ctx, "command", None), "commands", ()))
    return next(iter(get_close_matches(wrong or "", known, n=1)), "")


def _say(text: str, code: int) -> int:
    from rich.console import Console
    from rich.text import Text

    line = " ".join(text.split())
    Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "bold red"), line))
    return code


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM unwinds the stack as Ctrl-C does, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _quiet(debug: bool) -> Iterator[None]:
    """Warnings of the libraries below are for developers, unless a developer asked."""
    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
        yield
