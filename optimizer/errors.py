"""Every error that Tersor raises on purpose, one family, each with its exit code."""

from __future__ import annotations


class TersorError(Exception):
    """Something the user can act on: what came, what was wanted, what to do.

    ``str(error)`` is one line. ``exit_code`` is what the command line returns.

    >>> str(TersorError("the file is empty", "give a file written by torch.onnx.export"))
    'the file is empty; give a file written by torch.onnx.export'
    """

    exit_code = 1

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.problem}; {self.remedy}" if self.remedy else self.problem
        return " ".join(text.split())


class UsageError(TersorError):
    """An option, pass, backend or model name is not known, or does not fit."""

    exit_code = 2


class ModelFileError(TersorError):
    """A file is not a model, is damaged, or is not safe to read."""

    exit_code = 3


class CaptureError(TersorError):
    """The model cannot be captured as one graph."""

    exit_code = 4


class InputError(TersorError):
    """Example or call inputs do not fit the model."""

    exit_code = 5


class RewriteError(TersorError):
    """A pass left a program that is not well formed."""

    exit_code = 6


class ParityError(TersorError):
    """A result differs from the original by more than is allowed."""

    exit_code = 7


class BackendError(TersorError):
    """A backend is absent or cannot run this program."""

    exit_code = 8


class ExportError(TersorError):
    """The program cannot be written as ONNX."""

    exit_code = 9


class OutputError(TersorError):
    """An output path cannot be written, or already exists."""

    exit_code = 10


class MetricError(TersorError):
    """The user's metric raised, or returned no finite number."""

    exit_code = 11


def first_line(error: BaseException) -> str:
    """What an exception says, in one line.

    >>> first_line(ValueError("no\\nmore"))
    'no'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
