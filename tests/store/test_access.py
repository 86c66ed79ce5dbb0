"""What can be asked of a file of embeddings, by number, name and slice."""

import numpy as np
import pytest

from virnucpro.store.access import Access

NAMES = ["a", "b", "twice", "c", "twice"]


class Ragged(Access):
    """Embeddings whose shapes differ."""

    names = NAMES
    parts = [np.full((number + 1, 2), number) for number in range(len(NAMES))]

    def __len__(self):
        return len(self.parts)

    def _take(self, which):
        return [self.parts[number] for number in which]


@pytest.fixture(params=["mean", "residue"])
def embeddings(request, tmp_path):
    """A file of five sequences, and what is to be found of each."""
    import virnucpro
    from tests.store.rows import SmallRun, rows_in
    from virnucpro.store.hdf5 import write_hdf5

    ragged = request.param == "residue"
    parts = Ragged.parts if ragged else [np.full((1, 2), number) for number in range(5)]
    path = tmp_path / "out.h5"
    with SmallRun(path) as run:
        run.append(0, NAMES, [len(part) for part in Ragged.parts], np.concatenate(parts).astype("f4"), "digest")
        rows = rows_in(run, 2)
        pool = {"pool": request.param}
        run.finish(rows, lambda path, there: write_hdf5(path, rows, pool, (2,), ragged, in_place=there))
    with virnucpro.Embeddings(path) as file:
        yield file, parts if ragged else [part[0] for part in parts]


def same(found, expected):
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


def test_numbers_count_from_either_end(embeddings):
    file, parts = embeddings
    for number in (*range(-5, 5), np.int64(2), np.int64(-1)):
        assert np.array_equal(file[number], parts[number])
    for number in (5, -6, 100):
        with pytest.raises(IndexError, match="there are 5"):
            file[number]
    with pytest.raises(TypeError):
        file[1.5]


@pytest.mark.parametrize(
    "which",
    [slice(None), slice(1, 3), slice(-2, None), slice(None, None, 2), slice(None, None, -1), slice(3, 0, -2),
     slice(9, 20), slice(3, 1)],
)  # fmt: skip
def test_slices_are_those_of_a_list(embeddings, which):
    file, parts = embeddings
    assert same(file[which], parts[which])


def test_names_are_found_and_told_apart(embeddings):
    file, parts = embeddings
    assert np.array_equal(file["c"], parts[3]) and file.index("c") == 3
    assert "a" in file and "twice" in file and "d" not in file and 0 not in file
    with pytest.raises(KeyError, match="no sequence is called 'd'"):
        file["d"]
    with pytest.raises(KeyError, match="several sequences are called 'twice'"):
        file["twice"]
    assert file.get("d") is None and file.get("d", 7) == 7 and np.array_equal(file.get("b"), parts[1])


def test_it_is_iterated_like_its_items_and_backwards(embeddings):
    file, parts = embeddings
    for pairs in (list(file), list(file.items()), list(reversed(file))[::-1]):
        assert [name for name, _ in pairs] == NAMES and same([part for _, part in pairs], parts)
    assert file.keys() == NAMES and same(list(file.values()), parts)
    assert len(file) == 5
