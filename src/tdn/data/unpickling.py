"""Foreign pickles read through an allow-list: nothing in the file is ever executed, and nothing in it can exhaust us.

A pickle is a program. Before it runs, every instruction is looked at: instructions that could reach code are refused
unless the global that they name is listed; lengths and memo indices beyond the data are refused, since C's unpickler
would allocate for them first; tuples as dictionary keys are refused, since nested ones take exponential time to hash.
What is listed is never the original but a constructor of our own, so that no code of another package runs either.

Records of plain values take a fast path: one regular expression skips over whole runs of scalars.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tdn.errors import DataError

Allowed = Mapping[tuple[str, str], Callable[..., Any]]
MAX_MEMO = 1 << 22  # C's unpickler allocates 16 bytes for every index below the largest


@dataclass(frozen=True)
class Limits:
    """What a record may take.

    Attributes:
        max_bytes: Of the pickle, after decompression; scalars take at most 16 times as much memory.
        max_objects: Lists, dictionaries and other containers.
        max_depth: Containers within containers.
    """

    max_bytes: int = 64 << 20
    max_objects: int = 2_000_000
    max_depth: int = 32


def loads(data: bytes, allowed: Allowed | None = None, limits: Limits = Limits()) -> Any:
    """The value of a pickle of any protocol.

    Args:
        data: The pickle, and nothing after it.
        allowed: What may be made besides None, booleans, numbers, text, bytes, lists, tuples and dictionaries, by
            module and name: a constructor that is safe with any arguments (`tdn.data.foreign`).
        limits: What it may take.

    Raises:
        DataError: If it names a global that is not allowed, exceeds a limit, or is damaged; nothing was executed.
    """
    if len(data) > limits.max_bytes:
        raise DataError(f"A pickle of {len(data)} bytes is larger than the limit of {limits.max_bytes} bytes.")
    allowed = allowed or {}
    if not _is_plain(data, limits):
        _Inspector(allowed, limits).inspect(data)
    try:
        value = _Unpickler(data, allowed).load()
    except DataError:
        raise
    # Damaged pickles raise whatever they run into, from the unpickler or from a constructor with odd arguments.
    except Exception as error:
        raise DataError(f"A pickle is damaged ({type(error).__name__}: {error}).") from None
    _check_depth(value, limits)
    return value


def decompress(data: bytes, max_bytes: int = Limits().max_bytes) -> bytes:
    """Content of a gzip stream, unless it is larger than `max_bytes`: a small file may hold terabytes.

    Raises:
        DataError: If it is larger, damaged or cut off.
    """
    parts, size, rest = [], 0, data
    while rest:
        stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        try:
            parts.append(stream.decompress(rest, max_bytes - size + 1))
        except zlib.error as error:
            raise DataError(f"A gzip stream is damaged ({error}).") from None
        size += len(parts[-1])
        if size > max_bytes:
            raise DataError(f"A gzip stream of {len(data)} bytes holds more than the limit of {max_bytes} bytes.")
        if not stream.eof:
            raise DataError(f"A gzip stream is cut off after {len(data)} bytes.")
        rest = stream.unused_data
    return b"".join(parts)


class _Unpickler(pickle.Unpickler):
    """The second line of defence: whatever the inspection may have missed, only listed constructors are handed out."""

    def __init__(self, data: bytes, allowed: Allowed) -> None:
        super().__init__(io.BytesIO(data))
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        return find_allowed(module, name, self._allowed)

    def persistent_load(self, pid: Any) -> Any:
        raise DataError("A pickle refers to objects outside itself (persistent id), which is not allowed.")


def find_allowed(module: str, name: str, allowed: Allowed) -> Callable[..., Any]:
    """The constructor that stands for a global.

    Raises:
        DataError: If it is not listed.
    """
    try:
        return allowed[module, name]
    except KeyError:
        raise DataError(
            f"A pickle names {module}.{name}, which is not on the list of what may be read: such a file can run any "
            "code when it is unpickled. It is damaged, of another format, or malicious; nothing was executed."
        ) from None


# Instructions that make no container and allocate no more than a few times their own length: None, booleans, numbers,
# short text, the memo, marks, and filling lists and dictionaries.
_SHORT_TEXT = b"|".join(
    rb"X%b\x00\x00\x00.{%d}|\x8c%b.{%d}" % (re.escape(bytes([n])), n, re.escape(bytes([n])), n) for n in range(25)
)
_RUN = re.compile(
    rb"(?s:[Khq].|G.{8}|[N\x88\x89(aesu\x94)]|M..|[Jj].{4}|r..[\x00-\x3f]\x00|[FIVSg][^\n]*\n|p\d{1,6}\n|"
    + _SHORT_TEXT
    + rb")*+"
)
_CONTAINERS = frozenset(b"]}ld")
# Instruction -> bytes of its length field; its content follows.
_SIZED = {
    **dict.fromkeys(b"XTB\x8b", 4),
    **dict.fromkeys(b"\x8cUC\x8a", 1),
    **dict.fromkeys(b"\x8d\x8e\x96", 8),
}


def _is_plain(data: bytes, limits: Limits) -> bool:
    """Whether the pickle makes nothing but scalars, lists and dictionaries, within the limits.

    Raises:
        DataError: If it exceeds a limit or is cut off.
    """
    position, objects = 0, 0
    while True:
        match = _RUN.match(data, position)
        position = match.end() if match else position
        if position >= len(data):
            raise DataError(f"A pickle is cut off after {len(data)} bytes.")
        code = data[position]
        position += 1
        if code in _CONTAINERS:
            objects += 1
            if objects > limits.max_objects:
                raise DataError(f"A pickle makes more than the limit of {limits.max_objects} containers.")
        elif code in _SIZED:
            start = position + _SIZED[code]
            position = start + int.from_bytes(data[position:start], "little")
        elif code == 0x80:  # PROTO
            position += 1
        elif code == 0x95:  # FRAME: its content is read as if it were not there
            size = int.from_bytes(data[position : position + 8], "little")
            position += 8
            if size > len(data) - position:
                raise DataError(f"A pickle announces a frame of {size} bytes and has {len(data) - position} left.")
        elif code == ord("."):
            _check_end(position, len(data))
            return True
        else:
            return False
        if position > len(data):
            raise DataError(f"A pickle is cut off after {len(data)} bytes, in the middle of a value.")


def _check_end(position: int, size: int) -> None:
    if position != size:
        raise DataError(f"A pickle ends after {position} of {size} bytes: what follows is unknown.")


_TUPLE = object()  # kinds of stack entries: this for tuples, `_Global` for globals, text itself, None for all else


@dataclass(frozen=True)
class _Global:
    module: str
    name: str


class _Inspector:
    """Runs a pickle on paper: what each instruction would leave on the stack, as far as safety depends on it."""

    TO_MARK = frozenset({"LIST", "DICT", "APPENDS", "SETITEMS", "POP_MARK", "TUPLE"})
    REMOVED = {  # noqa: RUF012
        **{"POP": 1, "APPEND": 1, "SETITEM": 2, "REDUCE": 2, "BUILD": 1, "NEWOBJ": 2},
        **{"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3},
    }
    SCALARS = frozenset(
        {
            *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
            *("FLOAT", "BINFLOAT", "BINBYTES", "BINBYTES8", "SHORT_BINBYTES", "BYTEARRAY8"),
        }
    )
    TEXT = frozenset(
        {
            *("STRING", "BINSTRING", "SHORT_BINSTRING"),
            *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        }
    )
    MAKES = {  # noqa: RUF012
        **dict.fromkeys(("EMPTY_LIST", "EMPTY_DICT", "LIST", "DICT", "REDUCE", "NEWOBJ")),
        **dict.fromkeys(("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"), _TUPLE),
    }

    def __init__(self, allowed: Allowed, limits: Limits) -> None:
        self.allowed, self.limits = allowed, limits
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stack below each mark
        self.memo: dict[int, Any] = {}
        self.objects = 0

    def inspect(self, data: bytes) -> None:
        """Look at every instruction.

        Raises:
            DataError: If one is not allowed, exceeds a limit, or the pickle is damaged.
        """
        try:
            for opcode, argument, position in pickletools.genops(data):
                if opcode.name == "FRAME" and (argument or 0) > len(data):
                    raise DataError(f"A pickle of {len(data)} bytes announces a frame of {argument} bytes.")
                self._step(opcode.name, argument)
                if opcode.name == "STOP":
                    _check_end((position or 0) + 1, len(data))
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"A pickle is damaged ({type(error).__name__}: {error}).") from None

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in self.SCALARS:
            stack.append(None)
        elif name in self.TEXT:
            stack.append(argument)
        elif name == "MARK":
            self.below.append(stack)
            self.stack = []
        elif name.endswith("GET"):
            stack.append(self.memo[int(argument)])
        elif name.endswith("PUT") or name == "MEMOIZE":
            self._remember(len(self.memo) if name == "MEMOIZE" else int(argument))
        elif name == "DUP":
            stack.append(stack[-1])
        elif name.endswith("GLOBAL"):
            self._push_global(*(str(argument).split(" ", 1) if name == "GLOBAL" else self._pop(2)))
        elif name in self.REMOVED or name in self.TO_MARK or name in self.MAKES:
            self._combine(name)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise DataError(f"A pickle uses the instruction {name}, which is not allowed; nothing was executed.")

    def _combine(self, name: str) -> None:
        """Instructions that take things off the stack, or make containers of them."""
        items = self._pop_to_mark() if name in self.TO_MARK else self._pop(self.REMOVED.get(name, 0))
        if name in ("SETITEM", "SETITEMS", "DICT") and _TUPLE in items[::2]:
            raise DataError("A pickle has tuples as keys of a dictionary, which is not allowed: they may take forever.")
        if name in ("REDUCE", "NEWOBJ") and not (isinstance(items[0], _Global) and items[1] is _TUPLE):
            raise DataError(f"A pickle calls something other than a global ({name}), which is not allowed.")
        if name in ("BUILD", "APPEND", "APPENDS", "SETITEM", "SETITEMS") and isinstance(self.stack[-1], _Global):
            raise DataError(f"A pickle would change a global ({name}), which is not allowed.")
        if name in self.MAKES:
            self.objects += 1
            if self.objects > self.limits.max_objects:
                raise DataError(f"A pickle makes more than the limit of {self.limits.max_objects} containers.")
            self.stack.append(self.MAKES[name])

    def _remember(self, index: int) -> None:
        if not 0 <= index < MAX_MEMO:
            raise DataError(f"A pickle uses the memo index {index}; the limit is {MAX_MEMO}.")
        self.memo[index] = self.stack[-1]

    def _push_global(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise DataError("A pickle computes the name of a global, which is not allowed.")
        find_allowed(module, name, self.allowed)
        self.stack.append(_Global(module, name))

    def _pop(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise DataError("A pickle is damaged: it takes more off its stack than is there.")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def _pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items


_NESTED = frozenset({list, tuple, dict})


def _check_depth(value: Any, limits: Limits) -> None:
    """Refuse deep nesting, level by level, so that whoever walks the value by recursion does not run out of stack."""
    level, seen = [value], set()
    for _ in range(limits.max_depth + 1):
        below = []
        for item in level:
            if id(item) not in seen and type(item) in _NESTED:
                seen.add(id(item))
                values = item.values() if type(item) is dict else item
                below += [child for child in values if type(child) in _NESTED]
        if not below:
            return
        level = below
    raise DataError(f"A pickle nests containers more deeply than the limit of {limits.max_depth}.")
