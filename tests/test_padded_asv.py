"""The suite dropped into a repository of VirNucPro's form, in the real asv: two commits, the second one slower."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from asv_plugin import notes
from asv_plugin.answer import records
from tests import padded_program
from tests.asv_project import drop_in
from tests.conftest import MODEL
from tests.limits import PATIENCE

SPEED = records.THROUGHPUT["tokens/s"]

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """The repository, after `asv run` over both commits."""
    folder = tmp_path_factory.mktemp("padded")
    project = folder / "project"
    project.mkdir()

    def run(*command: str, code: int = 0) -> str:
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def commit(variant: str) -> str:
        padded_program.write(project, variant)
        run("git", "add", "virnucpro")
        run("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", variant)
        return run("git", "rev-parse", "HEAD").strip()

    run("git", "init", "-qb", "main")
    commits = {variant: commit(variant) for variant in ("good", "slower")}
    drop_in(project)
    run(sys.executable, "-m", "asv_plugin.machine", "--name", "here")
    cells = r"tokens_per_second.*8M.*(fp32|bf16).*fragments"
    said = run(sys.executable, "-m", "asv", "run", "--machine", "here", "--bench", cells, "ALL")
    return SimpleNamespace(run=run, project=project, commits=commits, said=said)


def test_both_commits_have_values_and_the_slower_ones_is_less(theirs):
    found = {record.commit: record for record in records.records(theirs.project / "results", "here")}
    cell = (MODEL, "fp32", "fragments")
    good, slower = (found[commit].value("tokens/s", *cell).median for commit in theirs.commits.values())
    assert slower < 0.75 * good
    assert [record.changed for record in found.values()] == [[], []]


def test_a_precision_that_it_does_not_offer_is_not_available_for_that_reason(theirs):
    for path in (theirs.project / "results/here").glob("*.notes"):
        noted = notes.read(path)[notes.key(SPEED, (MODEL, "bf16", "fragments"))]
        assert noted == {"skipped": "this commit has no BF16; it has FP32, FP16"}


def test_compare_shows_how_much_slower_the_second_commit_is(theirs):
    said = theirs.run(sys.executable, "-m", "asv", "compare", *theirs.commits.values())
    (row,) = (line for line in said.splitlines() if f"{SPEED}('{MODEL}', 'fp32', 'fragments')" in line)
    assert float(row.split("|")[4]) < 0.75


def test_publish_writes_the_dashboard_with_both_commits(theirs):
    theirs.run(sys.executable, "-m", "asv", "publish")
    index = json.loads((theirs.project / "html/index.json").read_text())
    assert set(theirs.commits.values()) <= set(index["revision_to_hash"].values())
    assert "fragments" in (theirs.project / "html/precision.html").read_text()
