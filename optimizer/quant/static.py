"""Static quantization once layers are found: scales and weights from calibration data, and the edit of a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tersor.interface import Flat
from tersor.program import Program
from tersor.quant.grid import Grid
from tersor.quant.insert import put_activation, put_bias, put_weight
from tersor.quant.placement import Rules
from tersor.quant.plan import Layer, plan
from tersor.quant.scales import of_activations
from tersor.quant.seen import look
from tersor.quant.simulate import Rounding
from tersor.quant.weights import Whole, channels, of_layers
from tersor.rewrite_values import fake, key


@dataclass(frozen=True, eq=False)
class Prepared:
    """All that is needed to quantize some layers of a program, or all.

    Attributes:
        program: where the layers are; not edited.
        layers: in execution order.
        table: what the backend fuses.
        grid: of the weights.
        own: integer weights by layer name.
        rounding: of activations and weights.
    """

    program: Program
    layers: list[Layer]
    table: Rules
    grid: Grid
    own: dict[str, Whole]
    rounding: Rounding

    def put(self, program: Program, layers: Sequence[Layer]) -> None:
        """Quantize layers of ``program`` in place."""
        made = plan(layers, self.table)
        for layer in layers:
            item = self.own[layer.node.name]
            scale = self.rounding.scales[made.tensors[layer.source].name][0]
            integers = self.table.wide_bias and (key(layer.node) != "linear" or fake(layer.source).dim() == 2)
            put_bias(program, layer.node, item, scale if integers else None)
            put_weight(program, layer.node, item, self.grid)
        for node, root in made.tensors.items():
            readers = None if node in made.whole else made.readers
            put_activation(node, *self.rounding.scales[root.name], self.rounding.on, readers)
        program.prune_weights()
        program.changed()


def prepare(
    program: Program,
    layers: list[Layer],
    table: Rules,
    formats: tuple[Grid, Grid],
    ranges: str,
    rounding: str,
    inputs: Sequence[Flat],
    seed: int,
) -> Prepared:
    """Scales and integer weights from calibration data.

    Args:
        formats: of weights and of activations.
        ranges: how the range of an activation is found.
        rounding: how weights are rounded.

    Raises:
        InputError: calibration shows no values, or some that are not finite.
    """
    weights, on = formats
    names = [node.name for node in plan(layers, table).tensors]
    seen, means = look(program, names, dict(map(channels, layers)), inputs)
    scales = of_activations(seen, on, ranges, symmetric=table.symmetric)
    own = of_layers(program, layers, weights, rounding, inputs, means=means, seed=seed)
    rounded = Rounding(on, scales, {name: item.values for name, item in own.items()}, table)
    return Prepared(program, layers, table, weights, own, rounded)
