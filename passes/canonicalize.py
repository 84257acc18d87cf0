"""`Canonicalize`: one spelling for each computation, so that every other pass needs one pattern."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from tersor.context import Context
from tersor.passes import _activations, _linear, _noops, _norms, _scalars, _splits, _transposes, _views
from tersor.passes._weights import share_weight_nodes
from tersor.program import Program
from tersor.rewrite import rewrite
from tersor.rewrite_values import ASSERTIONS, key, known, positional, value

_RULES = (
    *_noops.COPIES,
    *_views.RULES,
    *_transposes.RULES,
    *_splits.RULES,
    *_noops.IDENTITIES,
    *_scalars.RULES,
    *_norms.RULES,
    *_activations.RULES,
    *_linear.RULES,
)


@dataclass(frozen=True)
class Canonicalize:
    """Spell each computation in one way.

    - layout: ``reshape``, ``permute``, ``squeeze.dims``, ``unsqueeze``, ``select``, ``slice``, ``split_with_sizes``
      with positive axes and literal sizes (-1 for the one that is dynamic); chains merged; axes are divided
      before they are transposed; copies dropped.
    - arithmetic: literals instead of one-element weights; ``mul``, ``add``, ``clamp``, ``rsqrt``; one scale for a
      product, not one for each factor.
    - layers spelled out in arithmetic: ``linear``, ``layer_norm``, ``rms_norm``, ``gelu``, ``silu``, ``hardswish``,
      ``hardsigmoid``, ``mish``, ``leaky_relu``, ``softmax``; batch norm is ``batch_norm`` in evaluation.

    The form is a fixed point: a second application, also after torch.export has spelled the graph anew, changes
    nothing.
    """

    exact: ClassVar[bool] = True

    def __call__(self, program: Program, context: Context) -> None:
        """Edit ``program`` in place."""
        share_weight_nodes(program)
        _drop_assertions(program)
        _sizes_of_inputs(program)
        rewrite(program, context, _RULES)
        program.prune_weights()
        program.changed()


def _drop_assertions(program: Program) -> None:
    """The captured dtypes and sizes hold already, else capture would have failed."""
    for node in list(program.graph.nodes):
        if key(node) in ASSERTIONS and not node.users:
            program.graph.erase_node(node)


def _sizes_of_inputs(program: Program) -> None:
    """Sizes known are literals, sizes of inputs are read from the inputs; so they keep no other node alive."""
    sources: dict[str, tuple[fx.Node, int]] = {}
    for placeholder in program.placeholders:
        for axis, size in enumerate(getattr(value(placeholder), "shape", ())):
            sources.setdefault(_symbol(size), (placeholder, axis))
    for node in list(program.graph.nodes):
        if key(node) != "sym_size":
            continue
        size = value(node)
        if known(size) is not None:
            replaced: object = known(size)
        elif _symbol(size) in sources and positional(node)[:2] != sources[_symbol(size)]:
            with program.graph.inserting_after(program.placeholders[-1]):
                replaced = program.graph.call_function(node.target, sources[_symbol(size)])
            replaced.meta.update(node.meta)
        else:
            continue
        node.replace_all_uses_with(replaced)
        program.graph.erase_node(node)


def _symbol(size: object) -> str:
    return str(value(size).node.expr) if known(size) is None else ""
