"""Caches of keys and values in a graph: where they are, what they hold, and their storage in few bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, fx

from tersor.calibrate import observe
from tersor.errors import InputError, UsageError
from tersor.interface import Flat
from tersor.program import Program
from tersor.quant.cache import Codec, aten, check, decode, encode, for_keys, for_values
from tersor.refresh import refresh
from tersor.rewrite import insert_weight
from tersor.rewrite_values import arguments, fake, key, known

MOVED = (
    "view", "reshape", "permute", "transpose", "expand", "unsqueeze", "squeeze", "contiguous", "clone", "slice",
    "repeat_interleave", "_to_copy", "mul", "flatten", "unflatten",
)  # fmt: skip
"""What may lie between a cache and attention."""

PRODUCTS = ("matmul", "bmm")


@dataclass(frozen=True, eq=False)
class Cache:
    """A cache that comes in, has new tokens put behind, goes out, and is read by attention.

    Attributes:
        past: the input.
        joined: the ``cat`` of it and what is new; an output.
        dim: of tokens, not negative.
        kind: what attention reads it as.
    """

    past: fx.Node
    joined: fx.Node
    dim: int
    kind: Literal["keys", "values"]

    @property
    def new(self) -> fx.Node:
        """The tokens that are put behind."""
        second: fx.Node = arguments(self.joined)["tensors"][1]
        return second

    @property
    def item_bytes(self) -> int:
        """Of a number, as it comes in."""
        return fake(self.past).element_size()


def caches(program: Program) -> Iterator[tuple[fx.Node, Cache | str]]:
    """Every input that might be a cache, or why it is none that can be stored in few bits."""
    for past in program.placeholders:
        for joined in past.users:
            if key(joined) == "cat" and arguments(joined)["tensors"][0] is past:
                yield past, _cache(program, past, joined)
                break


def _cache(program: Program, past: fx.Node, joined: fx.Node) -> Cache | str:
    given, value = arguments(joined), fake(past)
    dim = int(given["dim"]) % value.dim()
    if any(user is not joined and key(user) != "sym_size" for user in past.users) or len(given["tensors"]) != 2:
        return "it is read by others than what puts new tokens behind it"
    if joined not in program.outputs:
        return f"it does not go out again: {joined.name} is no output"
    if value.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"it holds {value.dtype}"
    if dim == value.dim() - 1 or dim == 0 or any(known(size) is None for size in _others(value, dim)):
        return (
            f"dimension {dim} counts its tokens, or the sizes of others than batch and tokens differ from call to call"
        )
    kind = _kind(joined)
    return Cache(past, joined, dim, kind) if kind else "no attention reads it"


def _others(value: Tensor, dim: int) -> list[Any]:
    return [size for place, size in enumerate(value.shape) if place not in (0, dim)]


def _kind(joined: fx.Node) -> Literal["keys", "values"] | None:
    """What attention reads a tensor as, directly or after it was moved."""
    waiting, seen = [joined], set[fx.Node]()
    while waiting:
        node = waiting.pop()
        seen.add(node)
        for user in node.users:
            if key(user) == "scaled_dot_product_attention":
                return "keys" if arguments(user)["key"] is node else "values"
            if key(user) in PRODUCTS:
                return "values" if _is_softmax(user.args[0]) else "keys"
            if key(user) in MOVED and user not in seen:
                waiting.append(user)
    return None


def _is_softmax(node: Any) -> bool:
    while key(node) in MOVED:
        node = node.args[0]
    return key(node) in ("softmax", "_softmax", "_safe_softmax")


def codecs(program: Program, found: Sequence[Cache], bits: int, inputs: Sequence[Flat]) -> dict[str, Codec]:
    """How each cache is stored, by the name of its ``cat``; ranges of keys are what the inputs show.

    Raises:
        InputError: a key is NaN or infinite there.
    """
    ranges = {cache.joined.name: _Ranges(cache.dim) for cache in found if cache.kind == "keys"}
    if ranges:
        observe(program, {name: item.add for name, item in ranges.items()}, inputs)
    made = {}
    for cache in found:
        name = cache.joined.name
        if cache.kind == "values":
            made[name] = for_values(_width(cache), bits)
            continue
        low, high = ranges[name].low, ranges[name].high
        if not bool((low.isfinite() & high.isfinite()).all()):
            raise InputError(
                f"the calibration inputs make keys in {name} NaN or infinite", "look for such values there"
            )
        made[name] = for_keys(low, high, bits)
    return made


def _width(cache: Cache) -> int:
    return int(fake(cache.past).shape[-1])


class _Ranges:
    """The least and the largest of each channel of each head, shaped to broadcast."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.low = self.high = torch.zeros(())

    def add(self, value: Tensor) -> None:
        if value.numel():
            low, high = (reduced(value.float(), (0, self.dim), keepdim=True) for reduced in (torch.amin, torch.amax))
            self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)


def too_few_bits(cache: Cache, bits: int) -> str:
    """Why a cache cannot be stored in so many bits; empty where it can."""
    try:
        check(_width(cache), bits)
    except UsageError as error:
        return str(error)
    return ""


def put_rounding(program: Program, cache: Cache, codec: Codec) -> None:
    """Let everybody, the output included, read what a cache would hold; the interface stays."""
    writer, after = _Writer.of(program, cache, codec), cache.joined.next
    back = writer.decoded(writer.encoded(cache.joined, after), after)
    cache.joined.replace_all_uses_with(back, delete_user_cb=lambda user: user not in writer.inserted)


@dataclass(frozen=True)
class Stored:
    """A program whose caches come in and go out as bytes.

    Attributes:
        program: to be run or written as any other.
        inputs, outputs: codecs by the names that the interface has for caches.
    """

    program: Program
    inputs: Mapping[str, Codec]
    outputs: Mapping[str, Codec]


def store(program: Program, bits: int = 8, inputs: Sequence[Flat] = ()) -> Stored:
    """A copy of a program whose caches are bytes: what `put_rounding` only computes with, its inputs and outputs hold.

    New tokens are encoded when they are put behind a cache, and attention reads the whole cache decoded. Begin with
    caches of no tokens, or encode those that there are: ``made.inputs[name].encode(value)``.

    Args:
        program: with caches that `caches` finds; not changed.
        bits: 8 or 4.
        inputs: calibration inputs that show the ranges of keys; without any the example inputs do.

    Raises:
        UsageError: there is no such cache.
    """
    made = program.clone()
    found = [item for _, item in caches(made) if isinstance(item, Cache) and not too_few_bits(item, bits)]
    if not found:
        raise UsageError("the program has no cache that attention reads", "see the reasons that quantize-cache tells")
    known_codecs = codecs(made, found, bits, list(inputs) or [program.inputs])
    named: tuple[dict[str, Codec], dict[str, Codec]] = ({}, {})
    for cache in found:
        codec, place = known_codecs[cache.joined.name], made.placeholders.index(cache.past)
        named[0][made.interface.input_names[place]] = codec
        named[1][made.interface.output_names[made.outputs.index(cache.joined)]] = codec
        _store_input(made, place, codec)
        _put_storage(made, cache, codec)
    return Stored(refresh(made), *named)


def _store_input(program: Program, place: int, codec: Codec) -> None:
    """Example and sizes of an input that holds bytes."""

    def changed(flat: Flat) -> Flat:
        return (*flat[:place], codec.encode(flat[place].float()), *flat[place + 1 :])

    program.inputs = changed(program.inputs)
    program.given = None if program.given is None else changed(program.given)
    rows = list(program.sizes)
    rows[place] = (*rows[place][:-1], codec.stored_width)
    program.sizes = tuple(rows)


def _put_storage(program: Program, cache: Cache, codec: Codec) -> None:
    """Put encoded tokens behind the cache, give it out as it is, and let attention read it decoded."""
    joined, writer = cache.joined, _Writer.of(program, cache, codec)
    joined.args = ([cache.past, writer.encoded(cache.new, joined)], cache.dim)
    joined.kwargs = {}
    back = writer.decoded(joined, joined.next)
    keep = {*writer.inserted, program.output_node}
    joined.replace_all_uses_with(back, delete_user_cb=lambda user: user not in keep)


@dataclass(frozen=True)
class _Writer:
    """Inserts a codec's arithmetic.

    Attributes:
        parameters: nodes of scale and zero point; none for values.
        dtype: of the cache in floating point.
        inserted: every node so far.
    """

    codec: Codec
    parameters: tuple[fx.Node, ...]
    dtype: torch.dtype
    inserted: list[fx.Node]

    @classmethod
    def of(cls, program: Program, cache: Cache, codec: Codec) -> _Writer:
        given = {"scale": codec.scale, "zero": codec.zero}
        nodes = [
            insert_weight(program, cache.joined, f"{cache.joined.name}_{name}", value)
            for name, value in given.items()
            if value is not None
        ]
        return cls(codec, tuple(nodes), fake(cache.past).dtype, [])

    def encoded(self, value: fx.Node, before: fx.Node) -> fx.Node:
        do = partial(self._insert, before)
        wide = value if self.dtype == torch.float32 else do(aten._to_copy.default, value, dtype=torch.float32)
        made: fx.Node = encode(self.codec, wide, *self.parameters, do=do)  # type: ignore[arg-type, misc]
        return made

    def decoded(self, stored: fx.Node, before: fx.Node) -> fx.Node:
        do = partial(self._insert, before)
        made: fx.Node = decode(self.codec, stored, *self.parameters, do=do)  # type: ignore[arg-type, misc]
        return made if self.dtype == torch.float32 else do(aten._to_copy.default, made, dtype=self.dtype)

    def _insert(self, before: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        with before.graph.inserting_before(before):
            node = before.graph.call_function(target, args, kwargs)
        self.inserted.append(node)
        return node
