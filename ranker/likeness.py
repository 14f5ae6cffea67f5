"""Which submissions hold the same weights, or nearly the same. It finds; it accuses nobody.

Files are compared by digest. Of safetensors and of torch's own files the numbers are read too, without running
anything that such a file may hold: safetensors is a table of offsets, and of a torch file (a ZIP) the pickle is only
walked through for the names of its storages, never loaded. Each array of numbers gets a sketch of 64 values; sketches
of nearly equal arrays are nearly parallel, in whatever file, order or shape they stand.

Not covered: weights that were permuted, merged or quantised, and formats whose numbers are not read (ONNX, GGUF, old
torch files): those are compared by their bytes alone.
"""

from __future__ import annotations

import io
import json
import os
import pickletools
import struct
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ranker.db.models import Submission
from ranker.digest import file_digest
from ranker.home import Home
from ranker.intake.receive import TREE_NAME, WEIGHTS_NAME, submission_folder

BY_NUMBERS = frozenset({".safetensors", ".pt", ".pth", ".bin", ".ckpt"})
BY_BYTES = frozenset({".onnx", ".ort", ".gguf", ".h5", ".npz", ".npy", ".tflite", ".pb", ".msgpack", ".data", ".pkl"})
CODE = frozenset({".py"})

PARALLEL = 0.999  # cosine of two sketches from which on arrays are called alike
LEAST_NUMBERS = 4_096  # smaller arrays are biases and norms, which are alike in models that share nothing
LEAST_SHARE = 0.05  # of the smaller submission's numbers: less is chance, or a small part such as a filter bank
MAX_HEADER_BYTES = 10_000_000  # of any description of a file; as JSON it may grow by thirty times in memory
MAX_ARRAYS = 100_000
_ROWS = 1024  # sketches that are compared at once with all others
_WIDTH = 64
_PERIOD = 1 << 16
_BLOCK = 1 << 22  # numbers that are looked at together

Numbers = npt.NDArray[np.float32]

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bf16"}
_STORAGES = {"DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "bf16"}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an array of numbers lies in a file: offset in bytes, how many, and of which type (`bf16`, or numpy's)."""

    offset: int
    count: int
    dtype: str

    @property
    def size_bytes(self) -> int:
        """In the file."""
        return self.count * _width(self.dtype)


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """One file of weights. `sketches`: for each length the sketches (n, 64), each of length 1, of its arrays.

    `is_read`: whether its numbers were looked at.
    """

    name: str
    digest: str
    size_bytes: int
    sketches: Mapping[int, npt.NDArray[np.float32]]
    is_read: bool


@dataclass(frozen=True, kw_only=True)
class Member:
    """One submission: its weight files by name, and the digests of its code."""

    id: str
    team: str
    weights: Mapping[str, Path]
    code: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two submissions that share weights.

    `same_files`: equal byte by byte; `alike`: share of the smaller one's numbers that the other has nearly equal, None
    where the numbers of one are not read; `same_code` of `code_files`: Python files in both, of those in either.
    """

    first: str
    first_team: str
    second: str
    second_team: str
    same_files: tuple[str, ...]
    alike: float | None
    same_code: int
    code_files: int


@dataclass(frozen=True, kw_only=True)
class Group:
    """Submissions that are linked by shared weights, directly or over others."""

    teams: tuple[str, ...]
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """What was found among so many submissions and weight files. `unread`: kinds of files compared by bytes alone."""

    members: int
    files: int
    groups: tuple[Group, ...]
    unread: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


# -- from files to sketches


def member(home: Home, submission: Submission) -> Member:
    """A submission's unpacked files, and the weights that its constructor fetched; none where there are none."""
    folder = submission_folder(home, submission.digest)
    weights, code, known = dict[str, Path](), set[str](), set[Path]()
    for part in (TREE_NAME, WEIGHTS_NAME):
        root = (folder / part).resolve()
        for path in sorted(root.rglob("*")):
            file = Path(os.path.realpath(path))  # a hub's cache names its files by links
            if not file.is_file() or not file.is_relative_to(root):
                continue
            if path.suffix.lower() in BY_NUMBERS | BY_BYTES:
                if file in known:
                    continue
                known.add(file)
                weights[path.relative_to(root).as_posix()] = file
            elif path.suffix.lower() in CODE and part == TREE_NAME:
                code.add(file_digest(file))
    return Member(id=submission.id, team=submission.team, weights=weights, code=frozenset(code))


def read_weights(path: Path, name: str | None = None) -> WeightFile:
    """A file's digest, and the sketches of its arrays where its format is known. A broken file has none.

    `name` tells the format where the file itself has another name.
    """
    name = name or path.name
    try:
        places = list(_places(path, Path(name).suffix.lower()))
        if sum(place.size_bytes for place in places) > path.stat().st_size:
            raise ValueError("arrays overlap")  # else a small file could be read for days
        sketches = _sketches(path, places)
    except Exception:  # noqa: BLE001  a participant wrote the file: whatever its readers stumble over, it is not read
        places, sketches = [], {}
    return WeightFile(
        name=name, digest=file_digest(path), size_bytes=path.stat().st_size, sketches=sketches, is_read=bool(places)
    )


def _places(path: Path, suffix: str) -> Iterator[Place]:
    if suffix == ".safetensors":
        yield from _safetensors(path)
    elif suffix in BY_NUMBERS and zipfile.is_zipfile(path):
        yield from _torch_zip(path)


def _safetensors(path: Path) -> Iterator[Place]:
    """8 bytes of length, a JSON header of name -> dtype, shape, offsets, then the numbers (huggingface/safetensors)."""
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > MAX_HEADER_BYTES:
            raise ValueError("the header is too long")
        header = json.loads(stream.read(length))
    if not isinstance(header, dict):
        raise ValueError("the header is no table")
    end = path.stat().st_size
    for name, entry in list(header.items())[:MAX_ARRAYS]:
        if name == "__metadata__" or entry["dtype"] not in _DTYPES:
            continue
        start, stop = (int(each) + 8 + length for each in entry["data_offsets"])
        yield _place(start, stop - start, _DTYPES[entry["dtype"]], end)


def _torch_zip(path: Path) -> Iterator[Place]:
    """Storages of a file that torch.save wrote (since 1.6): ZIP members `data/KEY`, stored without compression."""
    end = path.stat().st_size
    with _Careful(path) as raw, zipfile.ZipFile(raw) as archive:
        names = {info.filename: info for info in archive.infolist()[:MAX_ARRAYS]}
        pickled = next(name for name in names if name.endswith("data.pkl"))
        # Neither decompressed, which no size in a header bounds, nor longer than what it describes needs.
        if names[pickled].compress_type != zipfile.ZIP_STORED or names[pickled].file_size > MAX_HEADER_BYTES:
            raise ValueError("the pickle is compressed, or too long")
        for kind, key in storages(archive.read(pickled)):
            info = names.get(f"{pickled.removesuffix('data.pkl')}data/{key}")
            if info is None or kind not in _STORAGES or info.compress_type != zipfile.ZIP_STORED:
                continue
            with path.open("rb") as stream:
                stream.seek(info.header_offset + 26)
                name_length, extra_length = struct.unpack("<HH", stream.read(4))
            start = info.header_offset + 30 + name_length + extra_length
            yield _place(start, info.file_size, _STORAGES[kind], end)


def storages(pickled: bytes) -> Iterator[tuple[str, str]]:
    """(kind, key) of each storage that a torch pickle refers to. Its opcodes are read, none is carried out.

    A storage is the persistent id ('storage', torch.FloatStorage, '0', 'cpu', 12); what it is made of are constants,
    some of them remembered from before.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    seen: set[str] = set()
    for opcode, argument, _ in pickletools.genops(pickled):
        match opcode.name:
            case "GLOBAL":
                stack.append(str(argument).replace(" ", "."))
            case "BINUNICODE" | "SHORT_BINUNICODE" | "UNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1":
                stack.append(argument)
            case "STACK_GLOBAL" if len(stack) > 1:
                stack[-2:] = [f"{stack[-2]}.{stack[-1]}"]
            case "BINPUT" | "LONG_BINPUT" if stack:
                memo[int(argument or 0)] = stack[-1]
            case "MEMOIZE" if stack:
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo.get(int(argument or 0)))
            case "TUPLE" | "EMPTY_TUPLE" | "EMPTY_DICT" | "EMPTY_LIST" | "REDUCE" | "BUILD":
                stack.append(None)
            case "BINPERSID":
                constants = [each for each in stack[-6:] if each is not None]
                kind = next((str(each) for each in constants if str(each).endswith("Storage")), None)
                if kind is not None and kind in constants[:-1]:
                    key = str(constants[constants.index(kind) + 1])
                    if key not in seen:
                        seen.add(key)
                        yield kind.rpartition(".")[2], key
                stack.append(None)
        del stack[:-64]


def _width(dtype: str) -> int:
    return 2 if dtype == "bf16" else np.dtype(dtype).itemsize


def _place(start: int, size: int, dtype: str, end: int) -> Place:
    if start < 0 or size < 0 or start + size > end:
        raise ValueError("an array lies outside its file")
    return Place(offset=start, count=size // _width(dtype), dtype=dtype)


class _Careful(io.FileIO):
    """A file of which nobody reads much at once: zipfile takes the whole of a directory into memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        """See io.FileIO.read. Raises ValueError."""
        wanted = MAX_HEADER_BYTES + 1 if size is None or size < 0 else min(size, MAX_HEADER_BYTES + 1)
        found = super().read(wanted)
        if found is None or len(found) > MAX_HEADER_BYTES:
            raise ValueError("what describes the file is too long")
        return found


def _sketches(path: Path, places: Sequence[Place]) -> dict[int, npt.NDArray[np.float32]]:
    found: dict[int, list[npt.NDArray[np.float32]]] = defaultdict(list)
    for place in places:
        if place.count >= LEAST_NUMBERS:
            one = sketch(_blocks(path, place))
            if one is not None:
                found[place.count].append(one)
    return {count: np.stack(each) for count, each in found.items()}


def _blocks(path: Path, place: Place) -> Iterator[Numbers]:
    """The numbers of an array, some at a time."""
    raw = np.dtype("<u2" if place.dtype == "bf16" else place.dtype)
    with path.open("rb") as stream:
        stream.seek(place.offset)
        for start in range(0, place.count, _BLOCK):
            values = np.fromfile(stream, dtype=raw, count=min(_BLOCK, place.count - start))
            yield (values.astype(np.uint32) << 16).view(np.float32) if place.dtype == "bf16" else values.astype("f4")


def sketch(blocks: Iterator[Numbers]) -> npt.NDArray[np.float32] | None:
    """64 numbers, of length 1 together: sums of the array's numbers under signs drawn once (Charikar et al. 2002, count
    sketch). The cosine of two sketches estimates that of the arrays, closely where they are nearly parallel. None for
    arrays without a direction: constant ones, and those with a value that is not finite.
    """
    draw = np.random.default_rng(0)
    columns, rows = (draw.choice(np.array([-1.0, 1.0], dtype=np.float32), _PERIOD) for _ in range(2))
    total, ones = np.zeros(_WIDTH), np.zeros(_WIDTH)
    at, count, whole = 0, 0, 0.0
    for block in blocks:
        if not np.isfinite(block).all():
            return None
        height = -(-len(block) // _PERIOD)
        signs = rows[np.arange(at, at + height) % _PERIOD]
        total += _signed(block, signs, columns)
        ones += _signed(np.ones_like(block), signs, columns)
        at, count, whole = at + height, count + len(block), whole + float(block.sum(dtype=np.float64))
    centred = total - ones * (whole / count)  # arrays that only share their mean, as scales around 1 do, are not alike
    length = float(np.linalg.norm(centred))
    if not np.isfinite(length) or length <= 1e-6 * float(np.linalg.norm(total)):
        return None
    return (centred / length).astype(np.float32)


def _signed(block: Numbers, rows: Numbers, columns: Numbers) -> npt.NDArray[np.float64]:
    """Sums (64,) of a block's numbers, each under the sign of its row and of its place in the row."""
    padded = np.zeros(len(rows) * _PERIOD, dtype=np.float32)
    padded[: len(block)] = block
    signed = (rows @ padded.reshape(len(rows), _PERIOD)) * columns
    return np.asarray(signed.reshape(-1, _WIDTH).sum(axis=0, dtype=np.float64))


# -- from sketches to groups


def compare(members: Sequence[Member]) -> Likeness:
    """Every pair that shares weights, in groups."""
    paths = {path: name.rpartition("/")[2] for each in members for name, path in each.weights.items()}
    with ThreadPoolExecutor() as pool:
        files = dict(zip(paths, pool.map(read_weights, paths.keys(), paths.values()), strict=True))
    pairs = [pair for one, other in combinations(members, 2) if (pair := _pair(one, other, files)) is not None]
    return Likeness(
        members=len(members),
        files=len(files),
        groups=tuple(_groups(pairs)),
        unread=tuple(sorted({file.name for file in files.values() if not file.is_read})),
    )


def _pair(one: Member, other: Member, files: Mapping[Path, WeightFile]) -> Pair | None:
    first, second = ({name: files[path] for name, path in each.weights.items()} for each in (one, other))
    digests = {file.digest for file in second.values()}
    same = tuple(name for name, file in first.items() if file.digest in digests)
    alike = alike_share(list(first.values()), list(second.values()))
    if not same and (alike or 0.0) < LEAST_SHARE:
        return None
    return Pair(
        first=one.id,
        first_team=one.team,
        second=other.id,
        second_team=other.team,
        same_files=same,
        alike=alike,
        same_code=len(one.code & other.code),
        code_files=len(one.code | other.code),
    )


def alike_share(first: Sequence[WeightFile], second: Sequence[WeightFile]) -> float | None:
    """Share of the numbers of the side with fewer that the other side has in an array nearly parallel to theirs; None
    where one side has none that were read.
    """
    one, other = _together(first), _together(second)
    totals = [sum(count * len(each) for count, each in side.items()) for side in (one, other)]
    if not min(totals):
        return None
    small, large = (one, other) if totals[0] <= totals[1] else (other, one)
    shared = 0
    for count in small.keys() & large.keys():
        for start in range(0, len(small[count]), _ROWS):  # all at once could be more than the memory
            near = (small[count][start : start + _ROWS] @ large[count].T).max(axis=1)
            shared += count * int((near > PARALLEL).sum())
    return shared / min(totals)


def _together(files: Sequence[WeightFile]) -> dict[int, npt.NDArray[np.float32]]:
    lengths = {count for file in files for count in file.sketches}
    return {
        count: np.concatenate([file.sketches[count] for file in files if count in file.sketches]) for count in lengths
    }


def _groups(pairs: Sequence[Pair]) -> Iterator[Group]:
    """Pairs that are linked, largest group first."""
    group_of: dict[str, set[str]] = {}
    for pair in pairs:
        joined = group_of.get(pair.first, {pair.first}) | group_of.get(pair.second, {pair.second})
        for each in joined:
            group_of[each] = joined
    distinct = {id(group): group for group in group_of.values()}
    for group in sorted(distinct.values(), key=lambda each: (-len(each), sorted(each))):
        own = tuple(pair for pair in pairs if pair.first in group)
        teams = {pair.first_team for pair in own} | {pair.second_team for pair in own}
        yield Group(teams=tuple(sorted(teams)), pairs=own)
