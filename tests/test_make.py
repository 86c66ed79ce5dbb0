"""No value of a variable runs in make's shell or in make, and each program gets it as it was given.

make runs for real, in a folder whose name is a payload, too; `.venv/bin/python` there only writes down how it was
called.
"""

import os
import re
import shutil
import subprocess

import pytest
from asv.commands import make_argparser

from benchmarks.measure.fidelity_report import arguments
from tests.made_up import ROOT

RUN = "touch owned"

PAYLOADS = [
    f"x; {RUN}",
    f"x & {RUN}",
    f"x && {RUN}",
    f"x || {RUN}",
    f"x | {RUN}",
    f"x\n{RUN}",
    f"x\n\t{RUN}\n",
    f"x\r\n{RUN}",
    f"y`{RUN}`",
    f"$({RUN})",
    f"$$({RUN})",
    f"${{x:-`{RUN}`}}",
    f"$(shell {RUN})",
    f"${{shell {RUN}}}",
    f"$(eval $(shell {RUN}))",
    f"$(info $(shell {RUN}))",
    f"$(if x,$(shell {RUN}))",
    f"$(value $(shell {RUN}))",
    f"'; {RUN}; '",
    f"'`{RUN}`'",
    f'"; {RUN}; "',
    f'"`{RUN}`"',
    f'" $({RUN}) "',
    f"\\\"; {RUN}; \\'",
    "x > owned",
    ">owned",
    "x 2>owned #",
    f"x) ; {RUN}; (:",
    f"x; }}; {RUN}; {{ :;",
    f"x # `{RUN}`",
    f"x \\\n; {RUN}",
    f"${{IFS}};{RUN.replace(' ', '${IFS}')}",
    f"main~1 `{RUN}` *",
    f"x$$(printf x;{RUN})",
    f"${{eval $(shell {RUN})}}",
    f"HEAD^{{`{RUN}`}}",
    "x |tee owned",
    f"x;{RUN};:%0a",
    f"x\v;{RUN}",
    "$(file >owned)",
    f"$(and x,$(shell {RUN}))",
    f"`{RUN}`..`{RUN}`",
    f"x\n+{RUN}\n-{RUN}",
]
"""Each makes the file `owned` where one way of writing a value into a recipe lets it run."""

HARMLESS = [
    *("two words", "*", "?", "~", "a,b)(", "%.o", "ü€", "x\\", "$", "$$", "$x"),
    *(f"$$$$({RUN})", f"\\`{RUN}\\`", f"\\$({RUN})"),
    *("-", "--", "-x", "--output=owned", "--help"),
    *("--upload-pack=touch owned", "-c core.pager=touch owned", "ext::sh -c touch% owned", "x\u2028y", "\x9b31m"),
]
"""What a careless Makefile changes on the way."""

NAIVE = """export X
run: $(foreach from,X value,as-$(from))
as-X:
	-@: $(X)
	-@: "$(X)"
	-@: '$(X)'
	-@{ : $(X)}
	-@(: $(X))
	-@false $(X)
as-value:
	-@: $(value X)
	-@: "$(value X)"
	-@: '$(value X)'
	-@eval : "$$X"
	-@eval : \\"$$X\\"
"""

PYTHON = """#!/bin/sh
call=$(mktemp -d "$CALLS/XXXXXX")
printf '%s\\0' "$@" > "$call/arguments"
env -0 > "$call/environment"
case "$2" in asv_plugin.machine) echo 'a machine';; esac
"""

MAKEFILE = (ROOT / "Makefile").read_text()
VARIABLES = re.findall(r"^export (\w+) \?=", MAKEFILE, re.MULTILINE)
OWN = re.findall(r"^override (\S+) :?=", MAKEFILE, re.MULTILINE)
TARGETS = re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE)
PROGRAMS = [name for name in TARGETS if name not in ("help", "lint", "clean")]
VALUES = [name for name in VARIABLES if name not in ("PYTHON", "TORCH")]
WAYS = ["command line", "environment"]


class Project:
    """A folder with the Makefile and an environment that is up to date, in which nothing is installed."""

    def __init__(self, folder):
        self.folder = folder / f"a `{RUN}` $({RUN}) $(shell {RUN})'; {RUN}; '\"; b"
        (self.folder / ".venv" / "bin").mkdir(parents=True)
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy(ROOT / name, self.folder)
        self.python = self.folder / ".venv" / "bin" / "python"
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)
        self.ready = self.folder / ".venv" / "ready"
        self.ready.write_text("torch==2.13.0\n")

    def make(self, *words, way="command line", **values):
        """Run make with variables; what it prints, and the calls of Python, sorted."""
        calls = self.folder.parent / "calls"
        shutil.rmtree(calls, ignore_errors=True)
        calls.mkdir()
        environment = {"PATH": os.environ["PATH"], "CALLS": str(calls), "LC_ALL": "C.UTF-8"}
        if way == "environment":
            environment |= values
        else:
            words = (*words, *(f"{name}={value}" for name, value in values.items()))
        self.done = subprocess.run(
            ["make", "--keep-going", *words], cwd=self.folder, env=environment, capture_output=True, text=True
        )
        files = sorted(calls.iterdir(), key=lambda call: (call / "arguments").stat().st_mtime_ns)
        self.environments = [(call / "environment").read_bytes().decode().split("\0") for call in files]
        return [(call / "arguments").read_bytes().decode().split("\0")[:-1] for call in files]

    @property
    def owned(self):
        """Whether anything ran."""
        return [path for path in (*self.folder.rglob("owned"), *self.folder.parent.glob("owned")) if path.exists()]


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def expected(value):
    """How each target's program must be called where all variables have a value."""
    words = [word for word in re.split(r"[ \t\n]", value) if word]
    named, only = [f"--machine={value}", f"--bench={value}"], [f"--only={word}" for word in words]
    asked = [f"--model={word}" for word in words] + [f"--precisions={word}" for word in words]
    asv, machine = ["-m", "asv"], ["-m", "asv_plugin.machine", f"--name={value}"]
    publish = [*asv, "publish"]
    return {
        "ab": [["-m", "asv_plugin.compare", f"--rounds={value}", f"--bench={value}", f"--factor={value}",
                "--strict", "--allow-changed", "--", value, value]],
        "bench": [["-m", "asv_plugin.preflight", f"--bench={value}"], machine,
                  [*asv, "run", "--machine=a machine", f"--bench={value}", "HEAD^!"], publish,
                  ["-m", "asv_plugin.answer", "--machine=a machine", "--commit=HEAD",
                   f"--bench={value}", "--all"]],
        "bench-gpu": [["-m", "asv_plugin.record", *named[::-1], *only, "--", *words]],
        "compare": [machine, [*asv, "compare", "--machine=a machine", "--", value, value]],
        "fidelity": [["-m", "benchmarks.measure.fidelity_report", f"--weights={value}", *asked, f"--fasta={value}",
                      "--strict", value]],
        "precision": [["-m", "asv_plugin.answer", *named, "--all", value]],
        "engine": [["-m", "benchmarks.peers.table"]],
        "readme": [["-m", "asv_plugin.figures"]],
        "picture": [publish, ["-m", "asv_plugin.answer.picture"]],
        "publish": [publish],
        "preview": [publish, [*asv, "preview"]],
    } | {name: [["-m", "pytest", "--numprocesses", "2", "--dist", "loadfile", *marked]] for name, marked in {
        "test": ["-m", "not exhaustive"], "test-fast": ["-m", "not slow and not exhaustive"], "test-all": [],
    }.items()}  # fmt: skip


def test_each_target_that_calls_a_program_is_tested():
    assert {*expected("x")} == {*PROGRAMS}


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_runs_where_a_makefile_is_careless(payload, tmp_path):
    (tmp_path / "Makefile").write_text(NAIVE)
    subprocess.run(["make", "--keep-going", f"X={payload}"], cwd=tmp_path, capture_output=True)
    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", [*PAYLOADS, *HARMLESS])
def test_programs_get_each_value_literally_and_nothing_of_it_runs(value, way, project):
    given = dict.fromkeys(VALUES, value) | {"PYTHON": ".venv/bin/python"}
    for target in ("ab", "bench", "bench-gpu", "compare", "fidelity", "precision"):
        called = project.make(target, way=way, **given)
        assert called == expected(value)[target], project.done.stderr
        assert all(f"{name}={value}" in each for each in project.environments for name in VALUES)
    assert not project.owned


@pytest.mark.parametrize("target", PROGRAMS)
def test_nothing_runs_in_a_target_whatever_all_variables_hold(target, project):
    value = f"`{RUN}`$(shell {RUN})$({RUN})'; {RUN}; '\"; {RUN}; \""
    for way in WAYS:
        called = project.make(target, way=way, **dict.fromkeys(VALUES, value), PYTHON=".venv/bin/python")
        assert called == expected(value)[target], project.done.stderr
    assert not project.owned


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", [*PAYLOADS, *HARMLESS])
def test_what_torch_and_python_name_is_one_argument_and_one_program(value, way, project):
    assert project.make("setup", way=way, TORCH=value, PYTHON=".venv/bin/python")[1:] == []
    assert "TORCH is PyTorch in some version" in project.done.stderr
    assert project.ready.read_text() == "torch==2.13.0\n"
    wanted = f"torch=={value}"
    called = project.make("setup", way=way, TORCH=wanted, PYTHON=".venv/bin/python")
    pip = [words for words in called if "install" in words]
    assert pip[0][-3:] == ["--", wanted, "setuptools>=77.0.3"]
    assert project.ready.read_bytes().decode() == f"{wanted}\n"
    project.ready.unlink()
    assert project.make("setup", "bench-gpu", way=way, PYTHON=value) == []
    assert project.done.returncode and not project.ready.exists()
    assert not project.owned


def test_a_path_of_python_may_have_any_characters(project):
    name = f"./py thon; {RUN} `{RUN}` $"
    shutil.copy(project.python, project.folder / name)
    called = project.make("bench-gpu", PYTHON=name)
    assert called == [["-m", "asv_plugin.record", "--bench=.", "--machine=", "--", "HEAD"]]
    assert ["-m", "venv", ".venv"] in project.make("setup", TORCH="torch", PYTHON=name)
    assert not project.owned


@pytest.mark.parametrize(
    "torch", ["./torch", "torch==./x", "torch @ file:x", "torch@git+file:x", "torchx", "-r torch"]
)
def test_only_versions_of_pytorch_are_installed(torch, project):
    project.make("setup", TORCH=torch, PYTHON=".venv/bin/python")
    assert "TORCH is PyTorch in some version" in project.done.stderr


@pytest.mark.parametrize("value", [f"{RUN};", f"$(shell {RUN})", f"`{RUN}`"])
def test_names_that_the_makefile_or_nobody_uses_run_nothing(value, project):
    assert {"PY", "ASV", "SHELL"} <= {*OWN}
    for name in [*OWN, "READY", "CURDIR", "TYPO", "PATH_", "x.y-z"]:
        assert project.make("precision", **{name: value}) == [
            ["-m", "asv_plugin.answer", "--machine=", "--bench=."]
        ], name
    assert not project.owned


def test_setup_runs_again_for_another_pytorch_and_a_newer_list_of_packages_only(project):
    assert project.make("setup") == []
    called = project.make("setup", TORCH="torch==2.10.0", PYTHON=".venv/bin/python")
    assert [words[1] for words in called if words[0] == "-m"] == ["venv", "pip", "pip"]
    assert project.make("setup", TORCH="torch==2.10.0") == []
    assert len(project.make("setup", PYTHON=".venv/bin/python")) == 4
    later = project.ready.stat().st_mtime + 10
    os.utime(project.folder / "pyproject.toml", (later, later))
    assert len(project.make("setup", PYTHON=".venv/bin/python")) == 4


def test_an_environment_that_is_a_link_is_another_checkouts_and_left_alone(project):
    (project.folder / ".venv").rename(project.folder.parent / "venv")
    (project.folder / ".venv").symlink_to(project.folder.parent / "venv")
    (project.folder / "pyproject.toml").unlink()
    assert [words[:2] for words in project.make("publish", TORCH="torch==2.10.0")] == [["-m", "asv"]]


def test_what_the_pages_write_is_given_as_words(project):
    def called(target, **values):
        (*_, last) = project.make(target, PYTHON=".venv/bin/python", **values)
        return last[2:]

    rest = ["--bench=.", "--machine="]
    assert called("bench-gpu", COMMITS="main~1 main") == [*rest, "--", "main~1", "main"]
    assert called("bench-gpu", ONLY="throughput precision") == [
        *rest, "--only=throughput", "--only=precision", "--", "HEAD"
    ]  # fmt: skip
    assert called("ab", STRICT="1") == ["--rounds=5", "--bench=.", "--strict", "--", "HEAD~1", "HEAD"]
    assert called("ab", ALLOW_CHANGED="1") == [
        "--rounds=5",
        "--bench=.",
        "--allow-changed",
        "--",
        "HEAD~1",
        "HEAD",
    ]
    assert called("precision", FORMAT="--markdown") == [*rest[::-1], "--markdown"]
    assert called("precision", BENCH="650M", ALL="1") == ["--machine=", "--bench=650M", "--all"]
    assert called("fidelity", PRECISIONS="bf16 int8") == [
        "--weights=pretrained", "--precisions=bf16", "--precisions=int8"
    ]  # fmt: skip


def test_programs_take_the_words_as_make_gives_them():
    chosen = arguments().parse_args(["--model=a", "--model=b", "--precisions=bf16", "--precisions=int8"])
    assert (chosen.model, chosen.precisions) == (["a", "b"], ["bf16", "int8"])
    compared = make_argparser()[0].parse_args(["compare", "--machine=a", "--", "--output=owned", "-x"])
    assert (compared.machine, compared.revision1, compared.revision2) == ("a", "--output=owned", "-x")
