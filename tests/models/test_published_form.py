"""Checkpoints of the published ones' form: embeddings equal fair-esm's, which computes with what they store."""

import random

import esm
import pytest
import torch

from tests.checkpoints import load_fair_esm, round_frequencies, save_in_fair_esms_format
from tests.conftest import MODEL
from virnucpro.data.packing import make_pack
from virnucpro.data.tokens import encode
from virnucpro.models.esm2 import ESM2, SHAPES, Constants
from virnucpro.models.esm2_flash import load_esm2_model

LARGER = "esm2_t12_35M_UR50D"
TOLERANCE = 1e-5  # of a residue's norm; fair-esm's own FP32 is 3e-7 from its FP64, this program's 6e-7 from it
exhaustive = pytest.mark.exhaustive


def protein(residues):
    """Of random letters, as frequencies matter most where no residue is like its neighbours."""
    return "".join(random.Random(residues).choices("ACDEFGHIKLMNPQRSTVWY", k=residues))


def made_up(name, token_dropout=True):
    """fair-esm's model with random weights, none of which is 0 or 1 throughout."""
    torch.manual_seed(20260102)
    shape = SHAPES[name]
    model = esm.ESM2(shape.layers, shape.dim, shape.heads, token_dropout=token_dropout).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=float(parameter.mean() > 0.5), std=0.1)
    round_frequencies(model)
    return model


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The path of a checkpoint of a model in a type, and fair-esm's model that it gives; each made once."""
    made = {}

    def of(name=MODEL, dtype=torch.float32):
        if (name, dtype) not in made:
            path = tmp_path_factory.mktemp("published") / f"{name}.pt"
            save_in_fair_esms_format(made_up(name), path, dtype)
            made[name, dtype] = path, load_fair_esm(path)
        return made[name, dtype]

    return of


def fair_esms(model, letters):
    tokens = torch.from_numpy(encode("a", letters))[None].to(model.embed_tokens.weight.device)
    with torch.inference_mode():
        return model(tokens, repr_layers=[model.num_layers])["representations"][model.num_layers][0]


def ours(model, letters):
    packed = make_pack(["a"], [encode("a", letters)])
    device = model.embed_tokens.weight.device
    found = model.forward_packed(packed.input_ids.to(device), packed.cu_seqlens.to(device), packed.max_seqlen)
    return found["representations"][model.num_layers]


def difference(found, expected):
    """The largest of any residue, as a share of its norm."""
    return ((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max().item()


@pytest.mark.parametrize(
    "name, dtype, residues",
    [
        *((MODEL, torch.float32, residues) for residues in (1, 2, 100, 300)),
        *((MODEL, dtype, residues) for dtype in (torch.float16, torch.bfloat16) for residues in (1, 300)),
        (LARGER, torch.float32, 100),
        pytest.param(MODEL, torch.float32, 3000, marks=exhaustive),
        *(pytest.param(LARGER, torch.float32, residues, marks=exhaustive) for residues in (1, 2, 300, 3000)),
        *(pytest.param(LARGER, dtype, 1022, marks=exhaustive) for dtype in (torch.float16, torch.bfloat16)),
    ],
)
def test_embeddings_equal_fair_esms(published, name, dtype, residues):
    path, reference = published(name, dtype)
    model, _ = load_esm2_model(name, "cpu", precision="fp32", weights=path)
    letters = protein(residues)
    assert difference(ours(model, letters), fair_esms(reference, letters)) <= TOLERANCE


@pytest.mark.parametrize("name", [MODEL, pytest.param(LARGER, marks=exhaustive)])
def test_long_proteins_equal_fair_esms_only_with_the_frequencies_of_the_checkpoint(published, name):
    path, reference = published(name)
    model, _ = load_esm2_model(name, "cpu", precision="fp32", weights=path)
    exact = ESM2(model.shape, "fp32", Constants.exact(model.shape))
    exact.load_state_dict(model.state_dict())
    letters = protein(1022)
    expected = fair_esms(reference, letters)
    assert difference(ours(model, letters), expected) <= TOLERANCE
    assert difference(ours(exact, letters), expected) > 1e-4


@pytest.mark.parametrize("token_dropout", [True, False])
def test_masked_residues_are_as_the_checkpoint_says(tmp_path, token_dropout):
    path = tmp_path / "weights.pt"
    save_in_fair_esms_format(made_up(MODEL, token_dropout), path)
    reference = load_fair_esm(path)
    assert reference.token_dropout == token_dropout
    model, _ = load_esm2_model(MODEL, "cpu", precision="fp32", weights=path)
    letters = "MK<mask>AYIAKQR<mask><mask>LV"
    assert difference(ours(model, letters), fair_esms(reference, letters)) <= TOLERANCE
    assert model.constants.token_dropout == token_dropout


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_type_that_parameters_are_stored_in_leaves_frequencies_alone(published, dtype):
    whole, narrow = (
        load_esm2_model(MODEL, "cpu", precision="fp32", weights=published(MODEL, each)[0])[0]
        for each in (torch.float32, dtype)
    )
    assert narrow.constants == whole.constants and narrow.constants.stored


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("residues", [1, 2, 100, 300, 1022, 3000])
@pytest.mark.parametrize("name", [MODEL, LARGER])
def test_embeddings_on_a_gpu_equal_fair_esms(published, name, residues):
    path, reference = published(name)
    model, _ = load_esm2_model(name, "cuda", precision="fp32", weights=path)
    letters = protein(residues)
    assert difference(ours(model, letters).cpu(), fair_esms(reference, letters)) <= TOLERANCE
