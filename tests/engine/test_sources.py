"""The table of what computes rows: it is that of this tree, and no change passes without a line."""

import subprocess
import sys

import pytest

from tests.engine import sources
from tests.engine.sources import BESIDE, FOLDERS, NOT_IN_ROWS, PROVENANCE, ROOT, TABLE, Line, TableError
from virnucpro.pipeline import provenance

KERNEL = FOLDERS[1] / "gemm.py"
COMPARED = "results unchanged: FP32 8M, bytes equal, CPU"


def test_each_change_of_what_computes_rows_has_its_line():
    sources.check()


def test_the_version_is_the_one_that_runs_record():
    assert str(sources.engine_of()) == provenance.ENGINE


def test_files_that_are_named_exist():
    assert [path for path in BESIDE if not (ROOT / path).is_file()] == []
    assert [name for name in NOT_IN_ROWS if not (ROOT / FOLDERS[0] / name).is_file()] == []


@pytest.fixture
def tree(tmp_path):
    """A project whose table is that of its sources."""
    for path in (*BESIDE, PROVENANCE, TABLE, KERNEL, FOLDERS[0] / "esm2.py", FOLDERS[0] / NOT_IN_ROWS[0]):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x = 1\n")
    (tmp_path / PROVENANCE).write_text('ENGINE = "1"\n')
    (tmp_path / TABLE).write_text("# What computes rows.\n\n[files]\n\n[log]\n")
    sources.add("the first", new_version=True, root=tmp_path)
    sources.check(tmp_path)
    return tmp_path


def refused(tree, match):
    with pytest.raises(TableError, match=match):
        sources.check(tree)


@pytest.mark.parametrize("path", [KERNEL, *BESIDE], ids=str)
def test_a_changed_file_fails_by_name_until_a_line_says_that_results_are_the_same(tree, path):
    (tree / path).write_text("x = 2\n")
    refused(tree, rf"{path} has changed\n(.*\n)+.*tests\.engine .results unchanged")
    sources.add(COMPARED, new_version=False, root=tree)
    sources.check(tree)
    assert [str(line.version) + line.reason for line in sources.Table.read(tree).log] == [
        "1new version: the first",
        f"1{COMPARED}",
    ]


def test_new_and_removed_files_fail(tree):
    (tree / KERNEL).rename(tree / KERNEL.with_name("moved.py"))
    refused(tree, r"gemm\.py is gone\n.*moved\.py is new")


def test_what_is_recorded_of_a_run_may_change(tree):
    (tree / FOLDERS[0] / NOT_IN_ROWS[0]).write_text("x = 2\n")
    sources.check(tree)


def test_a_new_version_needs_a_raised_engine(tree):
    (tree / KERNEL).write_text("x = 2\n")
    with pytest.raises(TableError, match="raise ENGINE"):
        sources.add("other sums", new_version=True, root=tree)
    refused(tree, "has changed")
    (tree / PROVENANCE).write_text('ENGINE = "2"\n')
    sources.add("other sums", new_version=True, root=tree)
    sources.check(tree)


def test_a_raised_engine_needs_a_line(tree):
    (tree / PROVENANCE).write_text('ENGINE = "2"\n')
    refused(tree, "is 2, and the table's version 1")
    with pytest.raises(TableError, match="is 2, and was 1: use --new-version"):
        sources.add(COMPARED, new_version=False, root=tree)


def test_hashes_changed_by_hand_need_a_line(tree):
    (tree / KERNEL).write_text("x = 2\n")
    table = sources.Table.read(tree)
    sources.Table(table.header, sources.computing(tree), table.log).write(tree)
    refused(tree, "the last line of .* is not of these files")


@pytest.mark.parametrize(
    ("version", "reason", "match"),
    [
        (1, "results unchanged: FP32 8M, bytes equal", "on which device"),
        (1, "faster", "does not begin with 'results unchanged: '"),
        (1, "new version: faster", "does not begin with 'results unchanged: '"),
        (2, COMPARED, "does not begin with 'new version: '"),
        (0, COMPARED, "the version falls from 1"),
    ],
)
def test_a_line_that_does_not_say_enough_fails(tree, version, reason, match):
    table = sources.Table.read(tree)
    line = Line(version, table.log[0].hash, reason)
    sources.Table(table.header, table.files, [*table.log, line]).write(tree)
    refused(tree, match)


def test_a_reason_without_a_device_is_refused_unless_only_comments_changed(tree):
    (tree / KERNEL).write_text("x = 1  # one\n")
    with pytest.raises(TableError, match="on which device"):
        sources.add("results unchanged: bytes equal", new_version=False, root=tree)
    sources.add("results unchanged: comments only", new_version=False, root=tree)
    sources.check(tree)


def test_no_line_is_added_where_nothing_changed(tree):
    with pytest.raises(TableError, match="no line is needed"):
        sources.add(COMPARED, new_version=False, root=tree)


def test_after_a_merge_conflict_it_says_what_to_do(tree):
    with (tree / TABLE).open("a") as file:
        file.write("<<<<<<< HEAD\n")
    refused(tree, "keep the lines of both sides")


def test_the_command_checks_without_pytorch():
    without = "import sys, runpy; sys.modules['torch'] = None; runpy.run_module('tests.engine', None, '__main__')"
    done = subprocess.run([sys.executable, "-c", without], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
