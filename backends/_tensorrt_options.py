"""What can be asked of TensorRT, checked where it is written."""

from __future__ import annotations

import re
from dataclasses import dataclass

Version = tuple[int, int]
"""Major and minor version of TensorRT."""

LATEST: Version = (11, 4)
"""The version that is written for where none is installed."""
LEAST: Version = (10, 0)
"""The first with strongly typed networks and the calls used here."""

HARDWARE = {"same": "", "ampere": "AMPERE_PLUS", "capability": "SAME_COMPUTE_CAPABILITY"}
"""What an engine may run on, and TensorRT's name of it."""


@dataclass(frozen=True)
class Options:
    """Options of the TensorRT backend, as in ``tensorrt{refit=true;level=5}``.

    Attributes:
        shapes: sizes that dynamic dimensions may take, as ``batch:1:8:64/length:1:128:512`` (smallest, usual, largest);
            several profiles are joined by ``+``. What is left out comes from the model's own bounds.
        growth: a dimension without an upper bound may be so many times its example.
        sparse: let TensorRT choose among its 2:4 kernels where weights have the pattern.
        tf32: multiply float32 numbers with 10 bits of mantissa; faster, and not what the program says.
        level: of TensorRT's search, 0 to 5; higher takes longer to build.
        workspace: GiB that one layer may use; 0 leaves that to TensorRT.
        refit: weights can be exchanged without building again.
        strip: leave the weights out of the engine; they are filled in with `refit` when it is loaded.
        compatible: the engine runs on later versions of TensorRT, too.
        hardware: "same" device, "ampere" and later, or the same compute "capability".
        cache: file with what was timed in earlier builds; "auto" is one in the user's cache folder, "none" keeps none.
        graphs: replay the launches of a run as one CUDA graph from the second call of each shape on.
        version: of TensorRT to write for where none is installed, such as "10.9".
    """

    shapes: str = ""
    growth: int = 8
    sparse: bool = True
    tf32: bool = False
    level: int = 3
    workspace: float = 0.0
    refit: bool = False
    strip: bool = False
    compatible: bool = False
    hardware: str = "same"
    cache: str = "auto"
    graphs: bool = True
    version: str = ""

    def __post_init__(self) -> None:
        if self.hardware not in HARDWARE:
            raise ValueError(f"hardware is {self.hardware!r}; wanted one of {', '.join(HARDWARE)}")
        if not 0 <= self.level <= 5:
            raise ValueError(f"level is {self.level}; wanted 0 to 5")
        if self.growth < 1:
            raise ValueError(f"growth is {self.growth}; wanted at least 1")
        if not self.workspace >= 0:
            raise ValueError(f"workspace is {self.workspace}; wanted GiB, at least 0")
        if self.version:
            version_of(self.version)

    @property
    def wanted(self) -> Version:
        """The version that files are written for where TensorRT is not installed."""
        return version_of(self.version) if self.version else LATEST


def version_of(text: str) -> Version:
    """Major and minor version; raises ValueError where the text is none, or too old.

    >>> version_of("10.14.1.48")
    (10, 14)
    """
    match = re.match(r"(\d+)(?:\.(\d+))?", text)
    if match is None:
        raise ValueError(f"version is {text!r}; wanted such as 11.4")
    found = int(match[1]), int(match[2] or 0)
    if found < LEAST:
        raise ValueError(f"version is {text!r}; wanted {LEAST[0]} or later, whose networks are strongly typed")
    return found
