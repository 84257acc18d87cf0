"""The example in docs/adding-a-backend.md works as it stands."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tersor
import tersor.backends
from tersor.backend import Backend, find_backend
from tersor.capture.torch import capture_module
from tersor.errors import BackendError, UsageError
from tersor.target import Target

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "adding-a-backend.md"
CPU = Target("cpu", "cpu", 1)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The example as ``tersor.backends.traced``, beside the others."""
    source = re.search(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert source is not None
    module = types.ModuleType("tersor.backends.traced")
    monkeypatch.setitem(sys.modules, "tersor.backends.traced", module)
    exec(source[1], vars(module))
    monkeypatch.setattr("tersor.backend.backend_names", lambda: ["eager", "traced"])
    yield module


def test_it_is_found_by_name_with_its_options(added: Any) -> None:
    assert isinstance(find_backend("traced"), Backend)
    assert find_backend("traced{freeze=false}") == added.Traced(freeze=False)
    with pytest.raises(UsageError, match="did you mean 'freeze'"):
        find_backend("traced{freez=false}")


def test_optimize_runs_and_checks_it(added: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU()).eval(), torch.randn(2, 4)
    fast = tersor.optimize(model, (x,), backend="traced", target=CPU, seconds=0, progress=False)
    assert fast.report.backend == "traced"
    torch.testing.assert_close(fast(x), model(x))
    (path,) = find_backend("traced").save(fast.program, tmp_path / "out")
    torch.testing.assert_close(torch.jit.load(path)(x)[0], model(x))


def test_what_it_rejects_is_said_before(added: Any) -> None:
    program = capture_module(nn.Linear(4, 4).eval(), (torch.randn(2, 4),), ({0: torch.export.Dim("batch")},))
    assert [(item.node, item.fatal) for item in find_backend("traced").lint(program, CPU)] == [("batch", True)]
    with pytest.raises(BackendError, match="one size only"):
        find_backend("traced").compile(program, CPU)
