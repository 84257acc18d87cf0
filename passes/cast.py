"""`Cast`: layers compute in half precision; what would overflow or lose too many bits stays in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import fx

from tersor.context import Context
from tersor.passes._weights import share_weight_nodes
from tersor.program import Program
from tersor.quant.half import DTYPES, LACKING, LAYERS, MOVES, fixed, is_single, singles, unfit
from tersor.rewrite import erase_unused, insert_call, insert_weight
from tersor.rewrite_values import key
from tersor.target import Target

_to = torch.ops.aten._to_copy.default
CASES = 8
"""Calibration inputs that are run."""


@dataclass(frozen=True)
class Cast:
    """Compute in float16 or bfloat16, with weights stored in it; inputs and outputs of the model keep their dtypes.

    Sums over many values, softmax and normalisations stay in float32, as in PyTorch's automatic mixed precision
    (Micikevicius et al., arXiv:1710.03740). So does what calibration data shows to overflow, or to be lost below the
    smallest number, in a value, a product of attention or a weight; and what there is no kernel for.

    Attributes:
        dtype: "float16" or "bfloat16".
        margin: values may be so many times larger than in calibration before they overflow.
        backend: what will run it; layers stay as they are where it has no kernels.
    """

    dtype: str = "float16"
    margin: float = 4.0
    backend: str = "onnxruntime"
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; wanted one of {', '.join(DTYPES)}")
        if not self.margin >= 1:
            raise ValueError(f"margin is {self.margin}; wanted at least 1")

    @classmethod
    def choices(cls, program: Program, target: Target) -> tuple[Self, ...]:
        """Half precision, where a GPU computes in it."""
        return (cls(), cls(dtype="bfloat16")) if target.device == "cuda" else ()

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        if self.dtype in LACKING.get((self.backend, context.target.device), ()):
            for node in (node for node in program.nodes if key(node) in LAYERS):
                where = f"{self.backend} on the {context.target.device}"
                context.skip(node, f"stays in float32: {where} has no kernels in {self.dtype}")
            return
        share_weight_nodes(program)
        chosen = self._chosen(program, context)
        if not chosen:
            return
        _put(program, chosen, DTYPES[self.dtype])
        erase_unused(program)
        program.prune_weights()
        program.changed()

    def _chosen(self, program: Program, context: Context) -> set[fx.Node]:
        """The nodes that compute in half precision, announced; moved values go with those that they come from."""
        reasons = {node: fixed(node, self.dtype) for node in program.nodes}
        open_nodes = {node.name for node, reason in reasons.items() if reason is None and key(node) != "getitem"}
        inputs = (context.calibration or (program.inputs,))[:CASES]
        bad = unfit(program, open_nodes, DTYPES[self.dtype], inputs, self.margin) if open_nodes else {}
        chosen: set[fx.Node] = set()
        for node in program.nodes:
            reason = bad.get(node.name) or reasons[node]
            if key(node) == "getitem":
                chosen |= {node} if node.args[0] in chosen else set()
            elif reason:
                context.skip(node, f"stays in float32: {reason}")
            elif reason is None and _follows(node, chosen) and context.take(node, f"computes in {self.dtype}"):
                chosen.add(node)
        return chosen


def _follows(node: fx.Node, chosen: set[fx.Node]) -> bool:
    """Whether half precision is of use: layers always; what only moves or maps values where those are in it."""
    if key(node) in LAYERS:
        return True
    sources = [source for source in singles(node) if source.op != "get_attr"]
    if key(node) in MOVES:
        return bool(sources) and all(source in chosen for source in sources)
    return any(source in chosen for source in sources)


def _put(program: Program, chosen: set[fx.Node], dtype: torch.dtype) -> None:
    """Insert a cast wherever a value passes from one precision to the other, once for each value."""
    for source in list(program.nodes):
        if source.op == "output" or not is_single(source.meta.get("val")):
            continue
        users = [user for user in source.users if (user in chosen) != (source in chosen) and key(user) != "getitem"]
        if isinstance(source.meta["val"], list | tuple) or not users:
            continue
        after = _cast_of(program, source, users, torch.float32 if source in chosen else dtype)
        for user in users:
            user.replace_input_with(source, after)


def _cast_of(program: Program, source: fx.Node, users: list[fx.Node], wanted: torch.dtype) -> fx.Node:
    first = next(node for node in program.nodes if node in set(users))
    weight = program.weight(source)
    if weight is not None and len(users) == len(source.users):
        return insert_weight(program, first, f"{source.target}_{str(wanted).removeprefix('torch.')}", weight.to(wanted))
    return insert_call(first, _to, (source,), {"dtype": wanted})
