"""The README's figures are those of the committed files, and what it names exists; each check is seen to fail."""

import itertools
import json
import os
import re
import shutil
import subprocess

import pytest

from asv_plugin import notes
from asv_plugin.answer.records import MASSIVE, MASSIVE_NOTE, THROUGHPUT, Record
from tests import readme_commands, readme_figures
from tests.made_up import ROOT
from tests.readme_figures import NUMBERS, RESULTS, Readme, expected_text, newest, suite

TEXT = (ROOT / "README.md").read_text()
README = Readme(TEXT)
MOST_WORDS = 1_100

CELLS = [
    figure for group in README.groups for figure in group.figures[1:] if figure.said not in readme_figures.ROWS
]
"""The cells of the table that hold values, or none."""


def replaced(start, end, new):
    return TEXT[:start] + new + TEXT[end:]


def unnoticed(edits):
    """Of edits ``(start, end, new text)`` those after which nothing is wrong: line, old and new text."""
    return [
        (README.line(start), TEXT[start:end], new)
        for start, end, new in edits
        if not readme_figures.problems(replaced(start, end, new))
    ]


def test_every_figure_is_what_the_committed_files_give():
    assert readme_figures.problems(TEXT) == []


def test_what_readers_type_and_open_exists():
    assert readme_commands.problems(TEXT) == []


def test_the_readme_is_short():
    assert len(TEXT.split()) <= MOST_WORDS


def test_the_table_has_values_of_a_gpu_and_of_a_cpu():
    has_gpu = {"gpu" in group.file.machine for group in README.groups if group.file}
    assert has_gpu == {True, False}
    assert sum(bool(figure.said) for figure in CELLS) > len(CELLS) / 2


def test_a_change_of_any_digit_is_noticed():
    digits = [match.start() for match in re.finditer(r"\d", README.prose)]
    assert digits
    assert not unnoticed((place, place + 1, str((int(TEXT[place]) + 1) % 10)) for place in digits)


def test_a_change_of_any_number_in_words_is_noticed():
    words = [match for match in README.numbers() if match[0] in NUMBERS]
    words += [
        match
        for match in re.finditer(rf"\b(?:{'|'.join(NUMBERS)})\b", README.prose)
        if any((figure.start, figure.end) == match.span() for figure in README.figures)
    ]
    assert words
    assert not unnoticed((*word.span(), "no") for word in words)


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda cell: "", id="emptied"),
        pytest.param(lambda cell: "n/a", id="not measured"),
        pytest.param(lambda cell: "failed", id="failed"),
        pytest.param(lambda cell: cell + "0", id="another digit"),
        pytest.param(lambda cell: cell.strip("*") if "*" in cell else f"**{cell}**", id="bold"),
        pytest.param(lambda cell: re.sub(r"[A-Za-z%]+$", "", cell), id="without its unit"),
        pytest.param(lambda cell: cell.translate(str.maketrans("GM", "MG")), id="another unit"),
        pytest.param(lambda cell: cell.replace(",", ""), id="without its comma"),
    ],
)
def test_a_change_of_any_cell_is_noticed(edit):
    measured = [cell for cell in CELLS if re.search(r"\d", cell.said)]
    edits = [(cell.start, cell.end, edit(cell.said)) for cell in measured if edit(cell.said) != cell.said]
    assert edits
    assert not unnoticed(edits)


def test_a_figure_in_its_neighbours_place_is_noticed():
    pairs = [(one, other) for one, other in itertools.pairwise(CELLS) if one.said and other.said]
    edits = [(one.start, one.end, other.said) for one, other in pairs if one.said != other.said]
    assert edits
    assert not unnoticed(edits)


def test_a_value_where_none_was_measured_is_noticed():
    empty = [cell for cell in CELLS if cell.said in ("", "n/a")]
    assert empty
    assert not unnoticed((cell.start, cell.end, "100") for cell in empty)


def test_another_precision_in_the_advice_is_noticed():
    told = [(figure.start, figure.end) for figure in (*README.advice(), *README.limit())]
    known = re.compile("|".join(suite(RESULTS)[0]))
    precisions = [match for span in told for match in known.finditer(TEXT, *span)]
    assert precisions
    assert not unnoticed((*match.span(), "FP64") for match in precisions)


def test_a_wrong_figure_is_named_with_the_right_one_and_its_file():
    cell = next(cell for cell in CELLS if cell.said)
    (problem,) = readme_figures.problems(replaced(cell.start, cell.end, "9.99"))
    assert f"line {README.line(cell.start)}: '9.99' should be {cell.said!r}" in problem
    (name,) = re.findall(r"results/\S+?\*\.json", problem)
    assert len(list(ROOT.glob(name))) == 1


def test_a_claim_that_nothing_recomputes_is_named():
    added = TEXT.replace("## Results\n", "## Results\n\nIt costs 3.1 % less, on seven machines.\n")
    problems = readme_figures.problems(added)
    assert [problem.partition(" in ")[0].partition(": ")[2] for problem in problems] == [
        "nothing recomputes '3.1'",
        "nothing recomputes 'seven'",
    ]


def test_without_the_commits_no_figure_of_the_table_is_right():
    for source in README.sources:
        problems = readme_figures.problems(replaced(source.start, source.end, "Some commit"))
        assert any("a device and a model of the commits named below" in problem for problem in problems)


@pytest.fixture(scope="module")
def faster(tmp_path_factory):
    """results/ with other tokens/s in the file of the table's first rows; the file."""
    results = tmp_path_factory.mktemp("readme") / "results"
    file = next(group.file for group in README.groups if group.file)
    shutil.copytree(RESULTS, results)
    (path,) = (results / file.record.machine).glob(f"{file.record.commit[:8]}-*.json")
    known = json.loads(path.read_text())
    row = known["results"][THROUGHPUT["tokens/s"]]
    row[0] = [value and value * 1.5 for value in row[0]]
    path.write_text(json.dumps(known))
    return results, file


def test_other_values_in_a_file_are_noticed(faster):
    results, file = faster
    problems = readme_figures.problems(TEXT, results)
    cells = [figure for figure in README.groups[0].figures if f"{file}: tokens/s" in figure.source]
    assert cells
    for cell in cells:
        assert any(f"{cell.said!r} should be" in problem and cell.source in problem for problem in problems)


def test_a_readme_with_newer_figures_is_right(faster):
    results, _ = faster
    text = TEXT
    wrong = [figure for figure in Readme(TEXT, results).figures if figure.said != figure.expected]
    for figure in sorted(wrong, key=lambda each: -each.start):
        text = text[: figure.start] + figure.expected + text[figure.end :]
    assert text != TEXT
    assert readme_figures.problems(text, results) == []


ROW_WITH_A_MASSIVE_CHANNEL = re.compile(r"^\| \| with a massive channel (.*)\n", re.MULTILINE)


def test_the_row_with_a_massive_channel_may_have_its_long_name():
    assert ROW_WITH_A_MASSIVE_CHANNEL.search(TEXT)
    longer = TEXT.replace("| with a massive channel |", f"| {MASSIVE} |")
    assert longer != TEXT
    assert readme_figures.problems(longer) == []


def test_such_a_row_of_a_record_without_them_is_noticed(tmp_path):
    results, group = tmp_path / "results", README.groups[0]
    shutil.copytree(RESULTS, results)
    (path,) = (results / group.file.record.machine).glob(f"{group.file.record.commit[:8]}-*.notes")
    known = notes.read(path)
    for note in known.values():
        note.pop(MASSIVE_NOTE, None)
    path.write_text(json.dumps(known))
    said = re.findall(r"[\d.]+ %", ROW_WITH_A_MASSIVE_CHANNEL.search(TEXT)[1])
    assert said
    problems = readme_figures.problems(TEXT, results)
    for each in said:
        assert any(f"{each!r} should be ''" in problem for problem in problems)


def test_commits_may_be_named_together_or_alone():
    """As where a machine's rows are of two commits."""
    source = README.sources[0]
    name = source.files[0].record.commit[:9]
    start = source.start
    together = TEXT[:start] + f"{name} and " + TEXT[start:]
    alone = TEXT[: source.end] + f" and, again, {name}" + TEXT[source.end :]
    assert readme_figures.problems(together) == readme_figures.problems(alone) == []
    for text in (together, alone):
        (problem,) = readme_figures.problems(text.replace(name, "0123abcde"))
        assert "'0123abcde' should be 'a commit recorded on such a device'" in problem


def test_the_number_of_gpus_tells_a_commits_machines_apart(tmp_path):
    results, here = tmp_path / "results", README.sources[0].files[0].record.machine
    shutil.copytree(RESULTS, results)
    shutil.copytree(results / here, results / "two-GPUs", ignore=shutil.ignore_patterns("*.txt"))
    for path in (results / "two-GPUs").glob("*.json"):
        path.write_text(
            path.read_text().replace(f'"{here}"', '"two-GPUs"').replace('"num_gpu": "1"', '"num_gpu": "2"')
        )
    assert readme_figures.problems(TEXT, results) == []
    both = re.sub(r"(?<=on) one (?=NVIDIA)", " two ", TEXT)
    assert {file.record.machine for file in Readme(both, results).sources[0].files} == {"two-GPUs"}
    assert Readme(both).sources[0].files == []


def test_several_peers_may_share_their_case():
    told = next(README.find(r"([\d.]+) times as fast as ([\w-]+)"))
    with_one = replaced(told.end(), told.end(), f" and 99 times {told[2]}")
    (problem,) = readme_figures.problems(with_one)
    assert f"'99' should be '{told[1]}'" in problem
    assert readme_figures.problems(with_one.replace("and 99 times", f"and {told[1]} times")) == []


@pytest.mark.parametrize(
    "note, said, expected",
    [
        ({"skipped": "TF32 is a mode of GPUs"}, "n/a", "n/a"),
        ({"skipped": "TF32 is a mode of GPUs"}, "", ""),
        ({"skipped": "TF32 is a mode of GPUs"}, "8,150", "n/a"),
        ({"failed": "out of memory"}, "n/a", "failed"),
        ({"failed": "out of memory"}, "", "failed"),
        ({}, "n/a", ""),
    ],
)
def test_only_what_was_skipped_is_not_available(note, said, expected):
    cell = ("a model", "tf32", "mixed")
    record = Record("a-machine", "0123abc", notes={notes.key(THROUGHPUT["tokens/s"], cell): note})
    assert expected_text(record, "tokens/s", cell, said) == expected


def test_of_several_engine_tables_the_newest_commits_counts(tmp_path):
    def git(*words, date="@0 +0000"):
        dates = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, env=os.environ | dates, capture_output=True, text=True, check=True).stdout

    git("init", "-q")
    found = []
    for day in (2, 3, 1):
        git("commit", "-q", "--allow-empty", "-m", str(day), date=f"@{day * 86_400} +0000")
        found.append(tmp_path / f"{git('rev-parse', 'HEAD')[:8]}-engine-table.txt")
    assert newest(found) == found[1]


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
    assert [README.line(end) for end in ends if not readme_commands.problems(replaced(end, end, "q"))] == []


def test_another_target_of_any_link_is_noticed():
    ends = [match.end() for match in re.finditer(r"\]\((?!https?:)[^)\s]+(?=\))", TEXT)]
    assert ends
    assert [README.line(end) for end in ends if not readme_commands.problems(replaced(end, end, "q"))] == []


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
        ("git status", "virnucpro-embed a.fa", "nothing checks the command virnucpro-embed"),
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
        ("`--resume`", "`--resum3`", "no option --resum3"),
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
    ],
)
def test_python_that_does_not_work_is_noticed(old, new, problem):
    assert readme_commands.problems(PYTHON) == []
    (found,) = readme_commands.problems(PYTHON.replace(old, new))
    assert problem in found
