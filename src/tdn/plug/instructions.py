"""e3nn's instructions: which irreps are coupled, how multiplicities connect, and the normalisation of every path.

| mode | output of copies u of the first and v of the second input | weights |
|---|---|---|
| `uvw` | `z_w = sum_uv W_uvw x_u y_v` | `(mul1, mul2, mul_out)` |
| `uvu` | `z_u = sum_v W_uv x_u y_v` | `(mul1, mul2)` |
| `uvv` | `z_v = sum_u W_uv x_u y_v` | `(mul1, mul2)` |
| `uuw` | `z_w = sum_u W_uw x_u y_u` | `(mul1, mul_out)` |
| `uuu` | `z_u = W_u x_u y_u` | `(mul1,)` |
| `uvuv` | `z_uv = W_uv x_u y_v` | `(mul1, mul2)` |
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tdn.errors import ConfigError
from tdn.plug.irreps import Irreps

MODES = ("uvw", "uvu", "uvv", "uuw", "uuu", "uvuv")


class Instruction(NamedTuple):
    """One path, with the fields of e3nn's.

    Attributes:
        i_in1: Entry of the first input's irreps.
        i_in2: Entry of the second input's.
        i_out: Entry of the output's.
        connection_mode: One of `MODES`.
        has_weight: Whether the path has weights.
        path_weight: In the list given to a layer the path's share of the output variance; in `layer.instructions`, as
            in e3nn, the coefficient that multiplies `wigner_3j`.
        path_shape: Shape of its weights.
    """

    i_in1: int
    i_in2: int
    i_out: int
    connection_mode: str
    has_weight: bool
    path_weight: float
    path_shape: tuple[int, ...]

    @property
    def entries(self) -> tuple[int, int, int]:
        """Entries of the two inputs and of the output."""
        return self.i_in1, self.i_in2, self.i_out


def read_instructions(
    in1: Irreps, in2: Irreps, out: Irreps, instructions: Iterable[Sequence[object]]
) -> list[Instruction]:
    """Check instructions `(i_in1, i_in2, i_out, mode, has_weight[, path_weight])` against the irreps.

    Raises:
        ConfigError: For an unknown mode, a coupling that O(3) forbids, or multiplicities that do not fit the mode.
    """
    return [_read(in1, in2, out, tuple(entry)) for entry in instructions]


def _read(in1: Irreps, in2: Irreps, out: Irreps, entry: tuple[object, ...]) -> Instruction:
    if len(entry) not in (5, 6, 7):
        raise ConfigError(f"expected (i_in1, i_in2, i_out, mode, has_weight[, path_weight]), got {entry}")
    i1, i2, k, mode, has_weight = entry[:5]
    path_weight = float(entry[5]) if len(entry) > 5 else 1.0  # type: ignore[arg-type]
    if mode not in MODES:
        raise ConfigError(f"mode {mode!r} of {entry} is not supported: expected one of {', '.join(MODES)}")
    try:
        (a, first), (b, second), (c, third) = in1[i1], in2[i2], out[k]  # type: ignore[index]
    except (IndexError, TypeError) as error:
        raise ConfigError(f"{entry} names an entry that {in1} x {in2} -> {out} do not have") from error
    if first.p * second.p != third.p or not abs(first.l - second.l) <= third.l <= first.l + second.l:
        raise ConfigError(f"{entry} couples {first} and {second} to {third}, which O(3) does not allow")
    fits = {
        "uvw": True, "uvu": a == c, "uvv": b == c, "uuw": a == b, "uuu": a == b == c, "uvuv": a * b == c,
    }[mode]  # fmt: skip
    if not fits:
        raise ConfigError(f"mode {mode} does not fit multiplicities {a} and {b} to {c} in {entry}")
    if not has_weight and (mode == "uvw" or (mode == "uuw" and c != 1)):
        raise ConfigError(f"mode {mode} needs weights{'' if mode == 'uvw' else ' unless mul_out is 1'}, see {entry}")
    if path_weight < 0.0:
        raise ConfigError(f"path_weight must be >= 0 (its root multiplies the path), got {path_weight} in {entry}")
    shape = {"uvw": (a, b, c), "uvu": (a, b), "uvv": (a, b), "uuw": (a, c), "uuu": (a,), "uvuv": (a, b)}[mode]
    return Instruction(int(i1), int(i2), int(k), mode, bool(has_weight), path_weight, shape)  # type: ignore


class Normalisation(NamedTuple):
    """How outputs are scaled, see `e3nn.o3.TensorProduct`.

    Attributes:
        irrep: "component", "norm" or "none".
        path: "element", "path" or "none".
        in1_var: Variance of each entry of the first input, None for ones.
        in2_var: Of the second.
        out_var: Wanted variance of each entry of the output.
    """

    irrep: str = "component"
    path: str = "element"
    in1_var: Sequence[float] | None = None
    in2_var: Sequence[float] | None = None
    out_var: Sequence[float] | None = None


def coefficients(
    in1: Irreps, in2: Irreps, out: Irreps, instructions: Sequence[Instruction], normalisation: Normalisation
) -> list[float]:
    """The factor that multiplies `wigner_3j` in each path, as in e3nn.

    Raises:
        ConfigError: For an unknown normalisation or a list of variances of the wrong length.
    """
    if normalisation.irrep not in ("component", "norm", "none"):
        raise ConfigError(f"irrep_normalization must be component, norm or none, got {normalisation.irrep!r}")
    if normalisation.path not in ("element", "path", "none"):
        raise ConfigError(f"path_normalization must be element, path or none, got {normalisation.path!r}")
    var1 = _variances(normalisation.in1_var, in1, "in1_var")
    var2 = _variances(normalisation.in2_var, in2, "in2_var")
    var_out = _variances(normalisation.out_var, out, "out_var")
    elements = [var1[i.i_in1] * var2[i.i_in2] * _fan_in(in1, in2, i) for i in instructions]
    values = []
    for n, instruction in enumerate(instructions):
        i1, i2, k = instruction.entries
        together = [m for m, other in enumerate(instructions) if other.i_out == k]
        degrees = {
            "component": 2 * out[k].ir.l + 1,
            "norm": (2 * in1[i1].ir.l + 1) * (2 * in2[i2].ir.l + 1),
            "none": 1,
        }[normalisation.irrep]
        spread = {
            "element": sum(elements[m] for m in together), "path": elements[n] * len(together), "none": 1.0,
        }[normalisation.path]  # fmt: skip
        values.append(math.sqrt(degrees / (spread if spread > 0.0 else 1.0) * var_out[k] * instruction.path_weight))
    return values


def _variances(values: Sequence[float] | None, irreps: Irreps, name: str) -> list[float]:
    if values is None:
        return [1.0] * len(irreps)
    if len(values) != len(irreps):
        raise ConfigError(f"{name} needs a value for each of the {len(irreps)} entries of {irreps}, got {len(values)}")
    return [float(value) for value in values]


def _fan_in(in1: Irreps, in2: Irreps, instruction: Instruction) -> int:
    """Number of products that an output copy sums in this path."""
    mul1, mul2 = in1[instruction.i_in1].mul, in2[instruction.i_in2].mul
    return {"uvw": mul1 * mul2, "uvu": mul2, "uvv": mul1, "uuw": mul1, "uuu": 1, "uvuv": 1}[instruction.connection_mode]


def merge_paths(
    irreps_out: object, instructions: Iterable[Sequence[object]]
) -> tuple[Irreps, list[tuple[object, ...]]]:
    """Let paths that end in the same irrep and multiplicity share one output entry, so that they are summed.

    Networks of e3nn keep an output entry for every path and mix them in the linear layer that follows. Low-rank
    factors give the sum over paths instead, so a layer has them only if its paths are merged.

    Args:
        irreps_out: Irreps of the output.
        instructions: Instructions that refer to it.

    Returns:
        The merged irreps, in e3nn's order, and the instructions that refer to them.
    """
    out = Irreps(irreps_out)
    merged, place, _ = Irreps(list(dict.fromkeys(out))).sort()
    distinct = list(dict.fromkeys(out))
    position = [place[distinct.index(entry)] for entry in out]
    return merged, [(i1, i2, position[k], *rest) for i1, i2, k, *rest in instructions]  # type: ignore[index]
