"""What reaches the disk where a file system lacks something."""

import errno
import logging
import os
import stat

import pytest

from tests.store.rows import datasets, whole_run
from virnucpro.store import disk
from virnucpro.store.errors import StoreError


@pytest.fixture
def refuse(monkeypatch):
    """Let fsync fail, for folders or for files."""
    real = os.fsync
    monkeypatch.setattr(disk, "_told", set(), raising=False)

    def begin(number, of_folders=True):
        def fsync(descriptor):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode) == of_folders:
                raise OSError(number, os.strerror(number))
            return real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)

    return begin


NOT_OFFERED = [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS]


@pytest.mark.parametrize("number", NOT_OFFERED)
def test_a_file_system_without_fsync_of_folders_is_told_once(tmp_path, refuse, caplog, number):
    refuse(number)
    with caplog.at_level(logging.WARNING):
        whole_run(tmp_path / "out.h5")
        whole_run(tmp_path / "more.h5")
    assert datasets(tmp_path / "out.h5") == datasets(tmp_path / "more.h5")
    (said,) = [record.getMessage() for record in caplog.records]
    assert "has no fsync of folders" in said and os.strerror(number) in said and str(tmp_path) in said


@pytest.mark.parametrize("number", NOT_OFFERED)
def test_a_file_that_cannot_be_synced_is_an_error_all_the_same(tmp_path, refuse, number):
    refuse(number, of_folders=False)
    with pytest.raises(StoreError, match=os.strerror(number)):
        whole_run(tmp_path / "out.h5")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=os.strerror(number)):
        disk.sync(tmp_path / "file")
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_folder_whose_fsync_fails_is_an_error(tmp_path, refuse, number):
    refuse(number)
    with pytest.raises(OSError, match=os.strerror(number)):
        disk.sync(tmp_path)


def test_a_folder_of_parts_is_synced_too(tmp_path, refuse):
    refuse(errno.EINVAL)
    (tmp_path / "out.parquet").mkdir()
    (tmp_path / "out.parquet" / "part").write_text("x")
    disk.sync_tree(tmp_path / "out.parquet")
    refuse(errno.EINVAL, of_folders=False)
    with pytest.raises(OSError, match="Invalid argument"):
        disk.sync_tree(tmp_path / "out.parquet")
