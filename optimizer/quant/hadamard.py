"""Orthogonal matrices that spread outliers over all channels: Hadamard matrices where one is known, and rotations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tersor.errors import UsageError


def hadamard(size: int) -> Tensor:
    """A Hadamard matrix divided by the root of its size: entries of one magnitude, rows orthonormal.

    Sylvester's doubling of a core: 1, or Paley's matrices of order q + 1 for a prime q = 3 mod 4, or 2 (q + 1) for a
    prime q = 1 mod 4. That gives 2^k, 12 * 2^k, 20 * 2^k, 28 * 2^k and most other multiples of 4.

    Returns:
        float64 [size, size]; not symmetric in general.

    Raises:
        UsageError: no such matrix of this size can be built.

    >>> (hadamard(2) * math.sqrt(2)).round().int().tolist()
    [[1, 1], [1, -1]]
    >>> hadamard(12).shape
    torch.Size([12, 12])
    """
    core = _core(size)
    if not core:
        raise UsageError(f"no Hadamard matrix of size {size} can be built", "use `rotation`, which takes any size")
    made = _paley(core)
    while len(made) < size:
        made = torch.cat([torch.cat([made, made], 1), torch.cat([made, -made], 1)])
    return made / math.sqrt(size)


def _core(size: int) -> int:
    """The smallest order to double up from; 0 where there is none."""
    if size < 1:
        return 0
    order = size // (size & -size)
    while order <= size:
        if order == 1 or (order % 4 == 0 and (_is_prime(order - 1) or _symmetric_prime(order))):
            return order
        order *= 2
    return 0


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def _symmetric_prime(order: int) -> int:
    """The prime q = 1 mod 4 with ``order = 2 (q + 1)``; 0 where there is none."""
    q = order // 2 - 1
    return q if order % 4 == 0 and q % 4 == 1 and _is_prime(q) else 0


def _paley(order: int) -> Tensor:
    """A Hadamard matrix of ones and minus ones (Paley, J. Math. Phys. 12, 1933), of order 1 or as `_core` gives it."""
    if order == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if _is_prime(order - 1):
        return _bordered(order - 1, -1) + torch.eye(order, dtype=torch.float64)
    conference = _bordered(_symmetric_prime(order), 1)
    off = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    on = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    return torch.kron(conference, off) + torch.kron(torch.eye(order // 2, dtype=torch.float64), on)


def _bordered(prime: int, sign: int) -> Tensor:
    """Quadratic characters of differences modulo a prime, with a border of ones, and of ``sign`` at the left."""
    place = torch.arange(prime)
    character = -torch.ones(prime, dtype=torch.float64)
    character[place.square() % prime] = 1
    character[0] = 0
    made = torch.zeros(prime + 1, prime + 1, dtype=torch.float64)
    made[0, 1:], made[1:, 0] = 1, sign
    made[1:, 1:] = character[(place[:, None] - place[None, :]) % prime]
    return made


def rotation(size: int, *, seed: int = 0, blocks: bool = False) -> Tensor:
    """An orthogonal matrix of any size, as near to a Hadamard matrix as there is one.

    A Hadamard matrix with random signs of its rows (QuaRot, Ashkboos et al., NeurIPS 2024, arXiv:2404.00456). Where
    there is none of this size, the Kronecker product of the largest that divides it with a random orthogonal matrix, or
    with the identity, which mixes within blocks only.

    Args:
        size: of the axis.
        seed: of signs and of random matrices.
        blocks: take the identity, so that a fast transform within blocks is enough.

    Returns:
        float64 [size, size].

    Raises:
        UsageError: the size is below 1.
    """
    if size < 1:
        raise UsageError(f"a rotation of size {size}", "give a size from 1 on")
    generator = torch.Generator().manual_seed(seed)
    largest = max(order for order in range(1, size + 1) if size % order == 0 and _core(order))
    rest = size // largest
    outer = torch.eye(rest, dtype=torch.float64) if blocks else _random(rest, generator)
    signs = torch.randint(0, 2, (size,), generator=generator).double() * 2 - 1
    return signs[:, None] * torch.kron(outer, hadamard(largest))


def _random(size: int, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix, uniform: QR of normal numbers, with the signs of R's diagonal taken out."""
    if size == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return (q * r.diagonal().sign()).contiguous()


def keeping_mean(turn: Tensor) -> Tensor:
    """The product of an orthogonal matrix and a reflection that leaves the vector of ones where it is.

    A layer norm subtracts the mean of all channels, and commutes with a rotation that keeps that mean. The reflection
    is the one that swaps ones and what the matrix makes of them; for a Hadamard matrix with random signs it moves
    entries of ``1 / sqrt(n)`` by about ``1 / n`` in all rows but the first, so that outliers are spread as well as
    before.

    Args:
        turn: orthogonal, float64 [n, n].

    >>> made = keeping_mean(rotation(12, seed=1))
    >>> torch.allclose(torch.ones(12).double() @ made, torch.ones(12).double())
    True
    """
    ones = torch.full((len(turn),), len(turn) ** -0.5, dtype=torch.float64)
    away = ones - turn.T @ ones
    size = away.square().sum()
    return turn if float(size) < 1e-24 else turn - 2 / size * torch.outer(turn @ away, away)


def rotate(weight: Tensor, dim: int, turn: Tensor) -> Tensor:
    """A tensor whose dimension is multiplied by a matrix: ``sum_i weight[..., i, ...] turn[i, j]`` at j.

    Activations ``x @ turn`` come from a layer whose outputs (dimension 0 of weight and bias) are rotated, and go into
    layers whose inputs (dimension 1) are, and nothing else changes when the matrix is orthogonal.

    Args:
        weight: any tensor; computed in float64, and of its own dtype again.
        dim: a dimension of a multiple of n; each n neighbours, such as a head, are rotated by themselves.
        turn: [n, n].

    Raises:
        UsageError: the dimension is not a multiple of n.

    >>> rotate(torch.tensor([[1.0, 2.0]]), 1, torch.tensor([[0.0, 1.0], [1.0, 0.0]])).tolist()
    [[2.0, 1.0]]
    """
    count = len(turn)
    if (
        turn.shape != (count, count)
        or not count
        or not -weight.dim() <= dim < weight.dim()
        or weight.shape[dim] % count
    ):
        raise UsageError(
            f"dimension {dim} of shape {list(weight.shape)} by a matrix of shape {list(turn.shape)}",
            "give a square matrix whose size divides the dimension",
        )
    moved = weight.double().movedim(dim, -1)
    turned = moved.unflatten(-1, (-1, count)) @ turn.to(weight.device).double()
    return turned.flatten(-2).movedim(-1, dim).to(weight.dtype)
