"""What a method cannot stand for, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from tersor.attention.site import Site


@dataclass(frozen=True)
class Needs:
    """What an attention must be for a method.

    Attributes:
        masks: kinds that the method keeps; any other would be broken by it.
        causal: whether it can be causal.
        cross: whether keys may be of another sequence than queries.
        fixed: whether the number of tokens must be the same in every call.
        heads_alike: whether the mask must be the same for all heads.
    """

    masks: tuple[str, ...] = ("none", "keys")
    causal: bool = True
    cross: bool = False
    fixed: bool = False
    heads_alike: bool = True

    def objection(self, site: Site) -> str:
        """Why an attention is not what is needed; empty where it is."""
        if site.causal and not self.causal:
            return "it would let tokens see later ones"
        if site.causal and site.mask == "rows":
            return "it is causal and has a mask that differs from row to row besides"
        if site.mask not in self.masks:
            return f"it would break a mask {_MASKS[site.mask]}"
        if not self.cross and site.rows != site.columns:
            return f"{site.rows} queries and {site.columns} keys are not one sequence"
        if self.fixed and not site.fixed:
            return "its number of tokens differs from call to call"
        if self.heads_alike and site.mask_heads:
            return "its mask differs from head to head"
        return ""


_MASKS = {"keys": "of hidden keys", "rows": "that differs from row to row", "none": ""}
