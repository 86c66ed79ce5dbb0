"""What GitHub runs is fixed by hashes and may do no more than it needs; .ci/oldest has the lower bounds."""

import re
import subprocess
import sys

import pytest

from tests.made_up import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def jobs(text):
    """The text of each job."""
    parts = re.split(r"^  ([\w-]+):\n", text.partition("\njobs:\n")[2], flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def permissions(job):
    """What a job's token may do."""
    block = re.search(r"^    permissions:\n((?:      .*\n)+)", job, re.MULTILINE)
    return set(re.findall(r"^ +([\w-]+: \w+)", block[1], re.MULTILINE)) if block else None


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_each_action_is_named_by_a_hash_and_its_version(path):
    used = re.findall(r"uses: (.*)", path.read_text())
    assert used
    assert [each for each in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each)] == []
    assert len({each.partition("@")[0] for each in used}) == len(set(used)), "one action in two versions"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_only_the_job_that_deploys_may_write_and_it_runs_nothing_else(path):
    text = path.read_text()
    assert "\npermissions: {}\n" in text
    writing = {name for name, job in jobs(text).items() if permissions(job) != {"contents: read"}}
    assert writing <= {"deploy-dashboard"}
    for name in writing:
        job = jobs(text)[name]
        assert permissions(job) == {"pages: write", "id-token: write"}
        assert "run: " not in job
        assert re.findall(r"uses: (.*)@", job) == ["actions/deploy-pages"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_expression_is_written_into_a_shell_and_no_credential_is_left_on_disk(path):
    text = path.read_text()
    assert not re.search(r"run: .*\$\{\{", text)
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")


def oldest(*arguments):
    command = [sys.executable, ROOT / ".ci" / "oldest.py", "requirements", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]


def test_the_oldest_versions_are_the_lower_bounds_of_all_dependencies():
    found = oldest()
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", each) for each in found)
    text = (ROOT / "pyproject.toml").read_text().partition("\nlint = ")[0]
    bounds = {f"{name}=={version}" for name, version in re.findall(r'"([\w-]+)[>=]=([\d.]+)', text)}
    assert {*found} == bounds
    assert len(found) > 15


def test_another_pytorch_can_be_asked_for():
    assert [each for each in oldest("torch==2.13.0") if each.startswith("torch")] == ["torch==2.13.0"]
