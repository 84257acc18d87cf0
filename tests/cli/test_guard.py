"""How commands end: exit codes and one line on standard error."""

import errno
import os
import signal
import time

import pytest

from tersor import errors
from tersor.cli.guard import guarded


def fail(error):
    raise error


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.TersorError)]


def test_every_kind_of_error_has_its_own_exit_code():
    codes = [kind.exit_code for kind in KINDS]
    assert len(set(codes)) == len(codes) >= 10
    assert not {0, 70, 130, 141, 143} & set(codes)


@pytest.mark.parametrize("kind", KINDS)
def test_own_errors_are_one_line(kind, capsys):
    code = guarded(lambda: fail(kind("the file\nis empty", "give\nanother")))
    assert code == kind.exit_code
    assert capsys.readouterr().err == "error: the file is empty; give another\n"


def test_long_errors_are_not_wrapped(capsys):
    guarded(lambda: fail(errors.UsageError("word " * 100, "shorter")))
    assert capsys.readouterr().err.count("\n") == 1


def test_markup_in_an_error_is_printed_as_it_is(capsys):
    guarded(lambda: fail(errors.UsageError("axis [red]x[/red] [/]")))
    assert "[red]x[/red] [/]" in capsys.readouterr().err


def test_interrupt(capsys):
    assert guarded(lambda: fail(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "error: interrupted; nothing was left half written\n"


def test_termination_unwinds_like_an_interrupt():
    unwound = []

    def work():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            unwound.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert guarded(work) == 143
    assert unwound and signal.getsignal(signal.SIGTERM) is before


def test_a_bug_is_told_apart_and_shows_its_traceback_only_on_demand(capsys):
    assert guarded(lambda: fail(ZeroDivisionError("by zero"))) == 70
    plain = capsys.readouterr().err
    assert plain.startswith("error: internal error, ZeroDivisionError: by zero") and plain.count("\n") == 1
    assert guarded(lambda: fail(ZeroDivisionError("by zero")), debug=True) == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_is_no_traceback(capsys):
    assert guarded(lambda: fail(OSError(errno.ENOSPC, "No space left on device"))) == 70
    assert "No space left" in capsys.readouterr().err


def test_success_is_zero():
    assert guarded(lambda: None) == 0
    assert guarded(lambda: 7) == 7
