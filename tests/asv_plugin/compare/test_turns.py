"""Two processes that measure block by block in turn."""

import itertools
import json
import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asv_plugin.compare import turns
from asv_plugin.compare.turns import Turns
from benchmarks.measure import timing
from benchmarks.measure.timing import Protocol, alternate, cpu_timer, measure

QUICK = Protocol(window=2, warm_up_seconds=0.0, blocks=8, block_seconds=0.003)


def side(folder, how: str) -> None:
    """A process of the pair: leaves when each of its blocks began and ended."""
    os.chdir(folder)
    os.environ[timing.TURNS] = turns.SOCKET
    timing.referee.cache_clear()  # forked from a process that may have measured alone
    blocks = []

    def run(passes: int) -> None:
        if how == "dies" and len(blocks) == 5:
            os._exit(9)
        start = time.monotonic()
        time.sleep(0.003)
        blocks.append((start, time.monotonic()))

    if how == "slow to load":
        time.sleep(0.2)
    if how == "asks for none":
        time.sleep(0.1)
    elif how == "alternates":
        alternate(run, run, cpu_timer, QUICK)
    else:
        measure(run, cpu_timer, QUICK)
    Path("blocks.json").write_text(json.dumps(blocks))


@pytest.fixture
def play(tmp_path):
    """Run a pair; returns both sides' blocks, None for one that died."""

    def run(*how: str, first: int = 0):
        folders = []
        for number in (0, 1):
            folders.append(tmp_path / str(number))
            folders[-1].mkdir()
        context = multiprocessing.get_context("fork")
        with Turns((folders[0], folders[1])) as pair:
            processes = [context.Process(target=side, args=each) for each in zip(folders, how, strict=True)]
            for process in processes:
                process.start()
            pair.grant(first, lambda number: processes[number].is_alive())
        return [
            json.loads((folder / "blocks.json").read_text()) if (folder / "blocks.json").exists() else None
            for folder in folders
        ]

    return run


def order(base, head) -> str:
    """Who ran when, and that only one did."""
    blocks = sorted([(*block, "B") for block in base] + [(*block, "H") for block in head])
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(blocks))
    return "".join(block[2] for block in blocks)


@pytest.mark.parametrize("first, expected", [(0, "BHHBBHHBBHHBBHHB"), (1, "HBBHHBBHHBBHHBBH")])
def test_blocks_that_count_run_one_at_a_time_in_balanced_order(play, first, expected):
    assert order(*play("measures", "slow to load", first=first))[-16:] == expected


def test_comparisons_inside_a_process_take_turns_by_pairs_of_blocks(play):
    counted = order(*play("alternates", "alternates"))[-32:]
    assert counted == "BBHHHHBBBBHHHHBB" * 2


@pytest.mark.parametrize("how", ["dies", "asks for none"])
def test_a_side_that_ends_early_is_not_waited_for(play, how):
    assert len(play("measures", how)[0]) >= QUICK.blocks


def test_a_process_whose_comparison_has_ended_says_so_and_does_not_hang(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(timing.TURNS, turns.SOCKET)
    other = tmp_path / "other"
    other.mkdir()
    timing.referee.cache_clear()
    try:
        with ThreadPoolExecutor(1) as pool:
            with Turns((tmp_path, other)) as pair:
                waiting = pool.submit(timing.await_turn, timing.TIMED)
                asked = time.monotonic()
                pair.grant(0, lambda number: number == 1 and time.monotonic() < asked + 0.1)
            with pytest.raises(RuntimeError, match="has ended"):
                waiting.result(timeout=5)
    finally:
        timing.referee.cache_clear()


def test_without_a_comparison_nothing_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(timing.TURNS, turns.SOCKET)  # as where make ab measures one after the other
    timing.referee.cache_clear()
    timing.await_turn(timing.TIMED)
    assert timing.referee() is None


def test_both_ends_agree_on_their_names():
    assert (turns.VARIABLE, turns.TIMED) == (timing.TURNS, timing.TIMED)
