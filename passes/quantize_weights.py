"""`QuantizeWeights`: linear layers keep their weights in eight or four bits, and compute in floating point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, fx

from tersor.context import Context
from tersor.factor.options import count
from tersor.passes._weights import share_weight_nodes
from tersor.program import Program
from tersor.quant.absorb import absorb, absorber, multiply
from tersor.quant.awq import awq
from tersor.quant.stored import Format, Stored, put_stored, weight_format
from tersor.quant.weight_only import METHODS, Reads, candidates, group_of, lost, objection, reads, shift, store
from tersor.rewrite import erase_unused
from tersor.rewrite_arguments import set_constant
from tersor.rewrite_values import arguments
from tersor.target import Target

GROUPS = (16, 32, 64, 128, 256)
"""Inputs that share a scale in the kernels that runtimes have (ONNX Runtime, operator MatMulNBits)."""


@dataclass(frozen=True)
class QuantizeWeights:
    """Store the weights of linear layers in few bits, for layers that wait for their weights and not for arithmetic.

    Integers of eight bits have a scale for each output, those of four bits one for each group of inputs. "gptq" rounds
    so that errors cancel on calibration data (Frantar et al., arXiv:2210.17323); "awq" first gives inputs that are
    often large a finer step, where the norm or layer before can take in the factors without a node more, and narrows
    the ranges (Lin et al., arXiv:2306.00978); with either a layer's bias makes up for what is left on average.

    Attributes:
        format: "int8", "int4", "uint4", "e4m3", "e5m2", "mxfp4" or "nvfp4".
        group: inputs that share a scale; None takes the format's own: 32 for four-bit integers,
            16 for layers that it does not divide.
        method: "nearest", "gptq" or "awq"; empty takes "gptq" for four-bit integers and "nearest" otherwise.
        least: weights that a layer has at least.
        backend: what will read them; layers stay as they are where it cannot.
    """

    format: str = "int4"
    group: int | None = None
    method: str = ""
    least: int = 1024
    backend: str = "onnxruntime"
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        kind = weight_format(self.format)
        count("least", self.least)
        if self.method not in ("", *METHODS):
            raise ValueError(f"method is {self.method!r}; wanted one of {', '.join(METHODS)}")
        if self.group is not None and (self.group not in GROUPS or kind.kind != "integer"):
            raise ValueError(f"group is {self.group}; wanted one of {GROUPS}, and integers")
        if self.method not in ("", "nearest") and kind.kind != "integer":
            raise ValueError(f"{self.method} rounds integers; wanted method=nearest for {kind.name}")

    @classmethod
    def choices(cls, program: Program, target: Target) -> tuple[Self, ...]:
        """Eight bits, then four."""
        return cls(format="int8"), cls()

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        kind = weight_format(self.format)
        share_weight_nodes(program)
        found = self._found(program, context, kind)
        method = self.method or kind.method
        inputs = context.calibration or (program.inputs,)
        seen = reads(program, found, inputs, context.seed) if method != "nearest" and found else {}
        told = self._scaled(program, found, kind, seen) if method == "awq" else {}
        for node in found:
            weight, bias = program.weight(arguments(node)["weight"]), program.weight(arguments(node)["bias"])
            assert weight is not None
            item = seen.get(arguments(node)["input"].name)
            made = store(weight, kind, group_of(kind, self.group, weight.shape[1]), method, item, bias=bias is not None)
            if context.take(node, self._detail(kind, method, weight, made, item, bias is not None, told.get(node, ""))):
                if item is not None and bias is not None:
                    moved = (bias.double() - shift(weight, made, item)).to(bias.dtype)
                    set_constant(program, node, "bias", moved)
                put_stored(program, node, made)
        erase_unused(program)
        program.prune_weights()
        program.changed()

    def _found(self, program: Program, context: Context, kind: Format) -> list[fx.Node]:
        taken = []
        for node in candidates(program):
            reason = objection(program, node, kind, self.group, self.least)
            if not reason and self.backend not in kind.backends:
                reason = f"{self.backend} reads no {kind.name}; {', '.join(kind.backends)} do"
            if reason:
                context.skip(node, reason)
            else:
                taken.append(node)
        return taken

    def _scaled(
        self, program: Program, found: Sequence[fx.Node], kind: Format, seen: dict[str, Reads]
    ) -> dict[fx.Node, str]:
        """Factors for what layers read, put into the program and into ``seen``; why not, by layer."""
        told: dict[fx.Node, str] = {}
        sources = dict.fromkeys(arguments(node)["input"] for node in found)
        for source in sources:
            readers = [node for node in found if arguments(node)["input"] is source]
            before = absorber(program, source, readers)
            if source.name not in seen or isinstance(before, str):
                told |= dict.fromkeys(readers, f"; no factors: {before}" if isinstance(before, str) else "")
                continue
            weights = [program.weight(arguments(node)["weight"]) for node in readers]
            stacked = torch.cat([item for item in weights if item is not None])
            item = seen[source.name]
            made = awq(
                stacked,
                item.gram,
                kind.name,
                group=group_of(kind, self.group, len(item.mean)),
                symmetric=kind.symmetric,
            )
            if made.alpha:
                absorb(program, before, made.scale)
                for node in readers:
                    multiply(program, node, made.scale)
                seen[source.name] = item.divided(made.scale)
            told |= dict.fromkeys(readers, f"; factors at alpha {made.alpha:.2f} in {before.name}")
        return told

    def _detail(
        self, kind: Format, method: str, weight: Tensor, made: Stored, seen: Reads | None, bias: bool, more: str
    ) -> str:
        groups = made.scale.shape[1]
        told = f"{kind.name} weights" + (f" in groups of {weight.shape[1] // groups}" if groups > 1 else "")
        if method == "nearest":
            return f"{told}, nearest"
        if seen is None:
            return f"{told}, nearest: its inputs are too many for {method}, or not finite"
        share = lost(weight, made, seen, bias=bias)
        return f"{told}, {method}: {share:.2g} of the output's energy lost{more}"
