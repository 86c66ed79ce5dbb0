"""Files in results/ are anyone's: values of another type stop no command, and what is left out is named."""

import contextlib
import copy
import json
import math
import random
import re
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from asv import util
from asv.commands import compare, publish, show
from asv.commands.compare import Compare
from asv.commands.publish import Publish
from asv.config import Config
from asv.plugins.regressions import Regressions
from asv.results import Results

from asv_plugin import hooks
from asv_plugin.answer.page import PAGE
from asv_plugin.answer.records import machines, records
from asv_plugin.answer.summary import summarize
from asv_plugin.answer.terminal import render as as_text
from asv_plugin.figures import CannotWrite
from asv_plugin.figures.texts import figures
from asv_plugin.hooks.machine import measured_on, read_record
from asv_plugin.record import cells
from tests.conftest import EXHAUSTIVE
from tests.made_up import ROOT

COMMITS = {
    "AMD-EPYC-AVX-512-2-cores": ("86fd0cbd", "f30ab721"),
    "NVIDIA-H200": ("fed5aaf5",),
}
"""Of real results the machines and commits that are mutated."""

EVERY = {(machine, commit) for machine, commits in COMMITS.items() for commit in commits}

FILES = ("throughput", "precision")
OF_THE_NEWEST = (*FILES, "engine", "pipeline")
"""The benchmarks that are kept; `make readme` wants more of the newest GPU."""

MUTATIONS = 50
"""How many one test makes."""

ANOTHER = (
    *(None, True, False, 0, -1, 3, 10**400, -5.5, 1e308, 1e-320, math.nan, math.inf, -math.inf),
    *("", "text", "<img src=x>", "\x1b[31m", "\ud800", "../..", "9" * 400, "²", "1e5"),
    *([], [None], [[]], [1, 2], ["a"], {}, {"a": 1}, {"a": {"b": []}}, [[[[[[[["deep"]]]]]]]]),
)
BROKEN = (
    b"",
    b"{",
    b"\xff\xfe{}",
    b"null",
    b"[]",
    b"7",
    b'"text"',
    b"[" * 100_000,
    b"9" * 5_000,
    b'{"version": 2}',
)


def descend(content: Any, chance: random.Random) -> tuple[Any, Any]:
    """A random place in JSON: its container and the key there."""
    place = (None, None)
    while isinstance(content, (dict, list)) and content:
        key = chance.choice(list(content) if isinstance(content, dict) else range(len(content)))
        place, content = (content, key), content[key]
        if chance.random() < 0.3:
            break
    return place


def mutate(content: Any, chance: random.Random) -> None:
    """Replace a value by one of another type, remove it, or have it twice."""
    container, key = descend(content, chance)
    kind = chance.choice(("replace", "replace", "replace", "delete", "duplicate"))
    if kind == "delete":
        del container[key]
    elif kind == "duplicate" and isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))
    elif kind == "duplicate":
        container[f"{key}{chance.choice(('', '2', '<b>'))}x"] = copy.deepcopy(container[key])
    else:
        others = [each for each in ANOTHER if type(each) is not type(container[key]) or each != each or each == ""]
        container[key] = copy.deepcopy(chance.choice([*others, *ANOTHER]))


class EveryCommit:
    """A branch that has each commit."""

    def __contains__(self, commit: str) -> bool:
        return True


REPOSITORY = SimpleNamespace(
    get_tags=dict,
    get_revisions=lambda commits: {commit: at for at, commit in enumerate(sorted(commits))},
    get_branch_commits=lambda branch: EveryCommit(),
    get_branch_name=lambda branch: "main",
    get_range_spec="{}..{}".format,
    get_hashes_from_range=lambda spec: [spec],
)
"""What publish asks of a repository, without git."""


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Real results, of few benchmarks and one workload."""
    results = tmp_path_factory.mktemp("original") / "results"
    for machine, commits in COMMITS.items():
        files = OF_THE_NEWEST if machine == "NVIDIA-H200" else FILES
        (results / machine).mkdir(parents=True)
        shutil.copy(ROOT / "results" / machine / "machine.json", results / machine)
        for path in (path for commit in commits for path in (ROOT / "results" / machine).glob(f"{commit}-*.*")):
            if path.suffix == ".json":
                content = json.loads(path.read_text())
                kept = {name: of_mixed(row) for name, row in content["results"].items() if is_of(name, files)}
                (results / machine / path.name).write_text(json.dumps(content | {"results": kept}))
            elif path.suffix == ".notes":
                found = json.loads(path.read_text()).items()
                kept = {name: note for name, note in found if is_of(name, files) and "mixed" in name}
                (results / machine / path.name).write_text(json.dumps(kept))
    suite = json.loads((ROOT / "results/benchmarks.json").read_text())
    suite = {name: entry for name, entry in suite.items() if name == "version" or is_of(name, OF_THE_NEWEST)}
    for entry in suite.values():
        if isinstance(entry, dict):
            entry["params"][-1] = ["'mixed'"]
    (results / "benchmarks.json").write_text(json.dumps(suite))
    return results


def is_of(benchmark: str, files: tuple[str, ...]) -> bool:
    return benchmark.partition(".")[0] in files


def of_mixed(row: list) -> list:
    """asv's columns of a benchmark, of which the last parameter is the workload, with those of one only."""
    workloads = row[1][-1]
    at, step = workloads.index("'mixed'"), len(workloads)
    columns = [column[at::step] if isinstance(column, list) else column for column in row]
    return [columns[0], [*row[1][:-1], ["'mixed'"]], *columns[2:]]


@pytest.fixture(scope="module")
def hooked():
    """asv with what this plugin changes of its reading and publishing, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (util, "load_json"),
            (util, "get_multiprocessing_pool"),
            (Results, "load"),
            (Results, "load_data"),
            *((command, "iter_machine_files") for command in (compare, publish, show)),
            (Compare, "print_table"),
            (Publish, "run"),
            (Regressions, "publish"),
        ):
            patch.setattr(owner, name, getattr(owner, name))
        hooks.broken_files.install()
        hooks.compare.install()
        hooks.regressions.install()
        hooks.escaping.install()
        hooks.publish.install()
        patch.setattr(hooks.site, "use_local_libraries", lambda index: None)
        patch.setattr(publish, "get_repo", lambda conf: REPOSITORY)
        patch.setattr(cells, "pytorch", lambda: "2.13.0")
        pool = SimpleNamespace(
            apply_async=lambda call, arguments: SimpleNamespace(get=lambda: call(*arguments)),
            **dict.fromkeys(("close", "join", "terminate"), lambda: None),
        )
        patch.setattr(util, "get_multiprocessing_pool", lambda parallel=None: pool)
        yield patch


CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
TAG = re.compile("<[a-z]")


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def answer(results: Path) -> set[tuple[str, str]]:
    """What `make precision` prints; the machines and commits that it can."""
    shown = set()
    for machine in machines(results):
        for record in records(results, machine):
            shown.add((machine, record.commit[:8]))
            summary = summarize(record)
            for markdown in (False, True):
                text = as_text(summary, markdown, all_tables=True)
                assert not CONTROL.search(text) and not (markdown and TAG.search(text))
    return shown


def publish_and_compare(results: Path) -> None:
    conf = Config()
    conf.project, conf.branches, conf.results_dir = "VirNucPro", ["main"], str(results)
    conf.html_dir, conf.show_commit_url = str(results.parent / "html"), "https://example.invalid/"
    Publish.run(conf, pull=False)
    for path in Path(conf.html_dir).rglob("*.json"):
        json.loads(path.read_text(), parse_constant=refuse)
    page = Path(conf.html_dir, PAGE).read_text(encoding="utf-8")
    data = re.search(r'id="data">(.*?)</script>', page)
    assert data and json.loads(data[1], parse_constant=refuse) is not None
    machine, (first, last) = next(iter(COMMITS.items()))
    try:
        Compare.print_table(conf, first, last, 1.1, False, machine=machine, commit_names={first: "a"})
    except util.UserError as error:  # where the commit's only file was skipped
        assert str(error) in [f"Did not find results for commit {commit}" for commit in (first, last)]


def read_before_recording(results: Path, patch: pytest.MonkeyPatch) -> None:
    """What `make bench-gpu`, `asv run` and `make readme` read."""
    suite = util.load_json(str(results / "benchmarks.json"))
    for machine, (commit, *_) in COMMITS.items():
        (path,) = (results / machine).glob(f"{commit}-*.notes")
        patch.setattr(cells, "environment", partial(str, path.stem.partition("-")[2]))
        cells.recorded(results, machine, {file: set() for file in FILES}, suite)
        with contextlib.suppress(SystemExit):  # of another PyTorch
            cells.require_the_same_pytorch(results, machine)
        read_record(results / machine / "machine.json")
        measured_on(results / machine)
    with contextlib.suppress(CannotWrite):
        assert not any(CONTROL.search(text) or TAG.search(text) for text in figures(results).values())


def test_what_is_mutated_shows_everything_before(original, hooked, caplog):
    assert answer(original) == EVERY
    assert figures(original)
    publish_and_compare(original)
    read_before_recording(original, hooked)
    assert not caplog.records


ALL = [0, *(pytest.param(block, marks=[EXHAUSTIVE, pytest.mark.hours]) for block in range(1, 40))]


@pytest.mark.parametrize("block", ALL)
def test_mutations_stop_nothing_and_what_is_left_out_is_named(original, hooked, tmp_path, caplog, block):
    files = sorted(path.relative_to(original) for path in original.rglob("*") if path.is_file())
    failed = []
    for number in range(MUTATIONS * block, MUTATIONS * (block + 1)):
        chance = random.Random(number)
        results = tmp_path / str(number) / "results"
        shutil.copytree(original, results)
        path = results / chance.choice(files)
        if chance.random() < 0.1:
            path.write_bytes(chance.choice(BROKEN))
        else:
            content = json.loads(path.read_text())
            mutate(content, chance)
            path.write_text(json.dumps(content))
        caplog.clear()
        try:
            shown = answer(results)
            publish_and_compare(results)
            read_before_recording(results, hooked)
            # Itself, or, where a machine.json has another name, the results of which it is not the machine
            left_out = {path.name, *(commit for _, commit in EVERY - shown)}
            assert shown >= EVERY or any(name in line for name in left_out for line in caplog.messages), (
                "not named"
            )
        except Exception as error:
            # Without any suite asv says in one line that it needs one
            if not (
                isinstance(error, util.UserError) and path.name == "benchmarks.json" and path.name in str(error)
            ):
                failed.append(f"{number}: {path.relative_to(results)}: {type(error).__name__}: {error}")
        shutil.rmtree(results.parent)
    assert failed == []
