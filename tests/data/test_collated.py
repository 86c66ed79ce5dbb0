"""Dicts of VirNucPro v2's collator: the same rows as a pack's, and errors that name the batch."""

import pytest
import torch

from tests.conftest import RAGGED, random_model
from virnucpro.data.collated import pack_of
from virnucpro.data.packing import make_pack
from virnucpro.data.tokens import encode
from virnucpro.pipeline.async_inference import AsyncInferenceRunner

PACK = make_pack([name for name, _ in RAGGED], [encode(*each) for each in RAGGED])


def collated(**changes):
    """What the collator makes of `RAGGED`, with some values changed."""
    about = ("input_ids", "cu_seqlens", "max_seqlen", "sequence_ids")
    batch = {name: getattr(PACK, name) for name in about} | {"num_sequences": len(PACK)}
    return {name: value for name, value in {**batch, **changes}.items() if value is not None}


def changed(at, token):
    tokens = PACK.input_ids.clone()
    tokens[at] = token
    return tokens


def test_a_dict_gives_the_rows_of_its_pack():
    model, _ = random_model("esm2_t6_8M_UR50D")
    waits, last = {}, collated(num_sequences=None, token_budget=4096)
    (expected,) = AsyncInferenceRunner(model).run([PACK])
    found = list(AsyncInferenceRunner(model).run([waits, collated(), waits, last]))
    assert len(found) == 2
    for each in found:
        assert each.sequence_ids == expected.sequence_ids and torch.equal(each.embeddings, expected.embeddings)


def test_other_integers_and_a_longer_max_seqlen_are_taken():
    batch = collated(
        input_ids=PACK.input_ids.int(), cu_seqlens=PACK.cu_seqlens.long(), max_seqlen=torch.tensor(9_999)
    )
    found = pack_of(batch, 0)
    assert torch.equal(found.input_ids, PACK.input_ids) and torch.equal(found.cu_seqlens, PACK.cu_seqlens)
    assert (found.input_ids.dtype, found.cu_seqlens.dtype) == (torch.int64, torch.int32)
    assert found.sequence_ids == PACK.sequence_ids and found.max_seqlen == PACK.max_seqlen


def test_a_batch_without_sequences_is_an_empty_pack():
    none = {"input_ids": torch.empty(0, dtype=torch.long), "cu_seqlens": torch.zeros(1, dtype=torch.int32)}
    assert len(pack_of({**none, "max_seqlen": 0, "sequence_ids": []}, 0)) == 0


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"cu_seqlens": None, "max_seqlen": None}, "cu_seqlens and max_seqlen missing; it has input_ids,"),
        ({"sequence_ids": PACK.sequence_ids[1:]}, "6 sequence_ids, num_sequences 7 and 8 cu_seqlens"),
        ({"num_sequences": 6}, "7 sequence_ids, num_sequences 6 and 8 cu_seqlens"),
        ({"sequence_ids": [*PACK.sequence_ids[1:], 7]}, "sequence_ids are not all text"),
        ({"input_ids": PACK.input_ids.float()}, "input_ids is torch.float32 of shape"),
        ({"input_ids": PACK.input_ids[None]}, r"input_ids is torch.int64 of shape \(1, "),
        ({"input_ids": PACK.input_ids.to("meta")}, "on meta, and int64 or int32 with one dimension on the CPU"),
        ({"cu_seqlens": PACK.cu_seqlens.tolist()}, "cu_seqlens is list and not a tensor"),
        ({"cu_seqlens": PACK.cu_seqlens + 1}, "cu_seqlens do not ascend from 0"),
        ({"cu_seqlens": PACK.cu_seqlens[[0, 2, 1, 3, 4, 5, 6, 7]]}, "cu_seqlens do not ascend from 0"),
        ({"input_ids": PACK.input_ids[:-1]}, "cu_seqlens do not ascend from 0"),
        ({"max_seqlen": 10}, "max_seqlen is 10, and a sequence has 802 tokens"),
        ({"max_seqlen": "long"}, "max_seqlen is 'long' and no whole number"),
        ({"input_ids": changed(0, 5)}, "'one' is not BOS"),
        ({"input_ids": changed(-1, 5)}, "'long' is not BOS"),
        ({"input_ids": changed(4, 1)}, "'two' is not BOS, tokens of ESM-2's without padding"),
        ({"input_ids": changed(4, 33)}, "'two' is not BOS"),
    ],
)
def test_what_is_wrong_with_a_batch_is_told_with_its_number(changes, why):
    model, _ = random_model("esm2_t6_8M_UR50D")
    with pytest.raises(ValueError, match=f"^batch 2: .*{why}"):
        list(AsyncInferenceRunner(model).run([collated(), {}, collated(**changes)]))
