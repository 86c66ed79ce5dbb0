"""ESM-2 protein embeddings, as VirNucPro computes them to find viruses in short DNA fragments; no classifier."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from virnucpro.pipeline.in_memory import embed
    from virnucpro.store.embeddings import Embeddings

__all__ = ["Embeddings", "embed"]


def __getattr__(name: str) -> Any:
    """What is first asked for: `embed` imports PyTorch, which takes seconds."""
    if name == "embed":
        from virnucpro.pipeline.in_memory import embed

        return embed
    if name == "Embeddings":
        from virnucpro.store.embeddings import Embeddings

        return Embeddings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
