"""Where an output goes: through links to a regular file, and never over anything else."""

import contextlib
import os
import socket
import stat
from pathlib import Path

import pytest

from tests.store.rows import append, datasets, finish, partial, whole_run
from virnucpro.store.errors import StoreError
from virnucpro.store.place import PARTIAL, check_apart, folder_of, place_of
from virnucpro.store.run import OURS, SETTINGS, check_output


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.h5"


def make(path, what):
    match what:
        case "folder":
            path.mkdir()
        case "FIFO":
            os.mkfifo(path)
        case "socket":
            with (
                socket.socket(socket.AF_UNIX) as server,
                contextlib.chdir(path.parent),
            ):  # for a name that is short
                server.bind(path.name)
        case "loop":
            path.symlink_to(path)
        case "two links in a loop":
            path.symlink_to(path.with_name("other"))
            path.with_name("other").symlink_to(path)
        case "link to a folder" | "link to a FIFO":
            target = path.with_name("target")
            make(target, what.split()[-1])
            path.symlink_to(target)


NOT_FILES = {
    "folder": "a folder",
    "FIFO": "a pipe",
    "socket": "a socket",
    "loop": "a loop",
    "two links in a loop": "a loop",
    "link to a folder": r"\(a link to .*\) is a folder",
    "link to a FIFO": r"\(a link to .*\) is a pipe",
}


@pytest.mark.parametrize("resume, force", [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize("what, message", NOT_FILES.items())
def test_what_is_not_a_regular_file_is_refused_by_name(output, what, message, resume, force):
    make(output, what)
    before = os.lstat(output)
    with pytest.raises(StoreError, match=message) as refused:
        check_output(output, resume, force)
    assert not refused.value.resume_helps
    with pytest.raises(StoreError, match=message):
        partial(output, resume)
    assert os.path.samestat(os.lstat(output), before)
    assert not output.with_name(output.name + PARTIAL).exists()


@pytest.mark.parametrize("mode", [stat.S_IFCHR, stat.S_IFBLK, 0])
@pytest.mark.parametrize("where", ["the output", "the folder of its rows", "its folder", "a file among its rows"])
def test_devices_are_refused_by_name(output, monkeypatch, mode, where):
    path = {
        "the output": output,
        "the folder of its rows": folder_of(output),
        "its folder": output.parent,
        "a file among its rows": folder_of(output) / "names",
    }[where]
    if where == "a file among its rows":
        folder_of(output).mkdir()
    real = os.stat

    def fake(which, *args, **keywords):
        if isinstance(which, int) or os.fspath(which) != os.fspath(path):
            return real(which, *args, **keywords)
        return os.stat_result((mode | 0o666, *real(output.parent)[1:]))

    monkeypatch.setattr(os, "stat", fake)
    with pytest.raises(StoreError, match="is a device" if mode else "is no file"):
        check_output(output, resume=False, force=True)
    with pytest.raises(StoreError, match="is a device" if mode else "is no file"):
        partial(output)


@pytest.mark.parametrize("what", ["FIFO", "socket", "loop", "link to a folder", "file"])
def test_the_folder_of_the_rows_is_a_folder(output, what):
    make(folder_of(output), what) if what != "file" else folder_of(output).write_text("mine")
    for resume, force in ((False, False), (False, True), (True, False)):
        with pytest.raises(StoreError, match=r"and not the folder of an unfinished run"):
            check_output(output, resume, force)
    with pytest.raises(StoreError, match=r"and not the folder of an unfinished run"):
        partial(output)
    assert os.path.lexists(folder_of(output))


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("what", ["FIFO", "socket", "loop", "folder", "link to a file"])
def test_the_files_of_a_run_are_regular_files(output, tmp_path, name, what):
    folder_of(output).mkdir()
    (tmp_path / "mine").write_text("mine")
    path = folder_of(output) / name
    path.symlink_to(tmp_path / "mine") if what == "link to a file" else make(path, what)
    with pytest.raises(StoreError, match="which no run leaves there"):
        check_output(output, resume=False, force=True)
    with pytest.raises(StoreError, match="which no run leaves there"):
        partial(output)
    assert (tmp_path / "mine").read_text() == "mine" and os.path.lexists(path)


@pytest.mark.parametrize("exists", [True, False], ids=["living", "dangling"])
@pytest.mark.parametrize("links", [1, 3])
def test_a_link_stays_and_the_file_goes_where_it_leads(tmp_path, output, exists, links):
    disk = tmp_path / "other disk"
    disk.mkdir()
    target = disk / "target.h5"
    if exists:
        target.write_text("old")
    paths = [target, *(tmp_path / f"link {number}" for number in range(1, links)), output]
    for path, before in zip(paths[1:], paths, strict=False):
        path.symlink_to(os.path.relpath(before, path.parent))
    if exists:
        with pytest.raises(StoreError, match=r"target.h5 exists"):
            check_output(output, resume=False, force=False)
    assert check_output(output, resume=False, force=True) == target
    with partial(output) as run:
        assert run.folder == folder_of(output) == folder_of(target) == disk / "target.h5.partial"
        append(run, [0])
        run.commit()
        assert (disk / "target.h5.partial" / SETTINGS).exists()
    for name in (output, target):
        with pytest.raises(StoreError, match="holds an unfinished run"):
            check_output(name, resume=False, force=False)
    whole_run(output, resume=True)
    assert all(path.is_symlink() for path in paths[1:])
    assert not target.is_symlink() and len(datasets(target)["ids"]) == 5
    assert sorted(path.name for path in disk.iterdir()) == ["target.h5"]


def test_one_file_by_two_names_is_locked_once(tmp_path, output):
    (tmp_path / "link").symlink_to(output)
    (tmp_path / "folder").symlink_to(tmp_path)
    with partial(output):
        for name in ("link", "folder/out.h5", "folder/link", "../" + tmp_path.name + "/out.h5"):
            with pytest.raises(StoreError, match="another process is writing"):
                partial(tmp_path / name)


def test_a_link_that_leads_nowhere_is_refused(tmp_path, output):
    output.symlink_to(tmp_path / "missing" / "out.h5")
    with pytest.raises(StoreError, match=r"there is no folder .*missing"):
        check_output(output, resume=False, force=True)


@pytest.mark.parametrize("what", ["FIFO", "file", "socket"])
def test_a_folder_that_is_none_is_told(tmp_path, what):
    parent = tmp_path / "parent"
    make(parent, what) if what != "file" else parent.write_text("mine")
    with pytest.raises(StoreError, match=r"cannot write .*Not a directory"):
        check_output(parent / "out.h5", resume=False, force=True)


@pytest.mark.parametrize("name", ["x" * 255, "x" * 250, "a\0b"])
def test_names_that_no_file_can_have_are_told(tmp_path, name):
    with pytest.raises(StoreError, match="cannot write"):
        check_output(tmp_path / name, resume=False, force=True)


def test_an_output_is_not_among_the_rows_of_another(output):
    with partial(output) as run:
        append(run, [0])
        run.commit()
    (folder_of(output) / "deeper").mkdir()
    for name in ("names", "new.h5", "deeper/new.h5"):
        with pytest.raises(StoreError, match="would be among the rows of an unfinished run"):
            check_output(folder_of(output) / name, resume=False, force=True)
    with pytest.raises(StoreError, match="is a folder"):
        check_output(folder_of(output), resume=False, force=True)
    with pytest.raises(StoreError, match=r"names that end in \.partial are those of unfinished runs"):
        check_output(output.with_name("other.h5.partial"), resume=False, force=True)


@pytest.mark.parametrize("how", ["itself", "link", "link to a link", "hard link", "descriptor"])
def test_an_input_is_not_the_output(tmp_path, output, how):
    source = tmp_path / "source"
    source.write_text("input")
    match how:
        case "itself":
            output = source
        case "link":
            output.symlink_to(source)
        case "link to a link":
            (tmp_path / "link").symlink_to(source)
            output.symlink_to(tmp_path / "link")
        case "hard link":
            output.hardlink_to(source)
        case "descriptor":
            output = source
    with source.open() as file, pytest.raises(StoreError, match="is the input: name another file"):
        check_output(output, False, True, [file.fileno() if how == "descriptor" else source])
    check_output(tmp_path / "another", False, True, [source, tmp_path / "missing"])


def test_an_input_among_the_rows_is_not_removed(tmp_path, output):
    folder_of(output).mkdir()
    (folder_of(output) / "names").write_text(">a\nMK\n")
    (tmp_path / "link").symlink_to(folder_of(output) / "names")
    with pytest.raises(StoreError, match="names is the input"):
        check_apart(place_of(output), [tmp_path / "link"])


@pytest.mark.parametrize("what", ["FIFO", "folder", "link to a FIFO"])
def test_what_came_to_its_place_meanwhile_is_not_replaced(output, what):
    with partial(output) as run:
        append(run, range(5))
        make(output, what)
        before = os.lstat(output)
        with pytest.raises(StoreError, match="name a file"):
            finish(run)
    assert os.path.samestat(os.lstat(output), before)
    output.rmdir() if what == "folder" else output.unlink()
    with partial(output, resume=True) as run:
        assert run.counts.sequences == 5 and finish(run)


def test_a_link_that_came_to_its_place_meanwhile_is_not_replaced(output, tmp_path):
    with partial(output) as run:
        append(run, range(5))
        output.symlink_to(tmp_path / "other.h5")
        with pytest.raises(StoreError, match="has become a symbolic link"):
            finish(run)
    assert output.is_symlink() and not (tmp_path / "other.h5").exists()


def test_a_relative_output_stays_where_it_was_begun(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with partial(Path("out.h5")) as run:
        append(run, [0])
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert finish(run)
    assert (tmp_path / "out.h5").exists()
