"""Importance by the optimal brain surgeon: the error that remains when the other weights make up for an index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from tersor.axes.analysis import Axes
from tersor.axes.groups import Group
from tersor.axes.terms import Axis
from tersor.calibrate import Statistics, Tap, plain_window, statistics
from tersor.context import Context
from tersor.errors import UsageError
from tersor.importance.activation import errors
from tersor.importance.criterion import Scores, calibration
from tersor.importance.layers import matrix
from tersor.importance.magnitude import magnitude
from tersor.importance.reads import Read, out_owners, reads
from tersor.importance.surgery import Problem, damped, greedy, surgeon
from tersor.program import Program

BUDGET = 64_000_000
"""Entries of the sums of products that are kept at once (half a gigabyte); more takes another run over the inputs."""

Task: TypeAlias = tuple[Axis, Read]


@dataclass(frozen=True)
class Surgeon:
    """Squared error of the consumers' results when the index is removed and the weights of the others are re-optimised.

    Optimal Brain Surgeon, Hassibi and Stork, NeurIPS 1992, layer by layer as in Optimal Brain Compression, Frantar and
    Alistarh, NeurIPS 2022, arXiv:2208.11580, and for structures as in ZipLM, Kurtic et al., NeurIPS 2023,
    arXiv:2302.04089. It is what least-squares recovery of the consumers can reach. Reads with no weight, such as
    attention scores, count as for `Activation`; a group that is never summed over has its L2 magnitude.

    Attributes:
        relative: divide by the energy of each consumer's result, so that consumers and groups can be compared.
        ordered: remove indices one after another, each time the cheapest, and score each by the error up to its
            removal: two copies of one feature no longer look equally dispensable. Cubic in the size of the group.
        damping: added to the diagonal, relative to its mean.
        patches: convolutions by their whole windows; False by channels, which is cheaper and blind to the window.
        samples: rows of one input that go into the sums of products at most.
        prior: further samples of unrelated inputs, for each input of a layer one, that the second moments are taken
            to hold: the mean under an inverse Wishart prior about their diagonal. With 0, inputs that outnumber the
            samples look as if the others could always make up for them, and they cannot on other data.
    """

    relative: bool = True
    ordered: bool = False
    damping: float = 0.01
    patches: bool = True
    samples: int = 4096
    prior: float = 1.0

    def __post_init__(self) -> None:
        if not self.damping > 0:
            raise UsageError(f"damping is {self.damping}", "give a number above 0, such as 0.01")

    def __call__(self, program: Program, axes: Axes, groups: Sequence[Group], context: Context) -> Scores:
        """Sum over the reads of each index."""
        every = reads(program, axes)
        light = {g.axis: [read for read in every.get(g.axis, ()) if not read.layer] for g in groups}
        scores = errors(program, axes, light, context, self.relative, centered=False)
        tasks = [(g.axis, read) for g in groups for read in every.get(g.axis, ()) if read.layer]
        for part in _portions(program, tasks, self.patches, together=self.ordered):
            for axis, problems in self._problems(program, axes, part, context).items():
                size = int(axis.size)
                found = greedy(problems, size) if self.ordered else _each(problems, size)
                scores[axis] = scores[axis] + found.cpu()
        return scores | {g.axis: magnitude(program, g) for g in groups if not every.get(g.axis)}

    def _problems(
        self, program: Program, axes: Axes, part: Sequence[Task], context: Context
    ) -> dict[Axis, list[Problem]]:
        taps = dict.fromkeys(read.tap for _, read in part)
        found = statistics(
            program, taps, calibration(program, context), gram=True, patches=self.patches, samples=self.samples,
            seed=context.seed,
        )  # fmt: skip
        solved: dict[Tap, tuple[Tensor, Tensor]] = {}
        made: dict[Axis, list[Problem]] = {}
        for axis, read in part:
            if read.tap not in solved:
                solved[read.tap] = _inverse(read, found[read.tap], self.damping, self.prior)
            made.setdefault(axis, []).extend(_split(program, axes, axis, read, solved[read.tap], self.relative))
        return made


def _each(problems: Sequence[Problem], size: int) -> Tensor:
    return torch.stack([surgeon(problem, size) for problem in problems]).sum(0)


def _inverse(read: Read, measured: Statistics, damping: float, prior: float) -> tuple[Tensor, Tensor]:
    """Damped second moments per group of the layer, ``[groups, m, m]``, and their inverse."""
    assert measured.gram is not None and read.layer is not None
    gram = measured.gram / max(measured.samples, 1)
    if gram.dim() == 2:
        width = len(gram) // read.layer.groups
        gram = torch.stack([gram[at : at + width, at : at + width] for at in range(0, len(gram), width)])
    seen, added = max(measured.samples, 1), prior * gram.shape[-1]
    diagonal = torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))
    moments = damped((seen * gram + added * diagonal) / (seen + added), damping)
    return moments, torch.cholesky_inverse(torch.linalg.cholesky(moments))


def _split(
    program: Program, axes: Axes, axis: Axis, read: Read, solved: tuple[Tensor, Tensor], relative: bool
) -> Iterator[Problem]:
    """One problem for each group of a layer; points of the kernel are inputs where windows were measured."""
    layer = read.layer
    assert layer is not None
    weight = matrix(layer, program.weights[layer.weight].detach().double())
    owned = read.owners(axis).reshape(layer.groups, -1)
    rows = out_owners(axes, read, axis).reshape(layer.groups, -1)
    moments, inverse = solved
    if moments.shape[-1] == weight.shape[2] * weight.shape[3]:
        flat, owned = weight.flatten(2), owned.repeat_interleave(weight.shape[3], 1)
    else:
        flat = weight.movedim(-1, 2).flatten(1, 2)
        rows = rows.repeat_interleave(weight.shape[3], 1)
    scale = max(float(((flat @ moments) * flat).sum()), torch.finfo(torch.float32).tiny) if relative else 1.0
    device = flat.device
    for place in range(layer.groups):
        yield Problem(flat[place], inverse[place], owned[place].to(device), rows[place].to(device), scale)


def _portions(program: Program, tasks: Sequence[Task], patches: bool, together: bool) -> Iterator[list[Task]]:
    """Tasks in portions whose sums of products fit into the budget; ``together`` keeps those of an axis in one."""
    part: list[Task] = []
    sizes: dict[Tap, int] = {}
    nodes = {node.name: node for node in program.nodes}
    for place, (axis, read) in enumerate(tasks):
        layer = read.layer
        assert layer is not None
        view = matrix(layer, program.weights[layer.weight]).shape
        windowed = patches and plain_window(nodes[read.node]) is not None
        sizes[read.tap] = view[0] * (view[2] * view[3]) ** 2 if windowed else (view[0] * view[2]) ** 2
        boundary = not together or place == 0 or tasks[place - 1][0] is not axis
        if part and boundary and sum(sizes.values()) > BUDGET:
            yield part
            part, sizes = [], {read.tap: sizes[read.tap]}
        part.append((axis, read))
    if part:
        yield part
