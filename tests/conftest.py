"""Fixtures that several test folders share."""

import functools
import os
from pathlib import Path

if not Path("/dev/nvidiactl").exists():  # before anything imports Triton, which chooses then
    os.environ.setdefault("TRITON_INTERPRET", "1")

import esm
import pytest
import torch
from hypothesis import settings

from asv_plugin.answer.picture import CHROMIUM, FLAGS
from benchmarks.measure.massive import Channel, massive
from tests.checkpoints import round_frequencies, save_in_fair_esms_format
from virnucpro.data.packing import make_pack
from virnucpro.data.tokens import encode
from virnucpro.models.esm2_flash import load_esm2_model

MODEL = "esm2_t6_8M_UR50D"
EXHAUSTIVE = pytest.mark.exhaustive
NEEDS_TRITON = "needs Triton, which PyTorch's CPU build does not bring: pip install triton"

# 1 residue, long, rare letters, mask tokens, and lengths that make padding ragged
RAGGED = [
    ("one", "M"),
    ("two", "MK"),
    ("rare", "MXBUZOACDEFGHIKLMNPQRSTVWY"),
    ("gaps", "MK.LV--AC"),
    ("masked", "MKT<mask>AY<mask><mask>IAK"),
    ("middle", "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQ" * 2),
    ("long", "ACDEFGHIKLMNPQRSTVWY" * 40),
]


def sample_of(every, *sample):
    """Parameters of which `make test` takes the sample, and `make test-all` all; a tuple is several parameters."""
    return [
        pytest.param(*(each if isinstance(each, tuple) else (each,)), marks=() if each in sample else EXHAUSTIVE)
        for each in every
    ]


class StopAfter:
    """Says to stop from the given question on."""

    def __init__(self, questions):
        self.left = questions

    def __call__(self):
        self.left -= 1
        return self.left < 0


def pytest_configure(config):
    """`make test` takes fewer examples of wide inputs."""
    settings.register_profile("sample", max_examples=20, deadline=None)
    settings.register_profile("all", deadline=None)
    settings.load_profile("sample" if "not exhaustive" in config.option.markexpr else "all")


@functools.cache
def random_model(name):
    """A model with random weights, made once."""
    return load_esm2_model(name, "cpu", precision="fp32", weights="random")


@pytest.fixture
def one_model(monkeypatch):
    """The command takes one model for all tests, and one thread: two would wait for each other beside others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr("virnucpro.models.esm2_flash.load_esm2_model", lambda name, *_, **__: random_model(name))
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def chromium():
    """A real browser, one for the tests of a file."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def fair_esm_model() -> esm.ESM2:
    """fair-esm's own 8M model with random weights and frequencies rounded as Meta's, the FP32 reference."""
    torch.manual_seed(20260101)
    model = esm.ESM2(num_layers=6, embed_dim=320, attention_heads=20).eval()
    for parameter in model.parameters():  # fair-esm starts biases at 0 and norms at 1, which would hide mistakes
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float(parameter.mean() > 0.5), std=0.1)
    round_frequencies(model)
    return model


@pytest.fixture(scope="session")
def checkpoint(fair_esm_model: esm.ESM2, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference's weights as a file in fair-esm's format."""
    path = tmp_path_factory.mktemp("checkpoint") / f"{MODEL}.pt"
    save_in_fair_esms_format(fair_esm_model, path)
    return path


@pytest.fixture(scope="session")
def massive_checkpoint(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a massive channel in the residual, which INT8 keeps apart."""
    model, _ = load_esm2_model(MODEL, "cpu", precision="fp32", weights=checkpoint)
    proteins = [(name, encode(name, protein)) for name, protein in RAGGED if "<" not in protein]
    names, tokens = zip(*proteins, strict=True)
    massive(model, make_pack(names, tokens), [Channel()])
    theirs = esm.ESM2(num_layers=6, embed_dim=320, attention_heads=20)
    theirs.load_state_dict(model.fair_esm_state(), strict=False)
    path = tmp_path_factory.mktemp("massive") / f"{MODEL}.pt"
    save_in_fair_esms_format(theirs, path)
    return path
