"""The pages' figures are those of the committed records, and what they name exists; each check is seen to fail."""

import re

import pytest

from asv_plugin.figures.pages import outdated
from asv_plugin.figures.texts import figures
from tests import readme_commands
from tests.made_up import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = PAGES[0].read_text()
MOST_WORDS = 1_100


def test_all_figures_are_those_of_the_newest_records():
    stale = outdated(ROOT, figures(ROOT / "results"))
    assert {page.name: blocks for page, (_, blocks) in stale.items()} == {}, "run make readme"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_readers_type_and_open_exists(page):
    assert readme_commands.problems(page.read_text(), page.parent) == []


def test_the_readme_is_short():
    assert len(TEXT.split()) <= MOST_WORDS


def unnoticed(ends):
    """Of the places where a letter is put in, those after which nothing is wrong, by line."""
    return [
        TEXT.count("\n", 0, end) + 1 for end in ends if not readme_commands.problems(f"{TEXT[:end]}q{TEXT[end:]}")
    ]


@pytest.mark.parametrize(
    "named",
    [
        pytest.param(r"make [a-z-]+", id="targets"),
        pytest.param(r"(?<= )[A-Z]+(?==)", id="variables of make"),
        pytest.param(r"virnucpro [a-z]+", id="subcommands"),
        pytest.param(r"(?<![\w-])--[a-z][a-z-]+", id="options"),
        pytest.param(r"VIRNUCPRO_[A-Z_]+", id="environment variables"),
        pytest.param(r"esm2_\w+", id="models"),
    ],
)
def test_another_name_in_any_code_of_the_readme_is_noticed(named):
    code = [match.span() for match in re.finditer(r"^```.*?^```$|`[^`]+`", TEXT, re.MULTILINE | re.DOTALL)]
    found = [match for span in code for match in re.compile(named).finditer(TEXT, *span)]
    ends = [match.end() for match in found if "#" not in TEXT[: match.end()].splitlines()[-1]]  # in no comment
    assert ends
    assert unnoticed(ends) == []


def test_another_target_of_any_link_is_noticed():
    ends = [match.end() for match in re.finditer(r"\]\((?!https?:)[^)\s]+(?=\))", TEXT)]
    assert ends
    assert unnoticed(ends) == []


@pytest.mark.parametrize(
    "right, wrong, problem",
    [
        ("make bench", "make bensh", "make bensh does not work"),
        ("make compare BASE=main HEAD=b", "make compare OLD=main HEAD=b", "make compare does not use OLD"),
        ("make test  # all", "make test BENCH=fasta", "make test does not use BENCH"),
        ("make ab BENCH='Throughput.*8M'", "make ab BENCH='Throughput.*9M'", "no benchmark matches"),
        ("A=b virnucpro embed a.fa -o b.h5 --resume", "virnucpro embed a.fa -o b.h5 --continue", "--continue"),
        ("virnucpro embed a.fa -o b.h5", "virnucpro embed a.fa -o b.h5 --precision int3", "int3"),
        ("virnucpro embed a.fa -o b.h5", "virnucpro embed a.fa", "-o/--output"),
        ("virnucpro merge a.h5 b.h5", "virnucpro join a.h5 b.h5", "join"),
        ("git status && make lint", "gti status && make lint", "nothing checks the command gti"),
        ("git log | virnucpro verify a.h5 > b", "git log | virnucpro verify > b", "the following arguments"),
        (".venv/bin/python -m pytest tests/store", ".venv/bin/python -m pytest tests/stores", "no tests/stores"),
        (".venv/bin/python -m tests.engine", ".venv/bin/python -m tests.engines", "no module tests.engines"),
    ],
)
def test_a_command_that_does_not_exist_is_noticed(right, wrong, problem):
    assert readme_commands.problems(f"```\n{right}\n```\n") == []
    (found,) = readme_commands.problems(f"```\n{wrong}\n```\n")
    assert problem in found


@pytest.mark.parametrize(
    "right, wrong, problem",
    [
        ("`make preview`", "`make previews`", "make previews does not work"),
        ("`virnucpro embed`", "`virnucpro embedd`", "embedd"),
        ("`--resume`", "`--resumed`", "no command has an option --resumed"),
        ("`asv_plugin/rules.py`", "`asv_plugin/rule.py`", "no asv_plugin/rule.py"),
        ("`python -m asv_plugin.figures`", "`python -m asv_plugin.figure`", "no module asv_plugin.figure"),
        ("`hooks/compare.py`", "`hooks/compares.py`", "no hooks/compares.py"),
        ("`results/`", "`result/`", "no result/"),
        ("`.venv/bin`", "`.env/bin`", "no .env/bin"),
        ("[a page](docs/engine.md)", "[a page](docs/engines.md)", "no docs/engines.md"),
        ("[a\npart](docs/verdict.md#what-is-timed)", "[a\npart](docs/verdict.md#timed)", "no heading #timed"),
        ("# One, two\n[up](#one-two)", "# One\n[up](#one-two)", "no heading #one-two"),
        ("![a picture](docs/precision.png)", "![a picture](docs/precisions.png)", "no docs/precisions.png"),
        ("VIRNUCPRO_BENCH_FASTA", "VIRNUCPRO_BENCH_FAST", "no code reads VIRNUCPRO_BENCH_FAST"),
        ("esm2_t6_8M_UR50D", "esm2_t6_9M_UR50D", "no model esm2_t6_9M_UR50D"),
    ],
)
def test_a_place_that_does_not_exist_is_noticed(right, wrong, problem):
    assert readme_commands.problems(f"Some text, {right}.\n" if right[0] != "#" else f"{right}\n") == []
    (found,) = readme_commands.problems(f"Some text, {wrong}.\n" if wrong[0] != "#" else f"{wrong}\n")
    assert problem in found


PYTHON = """```python
import virnucpro
proteins = {"one": "MKT", "two": "MS"}
names, embeddings = virnucpro.embed(proteins, "esm2_t6_8M_UR50D", precision="auto")  # float32 [2, 320]
```
"""


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ("virnucpro.embed", "virnucpro.embedded", "there is no virnucpro.embedded"),
        ("precision=", "precison=", "precison"),
        ('"esm2_t6_8M_UR50D", ', '"esm2_t6_8M_UR50D", "auto", ', "too many positional arguments"),
        ("320", "640", "320"),
        ("[2", "[3", "'2'"),
        ("float32", "float16", "float32"),
        ("import", "imports", "does not parse"),
        ("import virnucpro", "import virnucpro\nfrom virnucpro.data.packing import unpack", "packing.unpack"),
    ],
)
def test_python_that_does_not_work_is_noticed(old, new, problem):
    assert readme_commands.problems(PYTHON) == []
    (found,) = readme_commands.problems(PYTHON.replace(old, new, 1))
    assert problem in found
