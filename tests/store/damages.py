"""Ways to damage what a run leaves: each changes a file in place, as a disk, a program or an attacker may."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np

Damage = tuple[str, Callable[[Path], object]]
"""What is done, and what does it to the path that it gets."""


def of_hdf5(path: Path) -> Iterator[Damage]:
    """For each dataset and attribute of a file; of datasets, those of `DATASETS` that can be."""
    with h5py.File(path) as file:
        names, attributes = list(file), {name: file.attrs[name] for name in file.attrs}
    names = names if len(names) < 10 else names[:: len(names) // 3]  # with a dataset for each protein
    for name in names:
        for what, how in DATASETS.items():
            yield f"{name} {what}", in_file(lambda file, name=name, how=how: how(file, name))
    for name, value in attributes.items():
        for what, other in attribute_values(value):
            yield f"attribute {name} {what}", in_file(lambda file, name=name, other=other: put(file, name, other))
        yield f"attribute {name} missing", in_file(lambda file, name=name: file.attrs.__delitem__(name))
    yield "attribute that is new", in_file(lambda file: put(file, "skipped", "[0]"))
    yield "dataset that is new", in_file(lambda file: file.create_dataset("more", data=np.arange(3)))
    yield "dataset skipped anew", in_file(lambda file: replace(file, "skipped", np.zeros(1, int)))
    yield "offsets anew", in_file(lambda file: replace(file, "offsets", np.arange(61)))


def in_file(how: Callable[[h5py.File], object]) -> Callable[[Path], object]:
    """`how` on an HDF5 file that is open to write."""

    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            how(file)

    return change


def put(file: h5py.File, name: str, value: object) -> None:
    """Give a file an attribute anew, of the value's type."""
    if name in file.attrs:
        del file.attrs[name]
    file.attrs[name] = value


def attribute_values(value: object) -> Iterator[tuple[str, object]]:
    """What an attribute may have been changed to."""
    if isinstance(value, str):
        yield "changed at its end", value[:-1] + chr(ord(value[-1:] or "a") ^ 1)
        yield "changed at its beginning", chr(ord(value[:1] or "a") ^ 1) + value[1:]
        yield "cut", value[:-1]
        yield "longer", value + "0"
        yield "empty", ""
        yield "as bytes", np.bytes_(value.encode())
        yield "a number", 7
        yield "no UTF-8", np.bytes_(b"\xff\xfe" + value.encode())
    else:
        yield "changed", np.logical_not(value) if value.dtype == bool else value + 1
        yield "negative", -1 - value.astype(int)
        yield "of 0", value * 0
        yield "huge", 2**62
        yield "a text", str(value)
        yield "a float", value.astype(float) + 0.5
        yield "NaN", float("nan")
    yield "several", np.array([1, 2])
    yield "an array of one", np.array([value], dtype=object if isinstance(value, str) else None)
    yield "a table", np.zeros((2, 2))
    yield "nothing", h5py.Empty("f4")
    yield "long", "x" * 60_000


def replace(file: h5py.File, name: str, values: object, **how: object) -> None:
    """A dataset anew, with these values."""
    if name in file:
        del file[name]
    if values is not None:
        is_text = isinstance(values, np.ndarray) and values.dtype == object
        file.create_dataset(name, data=values, dtype=h5py.string_dtype() if is_text else None, **how)


def other(values: np.ndarray) -> np.ndarray:
    """Of the same type and shape, and changed."""
    if values.dtype == object:
        return np.array([value[:-1] + b"?" for value in values], dtype=object)
    return values + np.ones(1, values.dtype)


def changed(at: int) -> Callable[[h5py.File, str], None]:
    """One value is another, in place."""

    def how(file: h5py.File, name: str) -> None:
        values = file[name][()]
        flat = values.reshape(-1)
        if flat.size:
            flat[at % flat.size : at % flat.size + 1] = other(flat[at % flat.size : at % flat.size + 1])
            file[name][...] = values

    return how


def anew(of: Callable[[np.ndarray], object], **options: object) -> Callable[[h5py.File, str], None]:
    """The dataset anew, of what this makes of its values."""
    return lambda file, name: replace(file, name, of(file[name][()]), **options)


def soft_link(file: h5py.File, name: str) -> None:
    file.move(name, "moved")
    file[name] = h5py.SoftLink("/moved")


def dangling_link(file: h5py.File, name: str) -> None:
    del file[name]
    file[name] = h5py.SoftLink("/nowhere")


def hard_link(file: h5py.File, name: str) -> None:
    """To another dataset of the file."""
    others = [each for each in file if each != name and file[each].ndim == file[name].ndim]
    del file[name]
    if others:
        file[name] = file[others[0]]


def elsewhere(file: h5py.File, name: str, of: Callable[[np.ndarray], np.ndarray] = other) -> Path:
    """Another file that has the dataset, with other values."""
    path = Path(file.filename).with_suffix(".elsewhere")
    with h5py.File(path, "w") as there:
        replace(there, name, of(file[name][()]))
    return path


def external_link(file: h5py.File, name: str) -> None:
    path = elsewhere(file, name)
    del file[name]
    file[name] = h5py.ExternalLink(path, name)


def external_link_to_the_same(file: h5py.File, name: str) -> None:
    path = elsewhere(file, name, lambda values: values)
    del file[name]
    file[name] = h5py.ExternalLink(path, name)


def virtual(file: h5py.File, name: str) -> None:
    """Of another file, with other values."""
    path, shape, dtype = elsewhere(file, name), file[name].shape, file[name].dtype
    layout = h5py.VirtualLayout(shape, dtype)
    layout[...] = h5py.VirtualSource(path, name, shape)
    del file[name]
    file.create_virtual_dataset(name, layout)


def virtual_of_nothing(file: h5py.File, name: str) -> None:
    """Of a file that is not there, which reads as zeros."""
    shape, dtype = file[name].shape, file[name].dtype
    layout = h5py.VirtualLayout(shape, dtype)
    layout[...] = h5py.VirtualSource("nowhere.h5", name, shape)
    del file[name]
    file.create_virtual_dataset(name, layout)


def external_storage(file: h5py.File, name: str) -> None:
    """In another file's bytes."""
    values = file[name][()]
    if values.dtype == object or not values.size:
        raise Impossible
    path = Path(file.filename).with_suffix(".bytes")
    path.write_bytes(bytes(values.nbytes))
    del file[name]
    file.create_dataset(name, values.shape, values.dtype, external=[(str(path), 0, values.nbytes)])


def group(file: h5py.File, name: str) -> None:
    del file[name]
    file.create_group(name)


def named_type(file: h5py.File, name: str) -> None:
    del file[name]
    file[name] = np.dtype("f4")


def never_written(file: h5py.File, name: str) -> None:
    """Which reads as zeros."""
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    file.create_dataset(name, shape, dtype, chunks=True if shape and 0 not in shape else None)


def huge(file: h5py.File, name: str) -> None:
    """Petabytes that read as zeros."""
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    file.create_dataset(name, (2**48, *shape[1:]), dtype, chunks=(1, *shape[1:]) if 0 not in shape[1:] else None)


class Impossible(Exception):
    """This damage cannot be done to this dataset."""


def bytes_lost(file: h5py.File, name: str) -> None:
    """The dataset's bytes in the file become zeros."""
    at, size = file[name].id.get_offset(), file[name].nbytes
    if at is None or not size:
        raise Impossible
    file.flush()
    with Path(file.filename).open("r+b") as raw:
        raw.seek(at)
        raw.write(bytes(size))


DATASETS: dict[str, Callable[[h5py.File, str], None]] = {
    **{f"changed at {at}": changed(at) for at in (0, 1, 17, -1)},
    "changed everywhere": anew(other),
    "of zeros": anew(lambda values: np.zeros_like(values) if values.dtype != object else values[::-1]),
    "backwards": anew(lambda values: values[::-1]),
    "rotated": anew(lambda values: np.roll(values, 1, axis=0)),
    "cut": anew(lambda values: values[:-1]),
    "cut to half": anew(lambda values: values[: len(values) // 2]),
    "of nothing": anew(lambda values: values[:0]),
    "longer": anew(lambda values: np.concatenate([values, values[-1:]])),
    "twice as long": anew(lambda values: np.concatenate([values, values])),
    "flat": anew(lambda values: values.reshape(-1)),
    "in a dimension more": anew(lambda values: values[None]),
    "in a column more": anew(lambda values: np.stack([values, values], axis=-1)),
    "a single value": anew(lambda values: values.reshape(-1)[0] if values.size else 0),
    "of bytes": anew(lambda values: np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)),
    **{
        f"of type {dtype}": anew(lambda values, dtype=dtype: converted(values, dtype))
        for dtype in ("f8", "f4", "f2", "i4", "i8", "u8", ">i8", ">f4", "c8", "V5", "S7", "?")
    },
    "as text": anew(lambda values: np.array([str(value) for value in values.reshape(-1)[:50]], dtype=object)),
    "missing": lambda file, name: file.__delitem__(name),
    "a group": group,
    "a named type": named_type,
    "a soft link": soft_link,
    "a link to nothing": dangling_link,
    "another dataset by a hard link": hard_link,
    "an external link": external_link,
    "an external link to the same values": external_link_to_the_same,
    "virtual": virtual,
    "virtual without a source": virtual_of_nothing,
    "in external storage": external_storage,
    "never written": never_written,
    "huge": huge,
    "without its bytes": bytes_lost,
    "compressed, the same": anew(lambda values: values, chunks=True, compression="gzip"),
    "compressed and changed": anew(other, chunks=True, compression="gzip"),
    "compressed with LZF and rotated": anew(
        lambda values: np.roll(values, 1, axis=0), chunks=True, compression="lzf"
    ),
}


def converted(values: np.ndarray, dtype: str) -> np.ndarray:
    """Of another type; what cannot be becomes zeros."""
    if values.dtype == object or np.dtype(dtype) == values.dtype:
        return np.zeros(values.shape, dtype)
    if np.dtype(dtype).kind in "VS":
        return np.zeros(values.shape, dtype)
    return values.astype(dtype)


def of_bytes(path: Path, count: int, rng: np.random.Generator) -> Iterator[Damage]:
    """A file's bytes changed, cut, inserted, taken out; `count` of each."""
    size = max(1, path.stat().st_size)
    for at in rng.integers(0, size, count).tolist():
        bit, length = 1 << int(rng.integers(8)), int(rng.integers(1, 64))
        yield f"bit {bit} of byte {at} changed", edit(lambda data, at=at, bit=bit: flip(data, at, bit))
        yield f"cut to {at}", edit(lambda data, at=at: data[:at])
        yield f"without {length} bytes at {at}", edit(lambda d, at=at, n=length: d[:at] + d[at + n :])
        yield f"{length} bytes more at {at}", edit(lambda d, at=at, n=length: d[:at] + d[at : at + n] + d[at:])
        yield f"zeros at {at}", edit(lambda d, at=at, n=length: d[:at] + bytes(len(d[at : at + n])) + d[at + n :])
    yield "longer", edit(lambda data: data + b"\n00000000 []\n")
    yield "twice", edit(lambda data: data + data)
    yield "empty", edit(lambda data: b"")


def of_place(path: Path) -> Iterator[Damage]:
    """What is at a path becomes something else: links lead to what was there, or elsewhere."""
    yield "missing", gone
    yield "a link to what it was", linked
    yield "a link to nothing", lambda path: (gone(path), path.symlink_to("/nowhere/at/all"))
    yield "a link to another file", lambda path: (gone(path), path.symlink_to("/etc/passwd"))
    yield "a link to a device", lambda path: (gone(path), path.symlink_to("/dev/zero"))
    yield "a pipe", lambda path: (gone(path), os.mkfifo(path))
    yield "a folder", lambda path: (gone(path), path.mkdir())
    yield "a file of zeros", lambda path: (gone(path), path.write_bytes(bytes(10_000)))


def gone(path: Path) -> None:
    """Nothing is there any more."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def linked(path: Path) -> None:
    """A link leads from there to where it was moved."""
    moved = path.parents[2] / f"moved {path.name}"
    path.rename(moved)
    path.symlink_to(moved)


def edit(how: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """`how` on a file's bytes."""
    return lambda path: path.write_bytes(how(path.read_bytes()))


def flip(data: bytes, at: int, bit: int) -> bytes:
    """A bit is another."""
    found = bytearray(data)
    if found:
        found[at % len(found)] ^= bit
    return bytes(found)
