"""What is left to measure, and about how long that will take."""

from asv import util

from asv_plugin.record.cells import Recorded, RecordedFiles


def expected_seconds(file: str, known: RecordedFiles) -> float | None:
    """The longest that a file of benchmarks takes by any commit's record; None where none has it.

    What is reckoned from a part counts only where no commit has all: of the rest some cells may be skipped. A
    commit of which all were does not count.
    """
    records = [files[file] for files in known.values() if file in files and files[file].seconds]
    complete = [record for record in records if record.complete]
    return max((record.seconds for record in complete or records), default=None)


def plan(commits: list[str], files: list[str], known: RecordedFiles) -> dict[str, list[str]]:
    """What is to be measured: commit to files of benchmarks."""
    missing = Recorded(False, 0.0)
    todo = {
        commit: [file for file in files if not known.get(commit, {}).get(file, missing).complete]
        for commit in commits
    }
    return {commit: some for commit, some in todo.items() if some}


def print_plan(todo: list[str], done: int, name: str, known: RecordedFiles) -> None:
    """Say which files of benchmarks will be measured, one for each commit, and how long that will take."""
    times = [expected_seconds(file, known) for file in todo]
    unknown = sorted({file for file, seconds in zip(todo, times, strict=True) if seconds is None})
    about = f"about {util.human_time(sum(filter(None, times)))} by what is recorded"
    if unknown:
        about += f", and as long as {', '.join(unknown)} may take, of which nothing is"
    skipped = f"; {done} recorded before, skipped" if done else ""
    print(f"{name}: {len(todo)} files of benchmarks to measure{skipped}; {about}", flush=True)
