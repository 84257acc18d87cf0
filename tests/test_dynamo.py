"""torch.compile(model, backend="tersor"): right results, and the original wherever something is not supported."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import tersor
from tersor.dynamo import TersorWarning, backend
from tersor.errors import UsageError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.linear = nn.Linear(4, 4)
        self.register_buffer("scale", torch.tensor(3.0))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": self.linear(self.norm(x)) * self.scale}


class Broken(Net):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = super().forward(x)["y"]
        torch._dynamo.graph_break()
        return {"y": self.linear(y).relu()}


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(model: nn.Module, **options: Any) -> Callable[..., Any]:
    return torch.compile(model, backend="tersor", options=options or None)


@pytest.mark.parametrize("kind", [Net, Broken])
def test_static_shapes_buffers_and_graph_breaks(kind: type[nn.Module]) -> None:
    model = kind().eval()
    fast, x = compiled(model), torch.randn(5, 4)
    with torch.no_grad():
        torch.testing.assert_close(fast(x)["y"], model(x)["y"])


def test_changing_sizes_are_right_at_every_size() -> None:
    model = Net().eval()
    fast = compiled(model)
    with torch.no_grad():
        for size in (5, 7, 2, 9):
            x = torch.randn(size, 4)
            torch.testing.assert_close(fast(x)["y"], model(x)["y"])


def test_training_runs_the_original_and_says_so() -> None:
    model = Net().eval()
    fast, x = compiled(model), torch.randn(5, 4)
    with pytest.warns(TersorWarning, match="gradients are recorded"):
        fast(x)["y"].sum().backward()
    assert model.linear.weight.grad is not None


def test_a_weight_changed_in_place_is_noticed() -> None:
    model = Net().eval()
    fast, x = compiled(model), torch.randn(5, 4)
    with torch.no_grad():
        fast(x)
        model.linear.weight.mul_(2)
        with pytest.warns(TersorWarning, match="changed in place"):
            got = fast(x)["y"]
        torch.testing.assert_close(got, model(x)["y"])


def test_our_own_failure_runs_the_original_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*args: object, **kwargs: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr("tersor.api.optimize", explode)
    model = Net().eval()
    fast, x = compiled(model), torch.randn(5, 4)
    with torch.no_grad(), pytest.warns(TersorWarning, match="planted") as caught:
        for _ in range(3):
            torch.testing.assert_close(fast(x)["y"], model(x)["y"])
    assert len([w for w in caught if issubclass(w.category, TersorWarning)]) == 1


def test_an_unknown_option_is_the_callers_mistake() -> None:
    with pytest.raises(UsageError, match="did you mean 'passes'"):
        backend(torch.fx.symbolic_trace(nn.Identity()), [], {"pases": "dead-code"})


def test_no_warning_where_all_is_well() -> None:
    model = Net().eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", TersorWarning)
        compiled(model, passes="canonicalize,fold-batch-norm")(torch.randn(3, 4))


def test_pruning_without_data_inside_torch_compile() -> None:
    """The same cut as by optimize(); without a budget nothing that loses is kept."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 3)).eval()
    spec, x = "canonicalize,prune-mlp{ratio=0.5;criterion=magnitude}", torch.randn(16, 8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", TersorWarning)
        cut = compiled(model, passes=spec, budget=1.0, recover="none", backend="eager")(x)
        torch._dynamo.reset()
        whole = compiled(model, passes=spec, backend="eager")(x)
    wanted = tersor.optimize(
        model, (x,), passes=spec, budget=1.0, recover="none", backend="eager", seconds=0.0, progress=False
    )
    assert wanted.report.after.parameters < 0.6 * wanted.report.before.parameters
    torch.testing.assert_close(cut, wanted(x))
    original = model(x).detach()
    assert float((cut - original).abs().max()) > 0.01
    torch.testing.assert_close(whole, original)
