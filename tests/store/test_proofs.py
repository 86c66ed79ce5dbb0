"""Nothing damaged is believed: `merge`, ``--resume`` and `verify` end with the undamaged rows, or an error."""

import contextlib
import faulthandler
import itertools
import os
import random
import shutil
import signal
import traceback
from collections import Counter

import h5py
import numpy as np
import pytest
import torch

from tests.conftest import EXHAUSTIVE, MODEL, StopAfter
from tests.store.damages import Impossible, of_bytes, of_hdf5, of_place
from virnucpro.cli import main
from virnucpro.data.fasta import Fasta
from virnucpro.errors import UserError
from virnucpro.models.esm2_flash import load_esm2_model
from virnucpro.pipeline import embed as embed_module
from virnucpro.pipeline import provenance
from virnucpro.pipeline.async_inference import InferenceResult
from virnucpro.pipeline.embed import Stopped, embed_file
from virnucpro.pipeline.options import Options
from virnucpro.pipeline.shards import Shard
from virnucpro.store.embeddings import Embeddings
from virnucpro.store.formats import PER_PROTEIN, TABLE
from virnucpro.store.merge import merge
from virnucpro.store.place import folder_of

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
PROTEINS = [(f"p{number}", LETTERS[: 2 + 5 * number % 17]) for number in range(70)]
LESS = 50  # sequences before the input grew
POOLS = ("mean", "residue")
SAMPLE = 30  # damages of each kind in the fast run
CRASHED = "HDF5 crashed"  # which it can on arbitrary bytes, and no rows come of that


class MadeUp:
    """Embeds without a model: a row tells the sequence and the residue. Every 7th sequence has none."""

    device = torch.device("cpu")

    def __init__(self, pool):
        self._pool = pool

    def run(self, packs):
        for pack in packs:
            kept, rows, residues, skipped = [], [], [], {}
            for at, (name, (begin, end)) in enumerate(
                zip(pack.sequence_ids, itertools.pairwise(pack.cu_seqlens.tolist()), strict=True)
            ):
                if int(name[1:]) % 7 == 3:
                    skipped[at] = name
                    continue
                count = end - begin - 2
                tokens = pack.input_ids[begin + 1 : end - 1].float()
                tokens = tokens if self._pool == "residue" else (tokens * torch.arange(count)).sum(0, keepdim=True)
                kept.append(name)
                residues.append(count)
                rows.append((tokens[:, None] + torch.arange(320)) * float(name[1:] + "1"))
            embeddings = torch.cat([torch.empty(0, 320), *rows])
            yield InferenceResult(kept, embeddings, residues, skipped)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """No model is run, and nothing waits for the disk."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embed_module, "runner_for", lambda model, options: MadeUp(options.pool))
        patch.setattr(provenance, "checksum", lambda *_: "of no model")
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    return load_esm2_model(MODEL, "cpu", precision="fp32", weights="random")[0]


def written(path, proteins=PROTEINS):
    path.write_text("".join(f">{name}\n{protein}\n" for name, protein in proteins))
    return path


def run(path, output, model, pool, **keywords):
    with Fasta(path) as fasta:
        return embed_file(fasta, output, model, Options(pool, token_budget=40, on_nan="skip"), **keywords)


class Made:
    """What undamaged runs made of one pooling: outputs of each kind, parts and an unfinished run."""

    def __init__(self, folder, model, pool):
        self.folder, self.model, self.pool = folder, model, pool
        folder.mkdir()
        self.fasta, self.less = written(folder / "in.fasta"), written(folder / "less.fasta", PROTEINS[:LESS])
        self.whole, self.shorter = folder / "whole.h5", folder / "shorter.h5"
        run(self.fasta, self.whole, model, pool)
        run(self.less, self.shorter, model, pool)
        self.per_protein = folder / "per_protein.h5"
        run(self.fasta, self.per_protein, model, pool, format=PER_PROTEIN)
        self.parts = [folder / f"part{number}.h5" for number in (1, 2)]
        for number, part in enumerate(self.parts, 1):
            run(self.fasta, part, model, pool, shard=Shard(number, 2))
        with pytest.raises(Stopped):
            run(self.fasta, folder / "out.h5", model, pool, stop=StopAfter(9))
        self.partial = folder_of(folder / "out.h5")
        self.rows = rows_of(self.whole)
        assert len(self.rows) == 60

    def copy(self, name, path):
        """A fresh copy of something at a new place."""
        (shutil.copytree if path.is_dir() else shutil.copy)(path, self.folder / "work" / name)
        return self.folder / "work" / name

    @contextlib.contextmanager
    def work(self):
        (self.folder / "work").mkdir()
        try:
            yield self.folder / "work"
        finally:
            shutil.rmtree(self.folder / "work")


@pytest.fixture(scope="module", params=["mean", pytest.param("residue", marks=[EXHAUSTIVE, pytest.mark.hours])])
def made(request, model, tmp_path_factory):
    return Made(tmp_path_factory.mktemp("proofs") / request.param, model, request.param)


def rows_of(path):
    """Names, lengths and embeddings."""
    with Embeddings(path) as file:
        return [
            (name, int(length), value.tolist()) for (name, value), length in zip(file, file.lengths, strict=True)
        ]


def merged(made, work, damaged):
    """Merge a damaged part with one that is not."""
    merge(work / "merged.h5", [damaged, made.parts[1]], TABLE)
    return rows_of(work / "merged.h5")


def verified(made, work, damaged):
    """What a reader gets of a file that `verify` finds no fault with."""
    code = main(["verify", str(damaged)])
    if code:
        raise UserError("verify said no")
    return rows_of(damaged)


def grown(made, work, damaged):
    """Continue a damaged complete output with an input that grew."""
    run(made.fasta, damaged, made.model, made.pool, resume=True)
    return rows_of(damaged)


def same_input(made, work, damaged):
    """Ask to continue a damaged complete output, whose input is the same: nothing may be written, or raised."""
    before = damaged.read_bytes()
    run(made.fasta, damaged, made.model, made.pool, resume=True)
    assert damaged.read_bytes() == before
    return made.rows


def tried(made, path, how, use, expected, in_process=True):
    """What becomes of one damage: ``the same rows``, ``an error``, or what went wrong."""
    with made.work() as work:
        damaged = made.copy("damaged.h5", path)
        try:
            how(damaged)
        except Impossible:
            return "cannot be done"
        return outcome(lambda: use(made, work, damaged), expected, in_process)


def outcome(use, expected, in_process):
    def answer():
        try:
            found = use()
        except UserError:
            return "an error"
        except BaseException:
            return f"a traceback: {traceback.format_exc()}"
        return "the same rows" if found == expected else "other rows"

    return answer() if in_process else in_a_fork(answer)


def in_a_fork(answer):
    """The answer of a process of its own, which HDF5 may crash."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(20)
        faulthandler.disable()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        os.write(writing, answer()[:60_000].encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read()
    return CRASHED if os.waitpid(child, 0)[1] else said


def check(made, cases, allowed=("the same rows", "an error", "cannot be done")):
    """All cases: what was damaged, how, who uses it, and the rows that may come of it; returns the counts."""
    counts, wrong = Counter(), []
    for path, (what, how), use, expected, in_process in cases:
        found = tried(made, path, how, use, expected, in_process)
        counts[f"{use.__name__}: {found if found in (*allowed, CRASHED) else 'WRONG'}"] += 1
        if found not in allowed and not (found == CRASHED and not in_process):
            wrong.append(f"{path.name}: {what}: {use.__name__}: {found}")
    print(made.pool, sum(counts.values()), dict(counts))
    assert not wrong, f"{len(wrong)} of {counts.total()}:\n" + "\n".join(wrong[:40])
    assert any("an error" in each for each in counts)
    return counts


def hdf5_cases(made):
    """Each dataset and attribute of a part and of complete outputs."""
    for path, uses in (
        (made.parts[0], [merged, verified]),
        (made.whole, [verified, same_input]),
        (made.shorter, [grown]),
        (made.per_protein, [verified]),
    ):
        expected = rows_of(path)
        for use in uses:
            rows = expected if use is verified else made.rows
            for damage in of_hdf5(path):
                yield path, damage, use, rows, True


def byte_cases(made, count):
    """Arbitrary bytes of the same files."""
    rng = np.random.default_rng(28)
    for path, use in ((made.parts[0], merged), (made.whole, verified), (made.per_protein, verified)):
        expected = made.rows if use is merged else rows_of(path)
        for damage in of_bytes(path, count, rng):
            yield path, damage, use, expected, False


def sample(cases):
    cases = list(cases)
    return random.Random("proofs").sample(cases, min(SAMPLE, len(cases)))


def test_no_damaged_dataset_or_attribute_is_believed(made):
    check(made, sample(hdf5_cases(made)))


@pytest.mark.exhaustive
def test_none_of_all_damaged_datasets_and_attributes_is_believed(made):
    assert check(made, hdf5_cases(made)).total() > 1_000


def test_no_file_with_other_bytes_is_believed(made):
    check(made, sample(byte_cases(made, 10)))


@pytest.mark.exhaustive
@pytest.mark.hours
def test_none_of_many_files_with_other_bytes_is_believed(made):
    check(made, byte_cases(made, 100))


def partial_cases(made, count):
    """Each file and folder of an unfinished run."""
    rng = np.random.default_rng(29)
    for path in sorted(made.partial.rglob("*")):
        damages = itertools.chain(of_place(path), () if path.is_dir() else of_bytes(path, count, rng))
        for what, how in damages:
            yield path.relative_to(made.partial), what, how


def check_partial(made, cases):
    """Continue a damaged unfinished run; where rows were lost, once more."""
    counts, wrong = Counter(), []
    expected = content(made.whole)
    for path, what, how in cases:
        with made.work() as work:
            how(made.copy("out.h5.partial", made.partial) / path)
            found = continued(made, work / "out.h5", expected)
        counts[found.partition(":")[0]] += 1
        if not found.startswith(("the same bytes", "an error")):
            wrong.append(f"{path}: {what}: {found}")
    print(made.pool, counts.total(), dict(counts))
    assert not wrong, f"{len(wrong)} of {counts.total()}:\n" + "\n".join(wrong[:40])
    return counts


def continued(made, output, expected):
    for attempt in ("", " after an error", " after two errors"):
        try:
            run(made.fasta, output, made.model, made.pool, resume=True)
        except UserError as error:
            if not getattr(error, "resume_helps", False):
                return "an error"
            told = str(error)
        except BaseException:
            return f"a traceback{attempt}: {traceback.format_exc()}"
        else:
            return f"the same bytes{attempt}" if content(output) == expected else "other rows"
    return f"no end: {told}"


def content(path):
    """All datasets' bytes, and the attributes but the command."""
    with h5py.File(path) as file:
        attributes = {name: value for name, value in file.attrs.items() if name not in ("command", "checksums")}
        return {name: (file[name].dtype, file[name][()].tolist()) for name in file}, attributes


def test_no_damaged_file_of_an_unfinished_run_is_believed(made):
    check_partial(made, sample(partial_cases(made, 10)))


@pytest.mark.exhaustive
def test_none_of_all_damaged_files_of_an_unfinished_run_is_believed(made):
    assert check_partial(made, partial_cases(made, 60)).total() > 500
