"""What is in a file that `torch.save` wrote, found without unpickling it.

A pickle is a program for a small stack machine, and the danger lies in its instruction to call any function there is.
The machine here has no such instruction: it builds dictionaries, lists, tuples, numbers and texts, and for the few
names that a state dict needs, descriptions of tensors; of a few more, nothing at all. Any other name, and any other
instruction, is refused.

Both of torch's layouts are read: the zip archive (since 1.6; torch/serialization.py, _save) and the older one of
pickles in a row with the numbers after them (_legacy_save). Run as a program (`python -m gpt2.checkpoint.torch_pickle
FILE`) it writes what it found as JSON; that is how a reader uses it, so that a file which confuses it confuses a
process of its own.
"""

import ctypes
import json
import os
import pickletools
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

PICKLE_LIMIT_BYTES = 16 << 20
ITEMS_LIMIT = 1 << 18
_MEMBERS_LIMIT = 1 << 16
_DEPTH_LIMIT = 16
_NAME_LIMIT = 1000  # of characters on the way to a value, and of a text that is one: a memo makes much of little
_BYTE_ORDER_BYTES = 16
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # linux/sched.h, CLONE_NEWUSER and CLONE_NEWNET

DTYPES = {
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "DoubleStorage": "F64",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


class RefusedError(Exception):
    """Why a file is not read, in words."""


class _Name(NamedTuple):
    """A function or class that the pickle names; it is never looked up."""

    module: str
    name: str


class _Namespace(dict[Any, Any]):
    """An `argparse.Namespace`, in which Megatron keeps its settings, as the dictionary that it is."""


class _Opaque:
    """What a function would have made that is of no use here and is never called."""


class _Storage(NamedTuple):
    dtype: str
    key: str
    length: int


class Tensor(NamedTuple):
    """A tensor as the pickle describes it: its storage, and how it lies in it, counted in numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Bounded:
    """A file of which no more than a limit is read, whatever the pickle in it claims."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = PICKLE_LIMIT_BYTES

    def read(self, count: int) -> bytes:
        return self._taken(self._file.read(min(count, self._left + 1)))

    def readline(self) -> bytes:
        return self._taken(self._file.readline(self._left + 1))

    def _taken(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise RefusedError(f"its pickle is larger than {PICKLE_LIMIT_BYTES:,} bytes")
        return data


_MARK = object()
# What a state of training holds beside the weights, of which the values are left out: NumPy's random numbers. Of
# Megatron's own classes (`megatron.…`) too.
_PASSED_OVER = {
    _Name("numpy", "dtype"),
    _Name("numpy.core.multiarray", "_reconstruct"),
    _Name("numpy._core.multiarray", "_reconstruct"),
    _Name("_codecs", "encode"),
}


def _rebuild(function: Any, arguments: Any) -> Any:
    """What calling one of the known functions gives."""
    match function, arguments:
        case ("torch._utils", "_rebuild_tensor_v2"), (storage, offset, shape, strides, *_):
            sound = (
                isinstance(storage, _Storage)
                and _is_count(offset)
                and isinstance(shape, tuple)
                and isinstance(strides, tuple)
                and len(cast("tuple[Any, ...]", shape)) == len(cast("tuple[Any, ...]", strides)) <= 8
                and all(map(_is_count, (*shape, *strides)))
            )
            if not sound:
                raise RefusedError("it describes a tensor that cannot be")
            return Tensor(storage, offset, shape, strides)
        case ("torch._utils", "_rebuild_parameter"), (Tensor() as tensor, *_):
            return tensor
        case ("collections", "OrderedDict"), ():
            return {}
        case ("argparse", "Namespace"), ():
            return _Namespace()
        case _Name() as name, _ if name in _PASSED_OVER or name.module.startswith("megatron."):
            return _Opaque()
        case _:
            what = ".".join(function)[:200] if isinstance(function, _Name) else "something without a name"
            raise RefusedError(f"it wants {what} called")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def _storage(reference: Any) -> _Storage:
    match reference:
        case ("storage", ("torch", str(name)), str(key), _, int(count), *view) if (
            name in DTYPES and _is_count(count) and view in ([], [None])
        ):
            return _Storage(DTYPES[name], key, count)
        case _:
            raise RefusedError("it keeps numbers in a way that is not known")


_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG", "BINFLOAT", "FLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "SHORT_BINSTRING", "BINSTRING", "STRING"),
}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = ("PROTO", "FRAME")


def load(file: IO[bytes], storages: dict[str, str] | None = None) -> Any:
    """Run one pickle on the machine above, and leave the file at its end.

    Args:
        file: at the pickle's beginning.
        storages: to be filled with the type of each storage that the pickle names, by its key.

    Raises:
        RefusedError: it is damaged, or wants something that a state dict does not need.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast("IO[bytes]", _Bounded(file)))):
            if count > 64 * ITEMS_LIMIT:
                raise RefusedError("its pickle has too many instructions")
            if opcode.name == "STOP":
                return stack.pop()
            _execute(opcode.name, argument, stack, memo)
            if opcode.name == "BINPERSID" and storages is not None:
                storages[stack[-1].key] = stack[-1].dtype
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, struct.error, UnicodeError) as error:
        raise RefusedError(f"its pickle is damaged: {type(error).__name__}: {str(error)[:100]}") from error
    raise RefusedError("its pickle does not end")


def _execute(name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    if name in _IGNORED:
        return
    if name in _LITERALS:
        stack.append(argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name in _EMPTY:
        stack.append(_EMPTY[name]())
    elif name in _TUPLES:
        items = tuple(stack[-_TUPLES[name] :])
        del stack[-_TUPLES[name] :]
        stack.append(items)
    elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
        memo[int(argument)] = stack[-1]
    elif name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET", "GET"):
        stack.append(memo[int(argument)])
    elif name == "MARK":
        stack.append(_MARK)
    elif name == "GLOBAL":
        stack.append(_Name(*argument.split(" ", 1)))
    elif name == "STACK_GLOBAL":
        last, module = stack.pop(), stack.pop()
        if not isinstance(module, str) or not isinstance(last, str):
            raise RefusedError("it names a function by something else than texts")
        stack.append(_Name(module, last))
    elif name == "BINPERSID":
        stack.append(_storage(stack.pop()))
    elif name in ("REDUCE", "NEWOBJ"):
        arguments = stack.pop()
        stack.append(_rebuild(stack.pop(), arguments))
    elif name == "BUILD":  # of an OrderedDict: its `_metadata`, which says nothing of the numbers
        state = stack.pop()
        if isinstance(stack[-1], _Namespace) and isinstance(state, dict):
            stack[-1].update(cast("dict[Any, Any]", state))
        elif not isinstance(stack[-1], dict | _Opaque):
            raise RefusedError("it sets the state of an object")
    elif name in ("SETITEM", "APPEND"):
        value = stack.pop()
        _add([stack.pop(), value] if name == "SETITEM" else [value], stack[-1])
    elif name in ("SETITEMS", "APPENDS", "ADDITEMS", "TUPLE", "LIST", "DICT"):
        place = next((i for i in reversed(range(len(stack))) if stack[i] is _MARK), None)
        if place is None:
            raise RefusedError("its pickle is damaged: an instruction wants a mark that is not there")
        items = stack[place + 1 :]
        del stack[place:]
        if name == "TUPLE":
            stack.append(tuple(items))
        elif name in ("LIST", "DICT"):
            stack.append([] if name == "LIST" else {})
            _add(items, stack[-1])
        else:
            _add(items, stack[-1])
    else:
        raise RefusedError(f"it uses the instruction {name}")


def _add(items: list[Any], goal: Any) -> None:
    if type(goal) is list:
        goal.extend(items)
    elif type(goal) is dict:
        if not all(isinstance(key, str | int | float | None) for key in items[::2]):
            raise RefusedError("it has a dictionary whose keys are neither texts nor numbers")
        before = len(goal)
        goal.update(zip(items[::2], items[1::2], strict=True))
        if len(goal) != before + len(items) // 2:
            raise RefusedError("a key of a dictionary is given twice")
    else:
        raise RefusedError("it fills something that is neither a list nor a dictionary")
    if len(goal) > ITEMS_LIMIT:
        raise RefusedError(f"it has more than {ITEMS_LIMIT:,} items in one list")


def flatten(content: Any) -> Iterator[tuple[str, Any]]:
    """Every tensor, number, text and truth value in `content`, by the keys on the way to it with dots between.

    A dictionary that is in another many times is small in the file and would be endless here, so all that is passed
    is counted.
    """
    passed = 0

    def below(value: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
        nonlocal passed
        passed += 1
        if passed > ITEMS_LIMIT:
            raise RefusedError(f"it has more than {ITEMS_LIMIT:,} values")
        if depth > _DEPTH_LIMIT:
            raise RefusedError(f"it is nested more than {_DEPTH_LIMIT} deep")
        if isinstance(value, dict):
            for key, item in cast("dict[Any, Any]", value).items():
                name = str(key)
                if len(prefix) + len(name) > _NAME_LIMIT:
                    raise RefusedError(f"it has a name of more than {_NAME_LIMIT:,} characters")
                yield from below(item, f"{prefix}.{name}" if prefix else name, depth + 1)
        elif isinstance(value, Tensor | int | float | None) or (isinstance(value, str) and len(value) <= _NAME_LIMIT):
            yield prefix, value

    return below(content, "", 0)


def read(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
    """The flattened content of a file, and where in it each storage lies: first byte and number of bytes.

    Raises:
        RefusedError: it is no such file, damaged or hostile.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            content, places = _read_zip(path, file)
        else:
            file.seek(0)
            content, places = _read_legacy(file)
    return _flattened(content), places


def _flattened(content: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    characters = 0
    for name, value in flatten(content):
        characters += len(name) + (len(value) if isinstance(value, str) else 0)
        if characters > PICKLE_LIMIT_BYTES:
            raise RefusedError(f"it has names and texts of more than {PICKLE_LIMIT_BYTES:,} characters")
        if name in found:
            raise RefusedError(f"the name {name[:80]!r} is given twice")
        found[name] = value
    return found


def _read_zip(path: Path, file: IO[bytes]) -> tuple[Any, dict[str, tuple[int, int]]]:
    size = os.fstat(file.fileno()).st_size
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > _MEMBERS_LIMIT:
                raise RefusedError(f"it has more than {_MEMBERS_LIMIT:,} members")
            places = _places(members, file, size)
            pickles = [member for member in members if member.filename.endswith("/data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > PICKLE_LIMIT_BYTES:
                raise RefusedError("it has not one data.pkl of an ordinary size")
            root = pickles[0].filename.removesuffix("data.pkl")
            order = places.get(root + "byteorder")
            if order and (order[1] > _BYTE_ORDER_BYTES or archive.read(root + "byteorder") != b"little"):
                raise RefusedError("it was written on a big-endian machine")
            with archive.open(pickles[0]) as stream:
                content = load(stream)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        raise RefusedError(f"its archive is damaged: {str(error)[:100]}") from error
    return content, {
        name.removeprefix(f"{root}data/"): place for name, place in places.items() if name.startswith(f"{root}data/")
    }


def _places(members: list[zipfile.ZipInfo], file: IO[bytes], size: int) -> dict[str, tuple[int, int]]:
    """Where the members' bytes lie: as they are, none twice, none over another, all in the file."""
    places: dict[str, tuple[int, int]] = {}
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        name = member.filename
        if name in places:
            raise RefusedError(f"the member {name[:80]!r} is there twice")
        if ".." in name.split("/") or name.startswith("/") or "\\" in name:
            raise RefusedError(f"the member {name[:80]!r} leads out of the archive")
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise RefusedError(f"the member {name[:80]!r} is compressed, which torch does not do: it may be a zip bomb")
        if member.flag_bits & 1:
            raise RefusedError(f"the member {name[:80]!r} is encrypted")
        file.seek(member.header_offset)
        header = file.read(30)
        if member.header_offset < end or len(header) < 30 or header[:4] != b"PK\3\4":
            raise RefusedError(f"the member {name[:80]!r} overlaps another, or is not where it should be")
        begin = member.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
        end = begin + member.file_size
        if end > size:
            raise RefusedError(f"the member {name[:80]!r} ends at byte {end:,}, and the file has {size:,}")
        places[name] = (begin, member.file_size)
    return places


def _read_legacy(file: IO[bytes]) -> tuple[Any, dict[str, tuple[int, int]]]:
    size = os.fstat(file.fileno()).st_size
    if load(file) != _LEGACY_MAGIC or load(file) != _LEGACY_PROTOCOL:
        raise RefusedError("it is not a file of torch.save")
    system = load(file)
    if not isinstance(system, dict) or cast("dict[str, Any]", system).get("little_endian") is not True:
        raise RefusedError("it was written on a big-endian machine")
    dtypes: dict[str, str] = {}
    content = load(file, dtypes)
    keys = load(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in cast("list[Any]", keys)):
        raise RefusedError("its list of storages is damaged")
    item_bytes = {key: ITEM_BYTES[dtype] for key, dtype in dtypes.items()}
    places: dict[str, tuple[int, int]] = {}
    for key in cast("list[str]", keys):
        count = int.from_bytes(file.read(8), "little")
        begin = file.tell()
        if key not in item_bytes or key in places or begin + count * item_bytes[key] > size:
            raise RefusedError(f"its storage {key[:40]!r} is damaged, cut off or of no tensor")
        places[key] = (begin, count * item_bytes[key])
        file.seek(begin + count * item_bytes[key])
    return content, places


def describe(path: Path) -> dict[str, Any]:
    """What is in a file, as JSON can hold it: `{"error": …}`, or its tensors and its settings."""
    try:
        found, places = read(path)
        tensors: dict[str, Any] = {}
        for name, value in found.items():
            if isinstance(value, Tensor):
                begin, size = places.get(value.storage.key, (0, -1))
                if size < value.storage.length * ITEM_BYTES[value.storage.dtype]:
                    raise RefusedError(f"the numbers of {name[:80]!r} are not all there")
                tensors[name] = {
                    "dtype": value.storage.dtype,
                    "shape": value.shape,
                    "strides": value.strides,
                    "begin": begin + value.offset * ITEM_BYTES[value.storage.dtype],
                    "end": begin + size,
                }
    except RefusedError as error:
        return {"error": str(error)}
    except RecursionError:
        return {"error": "it is nested too deeply"}
    return {"tensors": tensors, "settings": {k: v for k, v in found.items() if not isinstance(v, Tensor)}}


def confine() -> bool:
    """Limit this process in memory and time, and take the network from it where the system can; says whether it did."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    except (ImportError, OSError, ValueError):  # Windows, or a system that is stricter already
        pass
    if sys.platform != "linux":
        return False
    try:
        unshare = ctypes.CDLL(None).unshare
    except (OSError, AttributeError):
        return False
    # An empty network of its own: of root by right, of others where the system lets them have a user namespace.
    return unshare(_NEW_NETWORK) == 0 or unshare(_NEW_USER | _NEW_NETWORK) == 0


def _main() -> None:
    confine()
    facts = describe(Path(sys.argv[1]))
    with os.fdopen(1, "w", encoding="utf-8") as out:
        json.dump(facts, out)


if __name__ == "__main__":
    _main()
