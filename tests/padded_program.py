"""A made program of VirNucPro's form: ``load_esm2_model(model_name, device, enable_fp16)`` wraps fair-esm's."""

from pathlib import Path

LOADER = """
import esm
from torch import nn


class Wrapper(nn.Module):
    def __init__(self, base, device, half):
        super().__init__()
        self.model = (base.half() if half else base).to(device).eval()

    def forward(self, tokens, repr_layers=None):
        {before}return self.model(tokens, repr_layers=repr_layers or [36])


def load_esm2_model(model_name="esm2_t36_3B_UR50D", device="cuda", enable_fp16=None, logger_instance=None):
    base, alphabet = getattr(esm.pretrained, model_name)()
    return Wrapper(base, device, enable_fp16), alphabet.get_batch_converter()
"""

VARIANTS = {
    "good": "",
    "slower": "[self.model(tokens) for _ in range(2)]  # wasted\n        ",
    "other": "tokens = tokens.masked_fill(tokens == 5, 6)  # other residues\n        ",
}
"""What a commit does before the forward pass."""


def write(project: Path, variant: str) -> None:
    """Write the package of a commit, without what would build it."""
    for package in ("virnucpro", "virnucpro/models"):
        (project / package).mkdir(parents=True, exist_ok=True)
        (project / package / "__init__.py").touch()
    (project / "virnucpro/models/esm2_flash.py").write_text(LOADER.format(before=VARIANTS[variant]))
