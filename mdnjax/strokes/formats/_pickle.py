"""Reads a pickled NumPy array of numeric arrays, and can read nothing else.

A pickle is a program for a small stack machine. The machine here is our own and *calls nothing*: it
knows the operations in which pickles of such arrays are written (protocols 2 to 4, by Python 2 or
3, NumPy 1 or 2), and any other ends the reading. Its `find_class` admits these names and no others,
and gives a token for each, never the thing itself:

- `_reconstruct` of `numpy.core.multiarray`, or of `numpy._core.multiarray` as NumPy 2 writes it,
  and `numpy.ndarray`: an array to be;
- `numpy.dtype`: an element type to be, an integer, a float or "object";
- `_codecs.encode`: Python 3 writes bytes so in protocol 2, and NumPy before 1.17 saved with that.
  The machine encodes the text itself, as Latin-1 and as nothing else.

What is then built rests on our own checks: an array comes about only where there are exactly as
many bytes as its shape and type ask for. Time and memory grow no faster than the pickle.

Why not a subclass of `pickle.Unpickler`? Its `find_class` does not close it. The one written in C
looks in `copyreg`'s cache of extension codes before it asks `find_class`; nine bytes make it fill
gigabytes with an empty memo; and it hands an array's state to `ndarray.__setstate__` unseen.

References:
    The operations are documented in `pickletools`, in Python's library.
"""

import enum
import math
import pickle  # for the operations' names
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

# Python writes lists in batches of 1000, each element on the stack, and at least 5.8 bytes a memo.
_LARGEST_STACK = 10_000
_MOST_MARKS = 16
_BYTES_PER_MEMO = 4
_LONGEST_NAME = 100
# One array may stand in the list several times, at two bytes each time.
_MOST_REPEATED = 4
_ALWAYS_ALLOWED = 1 << 20


class PickleError(ValueError):
    """A pickle that is damaged, or is of something else than an array of numeric arrays."""


def load_arrays(data: bytes, start: int = 0) -> list[np.ndarray]:
    """Reads the pickle of an object array of one axis, whose elements are numeric arrays.

    Args:
        data: Bytes that end where the pickle ends.
        start: Where in them the pickle begins.

    Returns:
        The elements: integers or floats in the byte order they were written in, read-only.

    Raises:
        PickleError: It is of something else, or damaged. Nothing has been run.
    """
    return _Machine(data, start).run()


class _Name(enum.Enum):
    """What a pickle may name: tokens, which stand for things and cannot be called."""

    RECONSTRUCT = enum.auto()
    NDARRAY = enum.auto()
    DTYPE = enum.auto()
    ENCODE = enum.auto()


_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _Name.RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _Name.RECONSTRUCT,
    ("numpy", "ndarray"): _Name.NDARRAY,
    ("numpy", "dtype"): _Name.DTYPE,
    ("_codecs", "encode"): _Name.ENCODE,
}

# As `numpy.dtype` is called with them; the byte order comes later, with the state.
_NUMBERS = frozenset(["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])
_OBJECTS = frozenset(["O", "O4", "O8"])


class _Dtype:
    """An element type: made from its letters, complete with its state."""

    __slots__ = ("complete", "letters")

    def __init__(self, letters: str):
        self.letters = letters
        self.complete: np.dtype | None = None


class _Array:
    """An array: made empty, complete with its state, objects as the list they came in."""

    __slots__ = ("complete",)

    def __init__(self) -> None:
        self.complete: np.ndarray | list[np.ndarray] | None = None


class _Machine:
    """Runs one pickle; on its stack are tokens, plain values, and what is being built."""

    def __init__(self, data: bytes, start: int):
        self.data, self.at = data, start
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under the marks
        self.memo: dict[int, Any] = {}
        self.objects: list[np.ndarray] | None = None  # the one list there may be

    def run(self) -> list[np.ndarray]:
        """Runs to the end and gives the elements of the array that is left."""
        data, stop = self.data, pickle.STOP[0]
        try:
            while (code := data[self.at]) != stop:
                self.at += 1
                operation = _OPERATIONS.get(code)
                if operation is None:
                    self.refuse(f"operation 0x{code:02x}, which no array needs")
                operation(self)
                if len(self.stack) > _LARGEST_STACK:
                    self.refuse("a stack higher than arrays need")
        except IndexError:
            self.refuse("it ends too early" if self.at >= len(data) else "an empty stack")
        if self.at + 1 != len(data):
            self.refuse(f"{len(data) - self.at - 1:,} bytes after its end")
        left = self.stack[0] if len(self.stack) == 1 and not self.below else None
        if not isinstance(left, _Array) or not isinstance(left.complete, list):
            self.refuse("it does not end with an array of objects")
        claimed = sum(array.nbytes for array in left.complete)
        if claimed > _ALWAYS_ALLOWED + _MOST_REPEATED * len(data):
            self.refuse(f"repeats its arrays to {claimed:,} bytes, but has {len(data):,}")
        return left.complete

    def find_class(self, module: Any, name: Any) -> _Name:
        """The token of an admitted name."""
        if type(module) is not str or type(name) is not str:
            self.refuse("a name that is no text")
        if (module, name) not in _ADMITTED:
            self.refuse(f"the name {module[:60]}.{name[:60]}, which no array needs")
        return _ADMITTED[module, name]

    def refuse(self, reason: str) -> NoReturn:
        raise PickleError(f"byte {self.at} of its data: {reason}")

    def take(self, size: int) -> bytes:
        """The next bytes, if there are as many."""
        end = self.at + size
        if end > len(self.data):
            self.refuse(f"claims {size:,} bytes, but {len(self.data) - self.at:,} are left")
        taken, self.at = self.data[self.at : end], end
        return taken

    def number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def counted(self, width: int) -> bytes:
        """Bytes behind their number, which stands in `width` bytes."""
        return self.take(self.number(width))

    def text(self, width: int) -> str:
        """As `counted`, in UTF-8."""
        try:
            return self.counted(width).decode()
        except UnicodeDecodeError:
            self.refuse("text that is not UTF-8")

    # The operations.

    def protocol(self) -> None:
        version = self.number(1)
        if not 2 <= version <= 4:
            self.refuse(f"protocol {version}, expected 2 to 4")

    def frame(self) -> None:
        size = self.number(8)
        if size > len(self.data) - self.at:
            self.refuse(f"claims {size:,} bytes, but {len(self.data) - self.at:,} are left")

    def long_number(self) -> None:
        size = self.number(1)
        if size > 8:
            self.refuse(f"a number of {size} bytes")
        self.stack.append(self.number(size, signed=True))

    def mark(self) -> None:
        if len(self.below) >= _MOST_MARKS:
            self.refuse("deeper than arrays are")
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        since, self.stack = self.stack, self.below.pop()
        return since

    def tuple_of(self, values: list[Any]) -> None:
        for value in values:
            if type(value) is tuple and any(type(inner) is tuple for inner in value):
                self.refuse("deeper than arrays are")
        self.stack.append(tuple(values))

    def last(self, size: int) -> list[Any]:
        if len(self.stack) < size:
            self.refuse("an empty stack")
        values = self.stack[-size:]
        del self.stack[-size:]
        return values

    def empty_list(self) -> None:
        if self.objects is not None:
            self.refuse("a second list")
        self.objects = []
        self.stack.append(self.objects)

    def append(self, values: list[Any]) -> None:
        if self.objects is None or self.stack[-1] is not self.objects:
            self.refuse("adds to what is no list")
        for value in values:
            if not isinstance(value, _Array) or not isinstance(value.complete, np.ndarray):
                self.refuse("an element that is no numeric array")
            self.objects.append(value.complete)

    def keep(self, index: int) -> None:
        self.memo[index] = self.stack[-1]
        if _BYTES_PER_MEMO * len(self.memo) > _LARGEST_STACK + len(self.data):
            self.refuse("keeps more than arrays need")

    def recall(self, index: int) -> None:
        if index not in self.memo:
            self.refuse(f"recalls number {index}, which it has not kept")
        self.stack.append(self.memo[index])

    def name_in_lines(self) -> None:
        middle = self.data.find(b"\n", self.at, self.at + _LONGEST_NAME)
        end = self.data.find(b"\n", middle + 1, middle + 1 + _LONGEST_NAME)
        if middle < 0 or end < 0:
            self.refuse("a name without an end")
        module, name = self.data[self.at : middle], self.data[middle + 1 : end]
        self.stack.append(self.find_class(module.decode("latin-1"), name.decode("latin-1")))
        self.at = end + 1

    def name_on_stack(self) -> None:
        module, name = self.last(2)
        self.stack.append(self.find_class(module, name))

    def reduce(self) -> None:
        """Makes what calling the name would make."""
        name, arguments = self.last(2)
        given = _plain(arguments)
        made: Any = None
        if name is _Name.RECONSTRUCT and given == (_Name.NDARRAY, (0,), "b"):
            made = _Array()
        elif name is _Name.DTYPE and given[1:] == (0, 1) and type(given[0]) is str:
            made = _Dtype(given[0]) if given[0] in _NUMBERS | _OBJECTS else None
        elif name is _Name.ENCODE and given[1:] in (("latin1",), ("latin-1",)):
            made = self.encoded(arguments[0])
        if made is None:
            self.refuse("a call that no array needs")
        self.stack.append(made)

    def encoded(self, text: Any) -> bytes | None:
        try:
            return text.encode("latin-1") if type(text) is str else None
        except UnicodeEncodeError:
            self.refuse("text that does not stand for bytes")

    def build(self) -> None:
        """Completes an element type or an array with its state, once."""
        target, state = self.last(2)
        if not isinstance(target, _Dtype | _Array) or target.complete is not None:
            self.refuse("a state for what takes none")
        if isinstance(target, _Dtype):
            target.complete = self.dtype(target.letters, _plain(state))
        else:
            target.complete = self.array(state)
        self.stack.append(target)

    def dtype(self, letters: str, state: tuple[Any, ...]) -> np.dtype:
        # Version, order, and that there are no subarray, names, fields, size of its own; flags.
        if len(state) != 8 or state[0] != 3 or state[2:7] != (None, None, None, -1, -1):
            self.refuse("a dtype that is neither a number nor an object")
        if letters in _OBJECTS:
            return np.dtype("O")
        if state[1] not in (("|",) if letters[1] == "1" else ("<", ">")):
            self.refuse(f"a byte order that {letters} does not have")
        return np.dtype(state[1] + letters)

    def array(self, state: Any) -> np.ndarray | list[np.ndarray]:
        types = [type(part) for part in state] if type(state) is tuple else []
        if (
            types[:3] != [int, tuple, _Dtype]
            or types[3:4] not in ([bool], [int])
            or len(types) != 5
        ):
            self.refuse("an array's state that is not (version, shape, dtype, order, data)")
        version, shape, element, fortran, data = state
        dtype = element.complete
        if version != 1 or dtype is None or not all(type(n) is int and n >= 0 for n in shape):
            self.refuse("an array of an unknown version, dtype or shape")
        if dtype.kind == "O":
            if self.objects is None or data is not self.objects or shape != (len(data),):
                self.refuse("an array of objects that is no list, or not as long as it claims")
            return data
        claimed = math.prod(shape[:8]) * dtype.itemsize
        if type(data) is not bytes or len(data) != claimed or len(shape) > 8:
            here = f"{len(data):,} bytes" if type(data) is bytes else "something else"
            self.refuse(f"an array that claims {claimed:,} bytes and has {here}")
        try:
            return np.ndarray(shape, dtype, buffer=data, order="F" if fortran else "C")
        except (OverflowError, ValueError):  # nothing, but of a shape beyond all bounds
            self.refuse("an array of an impossible shape")


def _plain(values: Any) -> tuple[Any, ...]:
    """A tuple whose byte strings are text, as Python 3 writes what Python 2 wrote as bytes."""
    if type(values) is not tuple:
        return ()
    return tuple(
        value[:_LONGEST_NAME].decode("latin-1") if type(value) is bytes else value
        for value in values
    )


_Operation = Callable[[_Machine], Any]


def _push(value: Callable[[_Machine], Any]) -> _Operation:
    return lambda machine: machine.stack.append(value(machine))


_OPERATIONS: dict[int, _Operation] = {
    code[0]: operation
    for code, operation in (
        (pickle.PROTO, _Machine.protocol),
        (pickle.FRAME, _Machine.frame),
        (pickle.NONE, _push(lambda _: None)),
        (pickle.NEWFALSE, _push(lambda _: False)),
        (pickle.NEWTRUE, _push(lambda _: True)),
        (pickle.BININT1, _push(lambda machine: machine.number(1))),
        (pickle.BININT2, _push(lambda machine: machine.number(2))),
        (pickle.BININT, _push(lambda machine: machine.number(4, signed=True))),
        (pickle.LONG1, _Machine.long_number),
        (pickle.SHORT_BINSTRING, _push(lambda machine: machine.counted(1))),
        (pickle.BINSTRING, _push(lambda machine: machine.counted(4))),
        (pickle.SHORT_BINBYTES, _push(lambda machine: machine.counted(1))),
        (pickle.BINBYTES, _push(lambda machine: machine.counted(4))),
        (pickle.BINBYTES8, _push(lambda machine: machine.counted(8))),
        (pickle.SHORT_BINUNICODE, _push(lambda machine: machine.text(1))),
        (pickle.BINUNICODE, _push(lambda machine: machine.text(4))),
        (pickle.MARK, _Machine.mark),
        (pickle.EMPTY_TUPLE, lambda machine: machine.tuple_of([])),
        (pickle.TUPLE, lambda machine: machine.tuple_of(machine.since_mark())),
        (pickle.TUPLE1, lambda machine: machine.tuple_of(machine.last(1))),
        (pickle.TUPLE2, lambda machine: machine.tuple_of(machine.last(2))),
        (pickle.TUPLE3, lambda machine: machine.tuple_of(machine.last(3))),
        (pickle.EMPTY_LIST, _Machine.empty_list),
        (pickle.APPEND, lambda machine: machine.append(machine.last(1))),
        (pickle.APPENDS, lambda machine: machine.append(machine.since_mark())),
        (pickle.BINPUT, lambda machine: machine.keep(machine.number(1))),
        (pickle.LONG_BINPUT, lambda machine: machine.keep(machine.number(4))),
        (pickle.MEMOIZE, lambda machine: machine.keep(len(machine.memo))),
        (pickle.BINGET, lambda machine: machine.recall(machine.number(1))),
        (pickle.LONG_BINGET, lambda machine: machine.recall(machine.number(4))),
        (pickle.GLOBAL, _Machine.name_in_lines),
        (pickle.STACK_GLOBAL, _Machine.name_on_stack),
        (pickle.REDUCE, _Machine.reduce),
        (pickle.BUILD, _Machine.build),
    )
}
