"""Reading .npy files of pickled objects without unpickling: arrays, dicts, lists, texts and numbers, and no code.

NumPy writes a dict into a .npy file as a pickle, and a pickle is a program: whoever loads it runs it. `read_npy` runs
none. It walks through the opcodes itself, builds plain values, and refuses every other name and opcode before anything
is looked up; nothing is imported by name. So it needs no unpickler, and a large array can stay where it is: the bytes
of an array are one block in the stream (opcodes BINBYTES of protocol 3; BINBYTES8 of protocol 4, which stands between
frames; BYTEARRAY8 of protocol 5), whose place in the file becomes a memory-mapped array. Nothing large is read
before it is used, and `Content.release` gives back the memory of what was.
"""

from __future__ import annotations

import io
import mmap
import re
import struct
import sys
import tokenize
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxalign.errors import DataError

CALLABLES = {
    **{(f"numpy.{core}.multiarray", name): name for core in ("core", "_core") for name in ("_reconstruct", "scalar")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): "_frombuffer" for core in ("core", "_core")},
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    **{
        (module, name): name
        for module in ("builtins", "__builtin__")
        for name in ("dict", "list", "tuple", "str", "int", "float", "bool")
    },
}
"""The only names that a file may use, and what each stands for. They are never looked up: see _Machine._call."""

REMEDY = (
    "Files of arrays, dicts, lists, texts and numbers are read. If you trust the file, save it again with these only."
)

_BUILTINS: dict[str, type] = {kind.__name__: kind for kind in (dict, list, tuple, str, int, float, bool)}
_PLAIN_DTYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|c8|c16|[US]\d{1,6}|O8?)")
_MARK = object()


@dataclass(frozen=True)
class Content:
    """What a file holds.

    Attributes:
        value: an array, or plain values (dict, list, tuple, str, int, float, bool, None) with arrays inside. Arrays are
            read-only views of the mapped file, in the dtype and byte order of the file.
        n_bytes: size of the file.
        release: gives back the memory of the pages read so far; arrays stay valid and are read again when used.
    """

    value: Any
    n_bytes: int
    release: Callable[[], None]


@dataclass(frozen=True)
class _Name:
    """A name that the file uses, never looked up."""

    kind: str


@dataclass
class _Dtype:
    """A dtype whose byte order comes after it."""

    dtype: np.dtype


@dataclass
class _Array:
    """An array whose shape and bytes come after it; `value` is there then."""

    value: np.ndarray | None = None


@dataclass(frozen=True)
class _Block:
    """Bytes of the file, not read."""

    start: int
    size: int


def read_npy(path: Path) -> Content:
    """Read a .npy file, or a bare pickle that carries this suffix, executing nothing.

    Args:
        path: the file. A 0-dimensional array of an object, as numpy.save writes a dict, comes back as the object.
    Returns:
        Its content; arrays are memory-mapped where they lie.
    Raises:
        DataError: if the file is missing, torn, of another format, or holds anything but arrays and plain values; a
            refused name is given as module.name.
    """
    try:
        with path.open("rb") as file:
            stream = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}. Check the file and its rights.") from error
    try:
        value = _value(stream)
    except _RefusedError as error:
        raise DataError(f"{path} is refused: {error}. Nothing of it was executed. {REMEDY}") from error
    except (
        _TornError,
        IndexError,
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        RecursionError,
        struct.error,
    ) as error:
        what = error if isinstance(error, _TornError) else f"it cannot be followed ({type(error).__name__}: {error})"
        raise DataError(
            f"{path} ({len(stream)} bytes) is no whole .npy file: {what}. Download or copy it again."
        ) from error
    return Content(value, len(stream), lambda: _release(stream))


def _release(stream: mmap.mmap) -> None:
    if hasattr(mmap, "MADV_DONTNEED"):
        stream.madvise(mmap.MADV_DONTNEED)


class _RefusedError(Exception):
    """The file asks for something that is not allowed."""


class _TornError(Exception):
    """The file ends early, or is none of ours."""


def _value(stream: mmap.mmap) -> Any:
    if stream[:1] == b"\x80":  # the PROTO opcode: a bare pickle, as the 250 Hz release is written
        return _settled(_Machine(stream, 0).run(), {})
    if stream[:6] != np.lib.format.MAGIC_PREFIX:
        raise _TornError(f"it begins with {stream[:6]!r}, not with {np.lib.format.MAGIC_PREFIX!r}")
    head = io.BytesIO(stream[: 1 << 16])
    major, _ = np.lib.format.read_magic(head)
    reader = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    try:
        shape, is_fortran, dtype = reader(head)
    except (SyntaxError, tokenize.TokenError) as error:
        raise _TornError(f"its header cannot be read ({error})") from error
    if not dtype.hasobject:
        _check_dtype(dtype)
        return _mapped(stream, _Block(head.tell(), len(stream) - head.tell()), shape, dtype, is_fortran)
    found = _settled(_Machine(stream, head.tell()).run(), {})
    is_single = isinstance(found, np.ndarray) and found.dtype.hasobject and found.shape == shape == ()
    return found.item() if is_single else found


def _mapped(stream: mmap.mmap, block: _Block, shape: Any, dtype: np.dtype, is_fortran: bool) -> np.ndarray:
    """An array on the bytes where they lie; read-only, and aligned only by chance."""
    if not all(isinstance(length, int) and length >= 0 for length in shape):
        raise _TornError(f"an array has shape {shape}")
    n_bytes = dtype.itemsize
    for length in shape:
        n_bytes *= length
    if n_bytes != block.size:
        raise _TornError(f"an array of shape {shape} and type {dtype} needs {n_bytes} bytes and has {block.size}")
    order: Any = "F" if is_fortran else "C"
    if n_bytes == 0:
        return np.empty(shape, dtype, order)
    if dtype.kind == "U":
        codes = np.frombuffer(stream, f"{dtype.byteorder}u4", n_bytes // 4, block.start)
        if codes.max() > sys.maxunicode:
            raise _TornError(f"a text has the character {codes.max()}")
    return np.ndarray(shape, dtype, stream, block.start, order=order)


def _check_dtype(dtype: np.dtype) -> np.dtype:
    if dtype.fields is not None or not _PLAIN_DTYPE.fullmatch(dtype.str):
        raise _RefusedError(f"it holds an array of type {dtype}, which is not of numbers or texts")
    return dtype


def _settled(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    """Put finished arrays in the place of their holders; what occurs often is done once. done: id -> (before, after)"""
    if isinstance(value, _Dtype):
        return value.dtype
    if isinstance(value, _Name | _Block):
        what = f"the name {value.kind} as a value" if isinstance(value, _Name) else f"{value.size} bytes"
        raise _RefusedError(f"it holds {what}, and that is no array and no plain value")
    if id(value) in done:
        return done[id(value)][1]
    if isinstance(value, list | dict):
        done[id(value)] = (value, value)
    if isinstance(value, list):
        value[:] = [_settled(one, done) for one in value]
    elif isinstance(value, dict):
        value.update({key: _settled(one, done) for key, one in value.items()})
    elif isinstance(value, tuple):
        done[id(value)] = (value, tuple(_settled(one, done) for one in value))
        return done[id(value)][1]
    elif isinstance(value, _Array):
        done[id(value)] = (value, _settled_array(value.value, done))
        return done[id(value)][1]
    return value


def _settled_array(value: np.ndarray | None, done: dict[int, tuple[Any, Any]]) -> np.ndarray:
    if value is None:
        raise _TornError("an array has no content")
    if value.dtype.hasobject:
        for place in np.ndindex(value.shape):
            value[place] = _settled(value[place], done)
    return value


@dataclass
class _Machine:
    """The stack machine of pickles, protocols 2 to 5, without the opcodes that could call anything."""

    stream: mmap.mmap
    at: int
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self) -> Any:
        """Follow the opcodes to the end."""
        while True:
            code = self._take(1)
            if code == b".":
                return self._pop()
            step = _STEPS.get(code)
            if step is None:
                raise _RefusedError(f"it uses opcode {code!r}{_MEANING.get(code, '')} at byte {self.at - 1}")
            step(self)

    # Reading

    def _take(self, size: int) -> bytes:
        return bytes(self.stream[self.at : self._advance(size)])

    def _advance(self, size: int) -> int:
        if self.at + size > len(self.stream):
            raise _TornError(f"byte {self.at} needs {size} more and {len(self.stream) - self.at} are left")
        self.at += size
        return self.at

    def _number(self, form: str) -> Any:
        return struct.unpack("<" + form, self._take(struct.calcsize(form)))[0]

    def _line(self) -> str:
        end = self.stream.find(b"\n", self.at, self.at + 10_000)
        if end < 0:
            raise _TornError(f"a line at byte {self.at} does not end")
        text = self.stream[self.at : end]
        self.at = end + 1
        return text.decode("utf-8", "replace")

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise _TornError(f"a value is missing at byte {self.at}")
        return value

    def _since_mark(self) -> list[Any]:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                found = self.stack[place + 1 :]
                del self.stack[place:]
                return found
        raise _TornError(f"a mark is missing at byte {self.at}")

    # Steps

    def text(self, form: str) -> None:
        """A text, its length in front."""
        self._push(self._take(self._number(form)).decode("utf-8", "surrogatepass"))

    def block(self, form: str) -> None:
        """Bytes: only their place."""
        size = self._number(form)
        self._push(_Block(self.at, size))
        self._advance(size)

    def long(self, form: str) -> None:
        """An integer of any size."""
        self._push(int.from_bytes(self._take(self._number(form)), "little", signed=True))

    def name(self) -> None:
        """A name in two lines."""
        module, name = self._line(), self._line()
        self._named(module, name)

    def stacked_name(self) -> None:
        """A name from the stack."""
        name, module = self._pop(), self._pop()
        self._named(module, name)

    def _named(self, module: Any, name: Any) -> None:
        kind = CALLABLES.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if kind is None:
            raise _RefusedError(f"it names {module}.{name}, which is no array and no plain value")
        self._push(_Name(kind))

    def refused_name(self) -> None:
        """An instance by name (protocol 0)."""
        raise _RefusedError(f"it makes an instance of {self._line()}.{self._line()}")

    def append_all(self, values: list[Any]) -> None:
        """Extend a list."""
        if not isinstance(self.stack[-1], list):
            raise _TornError(f"{type(self.stack[-1]).__name__} is no list at byte {self.at}")
        self.stack[-1].extend(values)

    def set_all(self, values: list[Any]) -> None:
        """Set items of a dict, keys and values in turn."""
        into, keys = self.stack[-1], values[::2]
        if not isinstance(into, dict) or len(values) % 2:
            raise _TornError(f"{type(into).__name__} takes no {len(values)} keys and values at byte {self.at}")
        for key in keys:
            if not isinstance(key, str | int | float | tuple | None):
                raise _RefusedError(f"it has a {type(key).__name__} as a key")
        into.update(zip(keys, values[1::2], strict=True))

    def call(self) -> None:
        """Carry out one of the permitted names."""
        arguments, name = self._pop(), self._pop()
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise _RefusedError(f"it calls a {type(name).__name__} at byte {self.at - 1}")
        self._push(self._call(name.kind, arguments))

    def _call(self, kind: str, arguments: tuple[Any, ...]) -> Any:
        if kind == "_reconstruct" and arguments[:1] == (_Name("ndarray"),):
            return _Array()
        if kind == "dtype" and arguments and isinstance(arguments[0], str):
            if not _PLAIN_DTYPE.fullmatch(arguments[0]):
                raise _RefusedError(f"it holds an array of type {arguments[0]!r}, which is not of numbers or texts")
            return _Dtype(np.dtype(arguments[0]))
        if kind == "scalar" and len(arguments) == 2:
            return self._array((), arguments[0], arguments[1], False)[()]
        if kind == "_frombuffer" and len(arguments) == 4:
            block, dtype, shape, order = arguments
            return _Array(self._array(shape, dtype, block, order == "F"))
        plain = _BUILTINS.get(kind)
        if plain is not None and len(arguments) <= 1:
            if not all(isinstance(one, plain) or (plain is tuple and isinstance(one, list)) for one in arguments):
                raise _RefusedError(f"it makes a {kind} of a {type(arguments[0]).__name__}")
            return plain(*arguments)
        raise _RefusedError(f"it calls {kind} with {len(arguments)} arguments at byte {self.at - 1}")

    def build(self) -> None:
        """The state of an array or a dtype."""
        state = self._pop()
        into = self.stack[-1]
        if not isinstance(state, tuple) or not isinstance(into, _Array | _Dtype):
            raise _RefusedError(f"it sets the state of a {type(into).__name__} at byte {self.at - 1}")
        if isinstance(into, _Array):
            _, shape, dtype, is_fortran, content = state
            into.value = self._array(shape, dtype, content, bool(is_fortran))
            return
        if len(state) > 4 and any(part is not None for part in state[2:5]):
            raise _RefusedError("it holds an array of records, which is not of numbers or texts")
        if state[1] in ("<", ">", "="):
            into.dtype = into.dtype.newbyteorder(state[1])

    def _array(self, shape: Any, holder: Any, content: Any, is_fortran: bool) -> np.ndarray:
        if not isinstance(holder, _Dtype) or not isinstance(shape, tuple):
            raise _TornError(f"an array of type {type(holder).__name__} at byte {self.at}")
        if holder.dtype.hasobject:
            if not isinstance(content, list):
                raise _TornError(f"an array of objects holds a {type(content).__name__}")
            values = np.empty(len(content), object)
            for place, one in enumerate(content):  # one at a time: a list among them is not spread out
                values[place] = one
            return values.reshape(shape, order="F" if is_fortran else "C")
        if not isinstance(content, _Block):
            raise _RefusedError(f"the bytes of an array are a {type(content).__name__}: save it with protocol 3 to 5")
        return _mapped(self.stream, content, shape, holder.dtype, is_fortran)

    def keep(self, place: int) -> None:
        """Remember the top of the stack."""
        self.memo[place] = self.stack[-1]


_STEPS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: m._take(1),  # PROTO
    b"\x95": lambda m: m._take(8),  # FRAME: frames follow each other, and large blocks stand between them
    b"(": lambda m: m._push(_MARK),
    b"0": lambda m: m._pop(),
    b"1": lambda m: m._since_mark(),
    b"2": lambda m: m._push(m.stack[-1]),
    b"N": lambda m: m._push(None),
    b"\x88": lambda m: m._push(True),
    b"\x89": lambda m: m._push(False),
    b"J": lambda m: m._push(m._number("i")),
    b"K": lambda m: m._push(m._number("B")),
    b"M": lambda m: m._push(m._number("H")),
    b"\x8a": lambda m: m.long("B"),
    b"\x8b": lambda m: m.long("I"),
    b"G": lambda m: m._push(struct.unpack(">d", m._take(8))[0]),
    b"X": lambda m: m.text("I"),
    b"\x8c": lambda m: m.text("B"),
    b"\x8d": lambda m: m.text("Q"),
    b"B": lambda m: m.block("I"),
    b"C": lambda m: m.block("B"),
    b"\x8e": lambda m: m.block("Q"),
    b"\x96": lambda m: m.block("Q"),
    b")": lambda m: m._push(()),
    b"]": lambda m: m._push([]),
    b"}": lambda m: m._push({}),
    b"t": lambda m: m._push(tuple(m._since_mark())),
    b"\x85": lambda m: m._push((m._pop(),)),
    b"\x86": lambda m: m._push((m._pop(), m._pop())[::-1]),
    b"\x87": lambda m: m._push((m._pop(), m._pop(), m._pop())[::-1]),
    b"l": lambda m: m._push(m._since_mark()),
    b"a": lambda m: m.append_all([m._pop()]),
    b"e": lambda m: m.append_all(m._since_mark()),
    b"s": lambda m: m.set_all([m._pop(), m._pop()][::-1]),
    b"u": lambda m: m.set_all(m._since_mark()),
    b"q": lambda m: m.keep(m._number("B")),
    b"r": lambda m: m.keep(m._number("I")),
    b"\x94": lambda m: m.keep(len(m.memo)),
    b"h": lambda m: m._push(m.memo[m._number("B")]),
    b"j": lambda m: m._push(m.memo[m._number("I")]),
    b"c": _Machine.name,
    b"\x93": _Machine.stacked_name,
    b"i": _Machine.refused_name,
    b"R": _Machine.call,
    b"b": _Machine.build,
}
"""Opcode -> what it does to the machine."""

_MEANING = {
    b"\x81": " (a new object)",
    b"\x92": " (a new object)",
    b"o": " (a new object)",
    b"P": " (a persistent object)",
    b"Q": " (a persistent object)",
    b"\x82": " (a registered extension)",
    b"\x83": " (a registered extension)",
    b"\x84": " (a registered extension)",
    b"\x8f": " (a set)",
    b"\x91": " (a frozen set)",
    b"\x97": " (a buffer outside the file)",
}
