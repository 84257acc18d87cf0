"""From a program to one that calls the project's kernels: on a copy, only where they fit and pay, with reasons."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from tersor.backends._triton_gate import Gate, hint, rate_name
from tersor.backends._triton_linear import activation, linear_rules
from tersor.context import Context, Site
from tersor.kernels import attention, glu, norm
from tersor.kernels.language import FLOATS
from tersor.program import Program
from tersor.refresh import refresh
from tersor.rewrite import Match, NodeRule, Plan, rewrite
from tersor.rewrite_values import arguments, fake, key, known, same_type, tensor
from tersor.target import Target

aten, ours = torch.ops.aten, torch.ops.tersor


@dataclass(frozen=True)
class Lowering:
    """A program in terms of kernels.

    Attributes:
        program: a copy; the original is not edited.
        taken, declined: where kernels are called, and where not, with the reasons.
        semi_structured: weights that PyTorch's semi-structured tensors should hold, by name.
    """

    program: Program
    taken: tuple[Site, ...]
    declined: tuple[Site, ...]
    semi_structured: tuple[str, ...]


def lower(program: Program, target: Target, anyway: bool = False) -> Lowering:
    """Substitute kernels in a copy of the program.

    Args:
        target: the device whose data sheet and compute capability decide.
        anyway: also where a kernel is not known to pay.
    """
    made, context, gate = program.clone(), Context(target=target), Gate(target, anyway)
    semi_structured: list[str] = []
    rewrite(made, context, [norms(gate), products(gate), attentions(gate), *linear_rules(gate, semi_structured)])
    if context.taken:
        refresh(made)
        made.prune_weights()
    return Lowering(made, tuple(context.taken), tuple(context.skipped), tuple(dict.fromkeys(semi_structured)))


def norms(gate: Gate) -> NodeRule:
    """Layer norm and RMS norm over the last axis, with a sum before them."""

    def plan(site: Match) -> Plan:
        given, rms = arguments(site.root), key(site.root) == "rms_norm"
        x = fake(given["input"])
        channels = known(x.shape[-1]) if x.dim() else None
        if len(given["normalized_shape"]) != 1 or channels is None or channels > norm.WIDEST:
            return f"norm takes one axis of 1 to {norm.WIDEST} channels"
        if x.dtype not in FLOATS:
            return f"norm takes no {x.dtype}"
        rows = hint(x.numel()) // max(channels, 1)
        residual = _summands(given["input"], site.root)
        work = norm.work(rows, channels, x.dtype, residual is not None)
        name = rate_name(x.dtype)
        if reason := gate.objection("norm", work, work, (name, name)):
            return reason
        eps = torch.finfo(x.dtype).eps if given["eps"] is None else float(given["eps"])
        options = (given["weight"], given.get("bias"), eps, rms)
        if residual is None:
            return lambda: _item(site, site.call(ours.norm.default, given["input"], None, *options), 0)
        return lambda: _with_residual(site, given["input"], residual, options)

    return NodeRule("norm", ("layer_norm", "rms_norm"), plan)


def _summands(x: Any, reader: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Two tensors whose sum is normed, where nothing reads the sum before the norm."""
    if key(x) != "add":
        return None
    given = arguments(x)
    first, second = given["self"], given["other"]
    late = all(user is reader or user > reader for user in x.users)
    plain = given.get("alpha", 1) == 1 and isinstance(second, fx.Node)
    fits = plain and same_type(first, second) and same_type(first, x)
    return (first, second) if fits and late else None


def _with_residual(site: Match, summed: fx.Node, parts: tuple[fx.Node, fx.Node], options: tuple[Any, ...]) -> fx.Node:
    both = site.call(ours.norm.default, *parts, *options)
    made, again = _item(site, both, 0), _item(site, both, 1)
    summed.replace_all_uses_with(again, delete_user_cb=lambda user: user is not site.root)
    return made


def _item(site: Match, node: fx.Node, place: int) -> fx.Node:
    return site.call(operator.getitem, node, place)


def products(gate: Gate) -> NodeRule:
    """An activation times another tensor."""

    def plan(site: Match) -> Plan:
        given = arguments(site.root)
        for first, second in ((given["self"], given["other"]), (given["other"], given["self"])):
            name = activation(first)
            if not name or len(first.users) != 1:
                continue
            gate_input = first.args[0]
            if not same_type(gate_input, second) or fake(second).dtype not in FLOATS:
                return "glu takes two tensors of one shape and dtype"
            value = fake(second)
            channels = hint(value.shape[-1]) if value.dim() else 1
            work = glu.work(hint(value.numel()) // max(channels, 1), channels, value.dtype)
            rate = rate_name(value.dtype)
            if reason := gate.objection("glu", work, work, (rate, rate)):
                return reason
            return lambda a=gate_input, b=second, c=name: site.call(ours.glu.default, a, b, c)  # type: ignore[misc]
        return None

    return NodeRule("glu", ("mul",), plan)


def attentions(gate: Gate) -> NodeRule:
    """scaled_dot_product_attention with the masks that the kernel takes."""

    def plan(site: Match) -> Plan:
        given = arguments(site.root)
        q, k, v = (fake(given[name]) for name in ("query", "key", "value"))
        mask = tensor(given["attn_mask"])
        if reason := _attention_objection(q, k, v, mask, given["dropout_p"]):
            return reason
        sizes = [hint(size) for size in (*q.shape[:2], k.shape[1], q.shape[2], k.shape[2])]
        batch, heads, groups, queries, keys = sizes
        seen = attention.pairs(queries, keys, given["is_causal"]) / max(queries * keys, 1)
        bias = 0 if mask is None else hint(mask.numel())
        size = max(known(q.shape[3]) or 1, known(v.shape[3]) or 1)
        work = attention.work(batch, heads, groups, queries, keys, size, q.dtype, seen, bias)
        rate = rate_name(q.dtype)
        if reason := gate.objection("attention", work, work, (rate, rate)):
            return reason
        return lambda: _attention(site, given)

    return NodeRule("attention", ("scaled_dot_product_attention",), plan)


def _attention_objection(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, dropout: float
) -> str:
    if dropout:
        return "attention has no dropout"
    if q.dim() != 4 or k.dim() != 4 or v.dim() != 4:
        return "attention takes [batch, heads, tokens, size]"
    sizes = [known(q.shape[3]), known(v.shape[3])]
    if any(size is None or not 1 <= size <= attention.WIDEST for size in sizes):
        return f"attention takes heads of 1 to {attention.WIDEST}, not {sizes[0]} and {sizes[1]}"
    if q.dtype not in FLOATS or not q.dtype == k.dtype == v.dtype:
        return f"attention takes no {q.dtype}"
    if mask is not None and (mask.dim() > 4 or mask.dim() < 2 or hint(mask.shape[-1]) != hint(k.shape[2])):
        return f"attention takes no mask of shape {list(mask.shape)}"
    return ""


def _attention(site: Match, given: dict[str, Any]) -> fx.Node:
    bias = given["attn_mask"]
    if bias is not None and fake(bias).dtype == torch.bool:
        zeros = site.call(aten.zeros_like.default, bias, dtype=fake(given["query"]).dtype)
        hidden = site.call(aten.logical_not.default, bias)
        bias = site.call(aten.masked_fill.Scalar, zeros, hidden, float("-inf"))
    while bias is not None and fake(bias).dim() < 4:
        bias = site.call(aten.unsqueeze.default, bias, 0)
    options = (bias, None, None, given["scale"], given["is_causal"])
    return site.call(ours.attention.default, given["query"], given["key"], given["value"], *options)
