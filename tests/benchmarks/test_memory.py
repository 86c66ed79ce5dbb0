"""Peak memory on a CPU: what counts, what does not, and from when on."""

import platform
import sys

import pytest

from benchmarks.measure import memory
from benchmarks.measure.memory import Peak, PeakMemory, file_mappings, unavailable
from tests.benchmarks.clean_process import in_clean_process

MIB = 2**20
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset the resident set's peak")


@on_linux
def test_the_peak_counts_from_its_reset():
    said = in_clean_process("""
        from benchmarks.measure.memory import *
        memory = PeakMemory("cpu")
        torch.ones(64, 1024, 1024, dtype=torch.uint8)  # 64 MiB, freed again
        before = memory.read().amount
        memory.reset()
        torch.ones(16, 1024, 1024, dtype=torch.uint8)
        print((before - memory.read().amount) / 2**20)
        """)
    assert 40 < float(said) < 56  # MiB


@on_linux
def test_the_peak_of_one_process_does_not_see_anothers():
    said = in_clean_process("""
        from benchmarks.measure.memory import *
        def peak_with(mebibytes):
            def call():
                memory = PeakMemory("cpu")
                torch.ones(mebibytes, 1024, 1024, dtype=torch.uint8)
                return memory.read().amount
            return in_fresh_process(call)
        alone, large, after = peak_with(8), peak_with(256), peak_with(8)
        print((large - alone) / 2**20, abs(after - alone) / 2**20)
        """)
    larger, changed = map(float, said.split())
    assert larger == pytest.approx(248, abs=8)
    assert changed < 4


TOUCH = """
    import mmap, sys
    from pathlib import Path
    from benchmarks.measure import memory as measured_by
    def touch(path, protection):
        "Make all pages of a mapped file resident, and keep them."
        with open(path, "r+b") as file:
            mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=protection)
        sum(mapped[at] for at in range(0, len(mapped), mmap.PAGESIZE))
        return mapped
"""


@on_linux
def test_resident_pages_of_a_library_do_not_count_and_their_growth_is_told(tmp_path):
    library = tmp_path / "library.so"
    library.write_bytes(b"\x7fELF" * (32 * MIB // 4))
    said = in_clean_process(f"""{TOUCH}
    memory, resident = measured_by.PeakMemory("cpu"), measured_by.resident_peak()
    before = memory.read().amount
    kept = touch({str(library)!r}, mmap.PROT_READ | mmap.PROT_EXEC)
    peak = memory.read()
    print((peak.amount - before) / 2**20, (measured_by.resident_peak() - resident) / 2**20)
    print(peak.libraries_grew * peak.amount / 2**20, sorted(peak.notes()))
    """)
    (counted, resident), (grew, *told) = (line.split(maxsplit=1) for line in said.splitlines())
    assert float(resident) > 30
    assert abs(float(counted)) < 2
    assert float(grew) == pytest.approx(32, abs=2)
    assert told == ["['libraries_grew']"]


@on_linux
def test_a_mapped_checkpoint_counts(tmp_path):
    checkpoint = tmp_path / "model.pt"
    said = in_clean_process(f"""
        from benchmarks.measure.memory import *
        torch.save({{"weights": torch.ones(32, 1024, 1024, dtype=torch.uint8)}}, {str(checkpoint)!r})
        memory = PeakMemory("cpu")
        before = memory.read().amount
        weights = torch.load({str(checkpoint)!r}, mmap=True)["weights"]
        weights.max()
        print((memory.read().amount - before) / 2**20)
        """)
    assert float(said) == pytest.approx(32, abs=3)


@on_linux
@pytest.mark.parametrize("protection", ["mmap.PROT_READ", "mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC"])
def test_shared_memory_counts(protection):
    """Executable, too: that is what compiles code at run time, not a library."""
    said = in_clean_process(f"""{TOUCH}
    memory = measured_by.PeakMemory("cpu")
    before = memory.read().amount
    file = os.memfd_create("shared")
    os.write(file, b"1" * (32 * 2**20))
    kept = touch(f"/proc/self/fd/{{file}}", {protection})
    print((memory.read().amount - before) / 2**20)
    """)
    assert float(said) == pytest.approx(32, abs=3)


SMAPS = """\
7f00-7f01 r--p 00000000 fe:00 11                     /usr/lib/lib one.so
Rss:                 300 kB
Anonymous:             0 kB
VmFlags: rd mr mw me
7f01-7f02 r-xp 00000000 fe:00 11                     /usr/lib/lib one.so
Rss:                 200 kB
Anonymous:             0 kB
7f02-7f03 rw-p 00000000 fe:00 11                     /usr/lib/lib one.so
Rss:                  50 kB
Anonymous:            40 kB
7f03-7f04 r--p 00000000 fe:00 12                     /data/esm2.pt
Rss:                7000 kB
Anonymous:             0 kB
7f04-7f05 rwxp 00000000 00:00 0
Rss:                  90 kB
Anonymous:            90 kB
7f05-7f06 rwxs 00000000 00:01 13                     /memfd:code (deleted)
Rss:                  80 kB
Anonymous:             0 kB
"""


def test_a_library_is_a_file_of_which_a_part_is_executable(monkeypatch, tmp_path):
    (tmp_path / "smaps").write_text(SMAPS)
    monkeypatch.setattr(memory, "PROC", tmp_path)
    assert memory.library_bytes() == 1024 * (300 + 200 + 10)  # what the process wrote to is its own
    assert [each.path for each in file_mappings(SMAPS)] == ["/usr/lib/lib one.so"] * 3 + ["/data/esm2.pt"]


def test_growth_of_libraries_that_does_not_matter_is_not_told():
    assert Peak(100, libraries_grew=0.009).notes() == {}
    assert Peak(100, libraries_grew=0.02).notes() == {"libraries_grew": 0.02}
    assert Peak(100, libraries_grew=-0.009).notes() == {}
    assert Peak(100, libraries_grew=-0.02).notes() == {"libraries_shrank": 0.02}


def test_where_the_system_does_not_tell_peak_memory_is_not_available(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    memory = PeakMemory("cpu")
    memory.reset()
    measurement = memory.measurement()
    assert measurement.samples == {}
    assert "only Linux tells" in measurement.unavailable["peak memory"]
    with pytest.raises(NotImplementedError, match="only Linux tells"):
        memory.read()
    assert unavailable("cuda") is None


@on_linux
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc has no such heap")
def test_large_tensors_are_kept_off_the_heap():
    said = in_clean_process("""
        from benchmarks.measure.memory import *
        def mebibytes_on_heap():
            "That a tensor takes there, after one that made malloc keep tensors of its size."
            def heap():
                return sum(int(end, 16) - int(start, 16) for start, end in
                           re.findall(r"^(\\w+)-(\\w+) .*\\[heap]$", (PROC / "maps").read_text(), re.MULTILINE))
            torch.ones(16, 1024, 1024, dtype=torch.uint8)
            before = heap()
            kept = torch.ones(12, 1024, 1024, dtype=torch.uint8)
            return 1 + (heap() - before) / 2**20
        def without():
            return mebibytes_on_heap()
        def with_it():
            keep_large_blocks_off_the_heap()
            return mebibytes_on_heap()
        print(in_fresh_process(without) - 1, in_fresh_process(with_it) - 1)
        """)
    without, with_it = map(float, said.split())
    assert without > 8
    assert with_it < 1
