"""torch.export's tables of parameters are made once per capture, and nothing of torch stays changed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import _trace, exported_program
from torch.export.graph_signature import ExportGraphSignature

from tersor.capture import load
from tersor.capture.signature import tables_made_once

FUNCTION = "_populate_param_buffer_metadata_to_new_gm"


def asked(depth: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often a capture of ``depth`` layers asks a signature for the table of its parameters."""
    count = 0
    table = ExportGraphSignature.inputs_to_parameters.fget  # type: ignore[attr-defined]

    def counted(signature: ExportGraphSignature) -> object:
        nonlocal count
        count += 1
        return table(signature)

    with monkeypatch.context() as patched:
        patched.setattr(ExportGraphSignature, "inputs_to_parameters", property(counted))
        load(nn.Sequential(*[nn.Linear(4, 4) for _ in range(depth)]).eval(), (torch.randn(2, 4),))
    return count


@pytest.mark.skipif(not hasattr(exported_program, FUNCTION), reason="this torch has the loop elsewhere")
def test_the_table_is_not_made_for_each_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(12, monkeypatch) == asked(2, monkeypatch)


def test_torch_is_left_as_it_was() -> None:
    before = [getattr(module, FUNCTION, None) for module in (_trace, exported_program)]
    with pytest.raises(RuntimeError, match="within"), tables_made_once():
        raise RuntimeError("within")
    assert [getattr(module, FUNCTION, None) for module in (_trace, exported_program)] == before
