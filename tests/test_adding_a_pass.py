"""The example in docs/adding-a-pass.md works as it stands."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import torch

from tersor.capture.torch import capture_module
from tersor.pipeline import run

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "adding-a-pass.md"


class Doubled(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 2) + (x * 3)


def test_the_example_pass_is_kept_and_explains_itself(monkeypatch) -> None:
    source = re.search(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert source is not None
    module = types.ModuleType("example_pass")
    monkeypatch.setitem(sys.modules, "example_pass", module)
    exec(source[1], vars(module))
    program = capture_module(Doubled().eval(), (torch.randn(4),))
    step = run(program, [module.DoubleBySum()]).steps[0]
    assert step.status == "kept"
    assert [site.detail for site in step.sites] == ["x * 2 as x + x"]
    assert [site.detail for site in step.skipped] == ["the factor is 3"]
