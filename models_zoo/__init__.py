"""Small real models, and loaders for ``zoo:``, ``timm:``, ``torchvision:`` and ``hf:`` names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tersor.models_zoo.catalog import ZooEntry, load, names

__all__ = ["ZooEntry", "load", "names"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Imported on first use, because the catalog imports torch.
    from tersor.models_zoo import catalog

    return getattr(catalog, name)
