"""From a `Program` to an ONNX model in memory."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from tersor.errors import ExportError, first_line
from tersor.export.clean import Layout, clean, for_cpu_runtimes
from tersor.export.interface import restore_interface
from tersor.export.placeholders import prepared
from tersor.export.quantized import least_opset
from tersor.export.reexport import reexport
from tersor.export.translations import translation_table
from tersor.export.translator import remembered_table
from tersor.export.verbatim import restore_verbatim
from tersor.program import Program

DEFAULT_OPSET = 20
LOWEST_OPSET = 18
ATTENTION_OPSET = 23


def to_onnx_model(
    program: Program,
    opset: int | None = None,
    *,
    keep_attention: bool | None = None,
    layout: Layout = for_cpu_runtimes,
) -> ir.Model:
    """Translate a program to ONNX.

    Args:
        program: inputs, outputs, their order, types and dynamic axes are those of ``program.interface``.
        opset: version of the default domain, from 18 on. None means 20.
        keep_attention: write attention as one node, which takes opset 23; None does so from that opset on.
        layout: how quantized and stored weights are written, which runtimes differ in.

    Returns:
        A model whose initializers share memory with ``program.weights``. It is remembered with the program: leave
        it as it is.

    Raises:
        ExportError: an operator has no ONNX form, or a dynamic axis would become static.
    """
    version = _checked_opset(opset) if opset is not None else _opset_for(program)
    keep = version >= ATTENTION_OPSET if keep_attention is None else keep_attention and version >= ATTENTION_OPSET
    key = ("onnx", version, keep, layout)
    if key in program.derived:
        found: ir.Model = program.derived[key]
        return found
    table = translation_table(keep, program.opaque, version)
    model = _translate(reexport(prepared(program)), version, table)
    clean(model, layout)
    restore_verbatim(model, program.opaque)
    restore_interface(model, program)
    program.derived[key] = model
    return model


def _opset_for(program: Program) -> int:
    """The default, or the newest opset that a node kept from a file was written for, or that stored weights want."""
    return max(
        [DEFAULT_OPSET, least_opset(program), *(node.opset_imports.get("", 0) for node in program.opaque.values())]
    )


def _checked_opset(opset: int) -> int:
    newest = onnx.defs.onnx_opset_version()
    if not LOWEST_OPSET <= opset <= newest:
        raise ExportError(f"opset {opset} cannot be written", f"choose one from {LOWEST_OPSET} to {newest}")
    return opset


def _translate(exported: ExportedProgram, opset: int, table: dict[Callable[..., Any], Callable[..., Any]]) -> ir.Model:
    try:
        with _quiet(), torch.no_grad(), remembered_table():
            made = torch.onnx.export(
                exported,
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=opset,
                custom_translation_table=table,
            )
    except Exception as error:
        raise _untranslated(error) from error
    assert made is not None
    return made.model


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.onnx deep-copies deprecated tree specs, and logs each node that has no module stack."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _untranslated(error: BaseException) -> ExportError:
    """The error that names the operator and the node, found in the chain of causes."""
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    node = next((found for link in chain if (found := re.search(r"translating node %?(\w+)", str(link)))), None)
    target = next((found for link in chain if (found := re.search(r"target=([\w.:<>]+)", str(link)))), None)
    where = f"operator {target[1] if target else 'unknown'} at node '{node[1]}'" if node else "the program"
    return ExportError(
        f"{where} has no ONNX form: {first_line(chain[-1])}",
        "use another backend such as inductor, or replace the operator in the model",
    )
