"""How many tokens a pack should have."""

from virnucpro.models.esm2_flash import load_esm2_model
from virnucpro.models.token_budget import DEFAULT_TOKEN_BUDGET, bytes_per_token, token_budget

MODEL = "esm2_t6_8M_UR50D"


def test_the_cpus_budget_is_what_fills_it():
    model, _ = load_esm2_model(MODEL, "cpu", weights="random", precision="fp32")
    assert token_budget(model) == DEFAULT_TOKEN_BUDGET["cpu"]


def test_a_tokens_memory_follows_the_models_width_and_precision():
    fp32 = load_esm2_model(MODEL, "cpu", weights="random", precision="fp32")[0]
    fp16 = load_esm2_model(MODEL, "cpu", weights="random", precision="fp16")[0]
    assert (bytes_per_token(fp32), bytes_per_token(fp16)) == (320 * 24, 320 * 12)
