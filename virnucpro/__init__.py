"""VirNucPro: find viruses in short DNA fragments with ESM-2 protein embeddings."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from virnucpro.pipeline.embed import embed

__all__ = ["embed"]


def __getattr__(name: str) -> Any:
    """`embed`, when it is first asked for: it imports PyTorch, which takes seconds."""
    if name == "embed":
        from virnucpro.pipeline.embed import embed

        return embed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
