"""The packs of an input: numbered, shared among shards, and compared with what was embedded."""

import itertools
from types import SimpleNamespace

import pytest

from virnucpro.data.packing import pack
from virnucpro.pipeline.input import InputChangedError, NumberedPacks, added, left
from virnucpro.pipeline.shards import PACKS_IN_BLOCK, Shard

PROTEINS = [(f"p{number}", "ACDEFGHIKL"[: 2 + number % 7]) for number in range(60)]


def packs(proteins=PROTEINS):
    return pack(proteins, 20)


class Run:
    """What is on disk, and what of it counts."""

    def __init__(self, stored=()):
        self.stored = {}
        for each in stored:
            found = SimpleNamespace(
                number=each.number, digest=each.digest, sequences=len(each.pack), residues=0, rows=0, names_size=0,
                skipped=(),
            )  # fmt: skip
            self.stored.setdefault(each.number, {})[each.digest] = found
        self.done = set()

    def add(self, found):
        self.done.update(each.number for each in found)


def test_packs_are_numbered_and_their_digests_are_of_all_before():
    found = list(NumberedPacks(packs()))
    assert [each.number for each in found] == list(range(len(found)))
    assert [each.begins for each in found] == [0, *itertools.accumulate(len(each.pack) for each in found)][:-1]
    other = list(NumberedPacks(packs([("another", "MK"), *PROTEINS[1:]])))
    assert not {each.digest for each in found} & {each.digest for each in other}


def test_shards_have_all_packs_once_and_the_whole_inputs_digest():
    whole = NumberedPacks(packs())
    numbers = [each.number for each in whole]
    sources = [NumberedPacks(packs(), Shard(number, 3)) for number in (1, 2, 3)]
    found = [[each.number for each in source] for source in sources]
    assert sorted(itertools.chain(*found)) == numbers
    blocks = sorted(block for source in sources for block in source.blocks)
    assert blocks == whole.blocks and sum(count for _, count in blocks) == len(PROTEINS)
    for source, own in zip(sources, found, strict=True):
        assert source.numbers == own
        assert source.attributes == {"input_sequences": len(PROTEINS), **whole.attributes}
        assert all((number // PACKS_IN_BLOCK) % 3 == source._shard.number - 1 for number in own)


@pytest.mark.parametrize("stored", [[], [0, 1, 2], [1, 5], range(12)])
def test_packs_on_disk_are_not_handed_out_again(stored):
    all_packs = list(NumberedPacks(packs()))
    run = Run([all_packs[number] for number in stored if number < len(all_packs)])
    assert [each.number for each in left(NumberedPacks(packs()), run)] == [
        each.number for each in all_packs if each.number not in run.stored
    ]
    assert run.done == set(run.stored)


@pytest.mark.parametrize(
    "now",
    [[("new", "MK"), *PROTEINS], [*PROTEINS[:9], ("new", "MK"), *PROTEINS[9:]], PROTEINS[:20],
     [*PROTEINS[:30], ("p30", "MK"), *PROTEINS[31:]]],
)  # fmt: skip
def test_an_input_that_lacks_what_was_embedded_is_refused(now):
    run = Run(NumberedPacks(packs()))
    with pytest.raises(InputChangedError, match="does not begin with the 60 sequences"):
        list(left(NumberedPacks(packs(now)), run))


def test_packs_that_a_changed_input_left_do_not_stand_in_the_way():
    """A run that was resumed by mistake with another input can be resumed with its own."""
    mistaken = list(NumberedPacks(packs([*PROTEINS[:-1], ("another", PROTEINS[-1][1])])))
    own = list(NumberedPacks(packs()))
    run = Run([*own[:2], mistaken[-1], own[-1]])
    assert [each.number for each in left(NumberedPacks(packs()), run)] == list(range(2, len(own) - 1))


@pytest.mark.parametrize("before", range(0, 60, 7))
def test_only_the_last_pack_of_a_complete_file_is_computed_again(before):
    complete = NumberedPacks(packs(PROTEINS[:before]))
    for _ in complete:
        pass
    source = NumberedPacks(packs())
    stays, new = added(source, source, before, complete.digest)
    new = list(new)
    assert [number for number, _, _ in stays] + [each.number for each in new] == source.numbers
    assert new[0].begins <= before and new[0].begins + len(new[0].pack) > before
    with pytest.raises(InputChangedError):
        changed = NumberedPacks(packs([("new", "MK"), *PROTEINS]))
        added(changed, changed, before, complete.digest or "of some")


def test_a_complete_file_whose_input_is_the_same_has_nothing_new():
    complete = NumberedPacks(packs())
    for _ in complete:
        pass
    source = NumberedPacks(packs())
    stays, new = added(source, source, 60, complete.digest)
    assert list(new) == [] and [number for number, _, _ in stays] == complete.numbers
