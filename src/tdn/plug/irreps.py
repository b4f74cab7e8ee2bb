"""Lists of irreps with multiplicities, read from e3nn's notation; no e3nn needed.

`"16x0e + 8x1o"` is sixteen even scalars, then eight odd vectors. In the layout `mul_ir` (e3nn's) the components of one
copy stand together, in `ir_mul` the copies of one component do.
"""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

from tdn.cp.couplings import Irrep
from tdn.errors import ConfigError


class MulIr(NamedTuple):
    """`mul` copies of the irrep `ir`."""

    mul: int
    ir: Irrep

    @property
    def dim(self) -> int:
        """Number of components of all copies."""
        return self.mul * (2 * self.ir.l + 1)

    def __str__(self) -> str:
        return f"{self.mul}x{self.ir}"


class SortedIrreps(NamedTuple):
    """Result of `Irreps.sort`: `irreps[p[i]]` was entry `i`, and entry `inv[k]` is now `irreps[k]`."""

    irreps: Irreps
    p: tuple[int, ...]
    inv: tuple[int, ...]


class Irreps(tuple[MulIr, ...]):
    """A list of irreps with multiplicities.

    Made from a notation such as "16x0e+8x1o", a list of `(mul, ir)` or of `(mul, (l, p))`, or any object whose `str`
    is in this notation, such as e3nn's.

    Raises:
        ConfigError: If the text cannot be read.
    """

    def __new__(cls, irreps: object = "") -> Irreps:
        """See the class."""
        if isinstance(irreps, Irreps):
            return irreps
        if isinstance(irreps, (list, tuple)) and type(irreps).__module__.partition(".")[0] != "e3nn":
            return super().__new__(cls, [_read_entry(entry) for entry in irreps])
        text = str(irreps).strip()
        return super().__new__(cls, [_read_term(term, text) for term in text.split("+")] if text else [])

    @property
    def dim(self) -> int:
        """Number of components."""
        return sum(entry.dim for entry in self)

    @property
    def num_irreps(self) -> int:
        """Sum of the multiplicities."""
        return sum(entry.mul for entry in self)

    @property
    def lmax(self) -> int:
        """Largest degree."""
        return max((entry.ir.l for entry in self), default=0)

    def slices(self) -> list[slice]:
        """Where each entry stands among the components."""
        starts = [0]
        for entry in self:
            starts.append(starts[-1] + entry.dim)
        return [slice(*bounds) for bounds in itertools.pairwise(starts)]

    def simplify(self) -> Irreps:
        """Neighbouring entries of one irrep joined, empty ones dropped."""
        joined: list[MulIr] = []
        for mul, ir in self:
            if joined and joined[-1].ir == ir:
                joined[-1] = MulIr(joined[-1].mul + mul, ir)
            elif mul:
                joined.append(MulIr(mul, ir))
        return Irreps(joined)

    def sort(self) -> SortedIrreps:
        """Entries in e3nn's order: by degree, inside a degree the odd ones first."""
        order = sorted(range(len(self)), key=lambda i: (self[i].ir, i))
        position = {old: new for new, old in enumerate(order)}
        places = tuple(position[i] for i in range(len(self)))
        return SortedIrreps(Irreps([self[i] for i in order]), places, tuple(order))

    def __str__(self) -> str:
        return "+".join(map(str, self))

    __repr__ = __str__


def couplings_of(first: Irrep, second: Irrep) -> list[Irrep]:
    """The irreps in the product of two, by degree."""
    lowest, highest = abs(first.l - second.l), first.l + second.l
    return [Irrep(l, first.p * second.p) for l in range(lowest, highest + 1)]


def read_irrep(irrep: object) -> Irrep:
    """An irrep from `(l, p)` or from anything whose `str` is like "1o".

    Raises:
        ConfigError: If it cannot be read.
    """
    if type(irrep) is tuple and len(irrep) == 2 and all(isinstance(value, int) for value in irrep):
        return Irrep(*irrep)
    if isinstance(irrep, Irrep):
        return irrep
    match = re.fullmatch(r"(\d+)([eo])", str(irrep).strip())
    if match is None:
        raise ConfigError(f"cannot read the irrep {irrep!r}: expected a degree followed by e or o, such as 1o")
    return Irrep(int(match[1]), 1 if match[2] == "e" else -1)


def _read_entry(entry: object) -> MulIr:
    if isinstance(entry, MulIr):
        return entry
    if type(entry) is tuple and len(entry) == 2:
        return MulIr(int(entry[0]), read_irrep(entry[1]))
    return _read_term(str(entry), str(entry))


def _read_term(term: str, text: str) -> MulIr:
    mul, times, ir = term.rpartition("x")
    if times and not mul.strip().isdigit():
        raise ConfigError(f"cannot read {term.strip()!r} in the irreps {text!r}: expected terms like 16x0e or 1o")
    return MulIr(int(mul) if times else 1, read_irrep(ir))
