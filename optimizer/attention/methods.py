"""The methods that may stand for an attention, each with its settings, what it needs, and how it is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Protocol

import torch

from tersor.attention.block_mask import average_mass, block_mass, choose_blocks, masked_attention
from tersor.attention.block_select import selected_attention
from tersor.attention.distilled import distill, distilled_attention
from tersor.attention.form import Form, dense_attention
from tersor.attention.landmarks import landmark_attention
from tersor.attention.needs import Needs
from tersor.attention.permuted import permuted_attention
from tersor.attention.pooled import pooled_attention
from tersor.attention.random_features import projection, random_feature_attention
from tersor.attention.residual import guided_attention
from tersor.attention.sampled import sampled_attention
from tersor.attention.site import Call, Site
from tersor.attention.window import window_attention


class Method(Protocol):
    """A frozen dataclass whose fields are its settings."""

    name: ClassVar[str]
    needs: ClassVar[Needs]

    def objection(self, site: Site) -> str:
        """Why it cannot stand for an attention; empty where it can."""

    def form(self, site: Site, calls: Sequence[Call], seed: int) -> Form:
        """It, fitted to calls; with none, something of the same shapes."""


@dataclass(frozen=True)
class Window:
    """See `tersor.attention.window`."""

    reach: int
    block: int
    sinks: int = 0
    dilation: int = 1
    name: ClassVar[str] = "window"
    needs: ClassVar[Needs] = Needs(masks=("none", "keys", "rows"), heads_alike=False)

    def objection(self, site: Site) -> str:
        """Dilation reorders tokens, which a mask of rows does not survive; blocks of one are cut at fixed places."""
        reason = self.needs.objection(site)
        if not reason and self.reach >= site.columns:
            return f"a reach of {self.reach} is no less than {site.columns} tokens"
        if not reason and site.mask == "rows" and (self.dilation > 1 or not site.fixed):
            return Needs().objection(site)
        return reason

    def form(self, site: Site, calls: Sequence[Call], seed: int) -> Form:
        """Nothing to fit."""
        settings = {"reach": self.reach, "block": self.block, "sinks": self.sinks, "dilation": self.dilation}
        return Form(window_attention, {**settings, "causal": site.causal, "scale": site.scale})


@dataclass(frozen=True)
class Blocks:
    """See `tersor.attention.block_mask`."""

    block: int
    keep: int
    name: ClassVar[str] = "blocks"
    needs: ClassVar[Needs] = Needs(fixed=True)

    def objection(self, site: Site) -> str:
        """As needed."""
        return self.needs.objection(site) or _too_few(site, self.block, self.keep)

    def form(self, site: Site, calls: Sequence[Call], seed: int) -> Form:
        """The blocks with the largest mass over all calls."""
        size, causal = self.block, site.causal
        masses = [
            block_mass(query, key, bias, rows=size, block=size, causal=causal, scale=site.scale)
            for query, key, _, bias in calls
        ]
        anything = torch.ones(site.heads, -(-site.rows // size), -(-site.columns // size))
        mass = average_mass(masses) if masses else anything
        index = choose_blocks(mass, self.keep, rows=size, block=size, causal=causal)[0]
        settings = {"rows": size, "block": size, "causal": causal, "scale": site.scale}
        return Form(masked_attention, settings, {"index": index})


@dataclass(frozen=True)
class Select:
    """See `tersor.attention.block_select`."""

    block: int
    keep: int
    proxies: int = 0
    name: ClassVar[str] = "select"
    needs: ClassVar[Needs] = Needs(fixed=True)

    def objection(self, site: Site) -> str:
        """As needed."""
        return self.needs.objection(site) or _too_few(site, self.block, self.keep)

    def form(self, site: Site, calls: Sequence[Call], seed: int) -> Form:
        """Nothing to fit."""
        settings = {"rows": self.block, "block": self.block, "keep": self.keep, "proxies": self.proxies}
        return Form(selected_attention, {**settings, "causal": site.causal, "scale": site.scale})


@dataclass(frozen=True)
class Permute:
    """See `tersor.attention.permuted`."""

    segment: int
    block: int
    keep: int
    name: ClassVar[str] = "permute"
    needs: ClassVar[Needs] = Needs(fixed=True)

    def objection(self, site: Site) -> str:
        """As needed."""
        return self.needs.objection(site) or _too_few(site, self.block, self.keep)

    def form(self, site: Site, calls: Sequence[Call], seed: int) -> Form:
        """Nothing to fit."""
        settings = {"segment": self.segment, "block": self.block, "keep": self.keep}
        return Form(permuted_attention, {**settings, "causal": site.causal, "scale": site.scale})


@dataclass(frozen=True)
class Pooled:
    """See `tersor.attention.pooled`."""

    window: int
    line: int = 0
    prefix: int = 0
    name: ClassVar[str] = "pooled"
    needs: ClassVar[Needs] = Needs(causal=False, cross=True, fixed=True)

    def objection(self, site: Site) -> str:
        """Masked keys cannot be told apart inside a square."""
        reason = self.needs.objection(site)
        if not reason and self.line and site.mask != "none":
            return "it would break a mask of hidden keys"
        return reason

    def form(self, site: Site, calls: Sequence[Call], seed: int) -> Form:
        """Nothing to fit."""
        settings = {"window": self.window, "line": self.line, "prefix": self.prefix}
        return Form(pooled_attention, {**settings, "scale": site.scale})


@dataclass(frozen=True)
class Landmarks:
    """See `tersor.attention.landmarks`."""

    landmarks: int
    name: ClassVar[str] = "landmarks"
    needs: ClassVar[Needs] = Needs(masks=("none",), causal=False, fixed=True)

    def objection(self, site: Site) -> str:
        """As needed."""
        if self.landmarks >= site.columns:
            return f"{self.landmarks} landmarks are no fewer than {site.columns} tokens"
        return self.needs.objection(site)

    def form(self, site: Site, calls: Sequence[Call], seed: int) -> Form:
        """Nothing to fit."""
        return Form(landmark_attention, {"landmarks": self.landmarks, "scale": site.scale})


@dataclass(frozen=True)
class Sampled:
    """See `tersor.attention.sampled`."""

    heavy: int
    samples: int
    name: ClassVar[str] = "sampled"
    needs: ClassVar[Needs] = Needs(causal=False, cross=True, fixed=True)

    def objection(self, site: Site) -> str:
        """As needed."""
        if self.heavy + self.samples >= site.columns:
            return f"{self.heavy + self.samples} keys are no fewer than {site.columns}"
        return self.needs.objection(site)

    def form(self, site: Site, calls: Sequence[Call], seed: int) -> Form:
        """Nothing to fit."""
        return Form(sampled_attention, {"heavy": self.heavy, "samples": self.samples, "scale": site.scale})


@dataclass(frozen=True)
class Features:
    """See `tersor.attention.random_features`."""

    count: int
    name: ClassVar[str] = "features"
    needs: ClassVar[Needs] = Needs(cross=True)

    def objection(self, site: Site) -> str:
        """As needed."""
        return self.needs.objection(site)

    def form(self, site: Site, calls: Sequence[Call], seed: int) -> Form:
        """Draws the directions."""
        drawn = projection(site.width, self.count, torch.Generator().manual_seed(seed)).to(site.dtype)
        return Form(random_feature_attention, {"causal": site.causal, "scale": site.scale}, {"directions": drawn})


@dataclass(frozen=True)
class Distilled:
    """See `tersor.attention.distilled`."""

    width: int
    name: ClassVar[str] = "distilled"
    needs: ClassVar[Needs] = Needs(cross=True)

    def objection(self, site: Site) -> str:
        """As needed."""
        return self.needs.objection(site)

    def form(self, site: Site, calls: Sequence[Call], seed: int) -> Form:
        """Learns the feature maps from the calls."""
        asked = known = torch.zeros(site.heads, site.width, self.width, dtype=site.dtype)
        if calls:
            full = Form(dense_attention, {"causal": site.causal, "scale": site.scale})
            asked, known = distill(
                calls, [full(*call) for call in calls], width=self.width, causal=site.causal, scale=site.scale,
                seed=seed,
            )  # fmt: skip
        return Form(distilled_attention, {"causal": site.causal}, {"asked": asked, "known": known})


@dataclass(frozen=True)
class Guided:
    """See `tersor.attention.residual`."""

    name: ClassVar[str] = "guided"
    needs: ClassVar[Needs] = Needs(masks=("none", "keys", "rows"), cross=True, heads_alike=False)

    def objection(self, site: Site) -> str:
        """The halves of a batch must be there, and masked alike."""
        if not site.even:
            return "its batch is not known to be even, so that it has no two halves"
        if site.mask_batch:
            return "its mask differs from sample to sample"
        return self.needs.objection(site)

    def form(self, site: Site, calls: Sequence[Call], seed: int) -> Form:
        """Nothing to fit."""
        return Form(guided_attention, {"causal": site.causal, "scale": site.scale})


def _too_few(site: Site, block: int, keep: int) -> str:
    blocks = -(-site.columns // block)
    return f"{keep} blocks are no fewer than the {blocks} there are" if keep >= blocks else ""


def described(method: Method) -> str:
    """A method as text, settings at their defaults left out.

    >>> described(Window(reach=64, block=64))
    'window{reach=64;block=64}'
    """
    told = [(item, getattr(method, item.name)) for item in fields(method)]  # type: ignore[arg-type]
    shown = ";".join(f"{item.name}={value}" for item, value in told if value != item.default)
    return f"{method.name}{{{shown}}}" if shown else method.name
