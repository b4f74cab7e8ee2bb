"""What a tensor product computes, as a list of bilinear terms; how to compute them is in `tdn.plug.kernels`.

Without sharing every instruction is a term of its own. With shared path weights all instructions of one mode and of
the same multiplicities use one weight (arXiv 2507.01131, section 3.3), and those that together make up a coupling
of `tdn.cp` become a single term with the factors of its table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from tdn.cp.couplings import Array, Irrep, Path, PathParity, degree_slice, wigner_3j
from tdn.cp.decomposition import Factors
from tdn.cp.tables import FactorTable, load_table
from tdn.errors import ConfigError, FactorTableError
from tdn.plug.instructions import Instruction
from tdn.plug.irreps import Irreps

Rank = Literal["exact", "paper"] | int | FactorTable


class WeightBlock(NamedTuple):
    """Weights of one path, or of all paths that share them, in the flat weight tensor."""

    start: int
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        """End of the block."""
        return self.start + math.prod(self.shape)  # not NumPy's: a compiled graph would break here


@dataclass(frozen=True)
class Term:
    """One bilinear map between stacked entries of equal multiplicity.

    Attributes:
        mode: How multiplicities connect.
        in1: Entries of the first input; their components are stacked in this order.
        in2: Entries of the second input.
        out: Entries of the output.
        coupling: `[d1, d2, d3]` between the stacked components, all factors included.
        weight: Its weights, None for a term without.
        factors: Low-rank factors of `coupling`, None where there are none.
    """

    mode: str
    in1: tuple[int, ...]
    in2: tuple[int, ...]
    out: tuple[int, ...]
    coupling: Array
    weight: WeightBlock | None = None
    factors: Factors | None = None


@dataclass(frozen=True)
class Plan:
    """The terms of a layer and where the weight of every instruction comes from.

    Attributes:
        terms: The terms, to be added.
        blocks: The independent blocks of weights.
        path_blocks: For every instruction its block, None if it has no weight.
        path_scales: For every instruction the factor between its weight and the block: the table's path weight, which
            is a few percent from one.
        unshared: Why paths that share weights are not in a low-rank term, one line a reason.
    """

    terms: tuple[Term, ...]
    blocks: tuple[WeightBlock, ...]
    path_blocks: tuple[WeightBlock | None, ...]
    path_scales: tuple[float, ...]
    unshared: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Block:
    """Instructions that together make up a coupling, and the table that holds its factors."""

    members: tuple[int, ...]
    table: FactorTable


def separate_paths(
    irreps: Sequence[Irreps], instructions: Sequence[Instruction], scales: Sequence[float], signs: Sequence[float]
) -> Plan:
    """One term and one block of weights a path, in e3nn's order.

    Args:
        irreps: Of the inputs and the output.
        instructions: The paths.
        scales: What multiplies each path.
        signs: Sign of each path's coupling, see `tdn.plug.signs`.
    """
    terms, path_blocks, start = [], [], 0
    for instruction, scale, sign in zip(instructions, scales, signs, strict=True):
        block = WeightBlock(start, instruction.path_shape) if instruction.has_weight else None
        start = block.stop if block else start
        path_blocks.append(block)
        terms.append(_path_term(irreps, instruction, sign * scale, block))
    blocks = tuple(block for block in path_blocks if block)
    return Plan(tuple(terms), blocks, tuple(path_blocks), (1.0,) * len(terms))


def shared_paths(
    irreps: Sequence[Irreps],
    instructions: Sequence[Instruction],
    scales: Sequence[float],
    signs: Sequence[float],
    rank: Rank,
) -> Plan:
    """Terms of paths that share weights; paths without weights stay as they are, signs included.

    Args:
        irreps: Of the inputs and the output.
        instructions: The paths.
        scales: What multiplies each path.
        signs: Sign of each path's coupling, see `tdn.plug.signs`; merged paths have the signs of their table.
        rank: See `CPTensorProduct`.

    Raises:
        FactorTableError: If a rank other than the exact one was asked for and no shipped table has it.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for n, (i1, i2, k, mode, has_weight, *_) in enumerate(instructions):
        if has_weight:
            groups.setdefault((mode, irreps[0][i1].mul, irreps[1][i2].mul, irreps[2][k].mul), []).append(n)
    signed = [scale * sign for scale, sign in zip(scales, signs, strict=True)]
    terms = [_path_term(irreps, i, s, None) for i, s in zip(instructions, signed, strict=True) if not i.has_weight]
    path_blocks: list[WeightBlock | None] = [None] * len(instructions)
    path_scales = [1.0] * len(instructions)
    blocks: list[WeightBlock] = []
    reasons: list[str] = []
    for members in groups.values():
        block = WeightBlock(blocks[-1].stop if blocks else 0, instructions[members[0]].path_shape)
        blocks.append(block)
        factored, rest, reason = _factored(irreps, instructions, scales, members, rank)
        for part in factored:
            terms.append(_low_rank_term(irreps, instructions, scales, part, block))
            for n in part.members:
                path_scales[n] = signs[n] * part.table.path_weights[path_of(irreps, instructions[n])]
        terms += [_path_term(irreps, instructions[n], signed[n], block) for n in rest]
        for n in members:
            path_blocks[n] = block
        reasons += [reason] if rest else []
    return Plan(tuple(terms), tuple(blocks), tuple(path_blocks), tuple(path_scales), tuple(dict.fromkeys(reasons)))


def path_of(irreps: Sequence[Irreps], instruction: Instruction) -> Path:
    """Degrees of an instruction."""
    i1, i2, k = instruction.entries
    return Path(irreps[0][i1].ir.l, irreps[1][i2].ir.l, irreps[2][k].ir.l)


def _path_term(irreps: Sequence[Irreps], instruction: Instruction, scale: float, block: WeightBlock | None) -> Term:
    i1, i2, k = instruction.entries
    coupling = scale * wigner_3j(*path_of(irreps, instruction))
    return Term(instruction.connection_mode, (i1,), (i2,), (k,), coupling, block)


def _factored(
    irreps: Sequence[Irreps],
    instructions: Sequence[Instruction],
    scales: Sequence[float],
    members: Sequence[int],
    rank: Rank,
) -> tuple[list[_Block], list[int], str]:
    """Split a group into blocks with factors and the instructions that stay alone, with the reason."""
    if len(members) == 1 and not isinstance(rank, FactorTable):
        return [], list(members), "a single path: nothing to merge"
    if _separable(instructions, scales, members) is None:
        return [], list(members), "path weights do not factor into one for each input and output"
    best: tuple[list[_Block], list[int]] | None = None
    errors: list[FactorTableError] = []
    for parity, family in _FAMILIES.items():
        try:
            blocks = list(_complete_blocks(irreps, instructions, members, parity, family, rank))
        except FactorTableError as error:
            errors.append(error)
            continue
        covered = {n for block in blocks for n in block.members}
        rest = [n for n in members if n not in covered]
        if best is None or _cost(blocks, rest) < _cost(*best):
            best = blocks, rest
    if best is None or (not best[0] and errors and rank != "exact"):
        raise errors[0]
    return *best, "paths have outputs of their own, or some that the coupling needs are missing (see merge_paths)"


def _cost(blocks: Sequence[_Block], rest: Sequence[int]) -> tuple[int, int]:
    return len(rest), sum(block.table.rank for block in blocks)


# A family is a set of irreps of distinct degrees: of one parity (every path, SO(3) tables), or of one parity relative
# to that of the spherical harmonics (paths of even l1 + l2 + l3, O(3) tables).
_FAMILIES: dict[PathParity, Callable[[Irrep], int]] = {
    "natural": lambda ir: ir.p * (-1) ** ir.l,
    "all": lambda ir: ir.p,
}


def _complete_blocks(
    irreps: Sequence[Irreps],
    instructions: Sequence[Instruction],
    members: Sequence[int],
    parity: PathParity,
    family: Callable[[Irrep], int],
    rank: Rank,
) -> Iterable[_Block]:
    names = [_family_names(irreps[role], (instructions[n].entries[role] for n in members), family) for role in range(3)]
    by_block: dict[tuple[object, ...], list[int]] = {}
    for n in members:
        by_block.setdefault(tuple(names[role][instructions[n].entries[role]] for role in range(3)), []).append(n)
    for found in by_block.values():
        paths = [path_of(irreps, instructions[n]) for n in found]
        complete = set(paths) == set(_wanted_paths(paths, parity)) and len(set(paths)) == len(paths) > 1
        # Factors pay where paths are summed, and where a scalar leaves nothing to couple.
        sums = len(paths) > len({path.l3 for path in paths}) or 0 in map(max, zip(*paths, strict=True))
        if complete and sums:
            yield _Block(tuple(found), _table(paths, parity, rank))


def _family_names(irreps: Irreps, used: Iterable[int], family: Callable[[Irrep], int]) -> dict[int, tuple[int, int]]:
    """Family and number of copy of every entry used; entries of the same irrep go to different families."""
    names: dict[int, tuple[int, int]] = {}
    seen: dict[Irrep, int] = {}
    for i in sorted(set(used)):
        ir = irreps[i].ir
        names[i] = (family(ir), seen.get(ir, 0))
        seen[ir] = seen.get(ir, 0) + 1
    return names


def _wanted_paths(paths: Iterable[Path], parity: PathParity) -> Iterable[Path]:
    degrees = [sorted({path[role] for path in paths}) for role in range(3)]
    for l1 in degrees[0]:
        for l2 in degrees[1]:
            for l3 in degrees[2]:
                even = (l1 + l2 + l3) % 2 == 0
                if abs(l1 - l2) <= l3 <= l1 + l2 and (even or parity == "all"):
                    yield Path(l1, l2, l3)


def _table(paths: Sequence[Path], parity: PathParity, rank: Rank) -> FactorTable:
    """A table of at least these paths.

    Raises:
        FactorTableError: If none is shipped.
    """
    shape = max(p.l1 for p in paths), max(p.l2 for p in paths), max(p.l3 for p in paths)
    if isinstance(rank, FactorTable):
        if rank.parity != parity or any(held < asked for held, asked in zip(rank.shape, shape, strict=True)):
            raise FactorTableError(f"table {rank.name} does not hold degrees {shape}, {parity} paths")
        return rank
    if rank == "exact" or min(shape) == 0:  # couplings with a scalar are exact at any rank
        return load_table(*shape, parity)
    lmax = max(shape)
    return load_table(lmax, lmax, lmax, parity, rank)


def _separable(
    instructions: Sequence[Instruction], scales: Sequence[float], members: Sequence[int]
) -> tuple[dict[int, float], ...] | None:
    """Factors a, b, c of inputs and output with `scale = a[i_in1] b[i_in2] c[i_out]`, None if there are none."""
    entries = [sorted({instructions[n].entries[role] for n in members}) for role in range(3)]
    offsets = np.cumsum([0, *(len(found) for found in entries)])
    matrix = np.zeros((len(members), offsets[-1]))
    for row, n in enumerate(members):
        for role in range(3):
            matrix[row, offsets[role] + entries[role].index(instructions[n].entries[role])] = 1.0
    values = np.array([scales[n] for n in members])
    if np.any(values <= 0.0):
        return None
    logarithms = np.linalg.lstsq(matrix, np.log(values), rcond=None)[0]
    if np.abs(matrix @ logarithms - np.log(values)).max() > 1e-10:
        return None
    found = np.exp(logarithms)
    return tuple(
        dict(zip(entries[role], found[offsets[role] : offsets[role + 1]].tolist(), strict=True)) for role in range(3)
    )


def _low_rank_term(
    irreps: Sequence[Irreps],
    instructions: Sequence[Instruction],
    scales: Sequence[float],
    part: _Block,
    block: WeightBlock,
) -> Term:
    separated = _separable(instructions, scales, part.members)
    if separated is None:
        raise ConfigError("internal: a group was separable, its part is not")
    stacked, matrices = [], []
    for role, matrix in enumerate(part.table.factors.matrices):
        entries = tuple(sorted({instructions[n].entries[role] for n in part.members}))
        rows = [separated[role][i] * matrix[degree_slice(irreps[role][i].ir.l)] for i in entries]
        stacked.append(entries)
        matrices.append(np.concatenate(rows))
    factors = Factors(*matrices).balanced()
    mode = instructions[part.members[0]].connection_mode
    return Term(mode, stacked[0], stacked[1], stacked[2], factors.reconstruct(), block, factors)
