"""Reading a pickle without running it, as far as a state dict needs.

A pickle is a program for a small stack machine. Its danger is the instruction that calls any function at all. The
machine here has no such instruction: it builds dictionaries, lists, tuples, numbers and strings, and describes tensors
for the few names that a state dict needs. Of an object of a class outside the standard library it keeps only the
attributes; calls of a few more names it skips. Any other name or instruction is refused.
"""

import pickletools
import struct
import sys
import warnings
from collections.abc import Callable
from typing import IO, Any, NamedTuple, cast

PICKLE_LIMIT_BYTES = 16 << 20
ITEMS_LIMIT = 1 << 18

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


class RefusedError(Exception):
    """Why a file is not read, in words."""


class _Name(NamedTuple):
    """A function or class that the pickle names; it is never looked up."""

    module: str
    name: str


class _Namespace(dict[Any, Any]):
    """The attributes, or the items, of an object, usually settings. Its class is never looked up."""


class _Opaque:
    """Stands for the result of a function that is not needed and never called."""


class _Storage(NamedTuple):
    dtype: str
    key: str
    length: int


class Tensor(NamedTuple):
    """A tensor as the pickle describes it: its storage, and its layout there, counted in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Bounded:
    """A file that reads no more than a limit, whatever the pickle in it claims."""

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
_STANDARD = sys.stdlib_module_names | {"__builtin__"}  # nobody keeps settings in an object of these
# What training states hold besides weights: NumPy's random states and scalars, paths, times, collections. Their values
# are skipped, and so are those of Megatron's own classes (`megatron.…`).
_PASSED_OVER = {
    _Name(module, name)
    for modules, names in (
        ("numpy", "dtype"),
        ("numpy.core.multiarray numpy._core.multiarray", "_reconstruct scalar"),
        ("numpy.core.numeric numpy._core.numeric", "_frombuffer"),
        ("_codecs", "encode"),
        ("torch", "Size device"),
        ("pathlib pathlib._local", "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath"),
        ("datetime", "date datetime time timedelta timezone"),
        ("collections", "Counter defaultdict deque"),
        ("builtins __builtin__", "set frozenset complex slice range xrange"),
    )
    for module in modules.split()
    for name in names.split()
}


def _rebuild(function: Any, arguments: Any, *, is_new: bool) -> Any:
    """The result of one of the known functions, or, if `is_new`, an empty object of a class."""
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
        case ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state"), (Tensor() as tensor, *_):
            return tensor
        case ("torch._tensor", "_rebuild_from_type_v2"), (_Name() as inner, _, tuple() as given, _):
            return _rebuild(inner, given, is_new=False)  # a tensor with attributes
        case ("collections", "OrderedDict"), ():
            return {}
        case ("argparse", "Namespace") | ("types", "SimpleNamespace"), ():
            return _Namespace()
        case _Name() as name, _ if name in _PASSED_OVER or name.module.startswith("megatron."):
            return _Opaque()
        case _Name() as name, () if is_new and name.module.partition(".")[0] not in _STANDARD:
            return _Namespace()
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
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "SHORT_BINSTRING", "BINSTRING", "STRING"),
}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = ("PROTO", "FRAME")


def load(file: IO[bytes], storages: dict[str, str] | None = None) -> Any:
    """Run one pickle on the machine above, and leave the file at its end.

    Args:
        file: at the pickle's beginning.
        storages: receives the type of each storage that the pickle names, by its key.

    Raises:
        RefusedError: it is damaged, or uses something that a state dict does not need.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about a name with a backslash, which is refused anyway
        return _run(file, storages)


def _run(file: IO[bytes], storages: dict[str, str] | None) -> Any:
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
        stack.append(_rebuild(stack.pop(), arguments, is_new=name == "NEWOBJ"))
    elif name == "BUILD":  # an OrderedDict's `_metadata`, which does not affect the numbers
        state = stack.pop()
        if isinstance(stack[-1], _Namespace) and isinstance(state, dict):
            stack[-1].update(cast("dict[Any, Any]", state))
        elif not isinstance(stack[-1], dict | _Opaque):
            raise RefusedError("it sets the state of an object")
    elif name in ("SETITEM", "APPEND"):
        value = stack.pop()
        _add([stack.pop(), value] if name == "SETITEM" else [value], stack[-1])
    elif name in ("SETITEMS", "APPENDS", "ADDITEMS", "TUPLE", "LIST", "DICT", "FROZENSET"):
        place = next((i for i in reversed(range(len(stack))) if stack[i] is _MARK), None)
        if place is None:
            raise RefusedError("its pickle is damaged: an instruction wants a mark that is not there")
        items = stack[place + 1 :]
        del stack[place:]
        if name == "TUPLE":
            stack.append(tuple(items))
        elif name in ("LIST", "DICT", "FROZENSET"):
            stack.append({} if name == "DICT" else [])
            _add(items, stack[-1])
        else:
            _add(items, stack[-1])
    else:
        raise RefusedError(f"it uses the instruction {name}")


def _add(items: list[Any], goal: Any) -> None:
    if type(goal) is list:
        goal.extend(items)
    elif isinstance(goal, _Opaque):
        return
    elif isinstance(goal, dict):
        goal = cast("dict[Any, Any]", goal)
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
