"""The tensor products that e3nn derives from `TensorProduct`, with its arguments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tdn.errors import ConfigError
from tdn.plug.irreps import Irreps, MulIr, couplings_of, read_irrep
from tdn.plug.tensor_product import CPTensorProduct


class CPFullyConnectedTensorProduct(CPTensorProduct):
    """Every path from two inputs to the given outputs, mode `uvw`; twin of `e3nn.o3.FullyConnectedTensorProduct`.

    Args:
        irreps_in1: Irreps of the first input.
        irreps_in2: Irreps of the second input.
        irreps_out: Irreps of the output.
        irrep_normalization: See `CPTensorProduct`.
        path_normalization: See `CPTensorProduct`.
        **options: Other arguments of `CPTensorProduct`.
    """

    def __init__(
        self,
        irreps_in1: object,
        irreps_in2: object,
        irreps_out: object,
        irrep_normalization: str | None = None,
        path_normalization: str | None = None,
        **options: Any,
    ) -> None:
        in1, in2, out = map(Irreps, (irreps_in1, irreps_in2, irreps_out))
        instructions = [
            (i, j, k, "uvw", True, 1.0)
            for i, (_, first) in enumerate(in1)
            for j, (_, second) in enumerate(in2)
            for k, (_, third) in enumerate(out)
            if third in couplings_of(first, second)
        ]
        options |= {"irrep_normalization": irrep_normalization, "path_normalization": path_normalization}
        super().__init__(irreps_in1, irreps_in2, irreps_out, instructions, **options)


class CPFullTensorProduct(CPTensorProduct):
    """Every product of a copy of the first with a copy of the second input; twin of `e3nn.o3.FullTensorProduct`.

    Args:
        irreps_in1: Irreps of the first input.
        irreps_in2: Irreps of the second input.
        filter_ir_out: Irreps to keep in the output, all by default.
        irrep_normalization: See `CPTensorProduct`.
        **options: Other arguments of `CPTensorProduct`.
    """

    def __init__(
        self,
        irreps_in1: object,
        irreps_in2: object,
        filter_ir_out: Iterable[object] | None = None,
        irrep_normalization: str | None = None,
        **options: Any,
    ) -> None:
        in1, in2 = Irreps(irreps_in1).simplify(), Irreps(irreps_in2).simplify()
        kept = None if filter_ir_out is None else [read_irrep(ir) for ir in filter_ir_out]
        paths = [
            (i, j, MulIr(mul1 * mul2, ir))
            for i, (mul1, first) in enumerate(in1)
            for j, (mul2, second) in enumerate(in2)
            for ir in couplings_of(first, second)
            if kept is None or ir in kept
        ]
        out, place, _ = Irreps([entry for *_, entry in paths]).sort()
        instructions = [(i, j, place[n], "uvuv", False) for n, (i, j, _) in enumerate(paths)]
        super().__init__(in1, in2, out, instructions, irrep_normalization=irrep_normalization, **options)


class CPElementwiseTensorProduct(CPTensorProduct):
    """Products of equal copies, entry by entry; twin of `e3nn.o3.ElementwiseTensorProduct`.

    Args:
        irreps_in1: Irreps of the first input.
        irreps_in2: Irreps of the second input, as many copies in all.
        filter_ir_out: Irreps to keep in the output, all by default.
        irrep_normalization: See `CPTensorProduct`.
        **options: Other arguments of `CPTensorProduct`.

    Raises:
        ConfigError: If the inputs have different numbers of copies.
    """

    def __init__(
        self,
        irreps_in1: object,
        irreps_in2: object,
        filter_ir_out: Iterable[object] | None = None,
        irrep_normalization: str | None = None,
        **options: Any,
    ) -> None:
        in1, in2 = _aligned(Irreps(irreps_in1).simplify(), Irreps(irreps_in2).simplify())
        kept = None if filter_ir_out is None else [read_irrep(ir) for ir in filter_ir_out]
        paths = [
            (i, MulIr(first.mul, ir))
            for i, (first, second) in enumerate(zip(in1, in2, strict=True))
            for ir in couplings_of(first.ir, second.ir)
            if kept is None or ir in kept
        ]
        instructions = [(i, i, n, "uuu", False) for n, (i, _) in enumerate(paths)]
        out = Irreps([entry for _, entry in paths])
        super().__init__(in1, in2, out, instructions, irrep_normalization=irrep_normalization, **options)


def _aligned(first: Irreps, second: Irreps) -> tuple[Irreps, Irreps]:
    """Both lists cut so that their entries have the same multiplicities."""
    if first.num_irreps != second.num_irreps:
        raise ConfigError(f"elementwise products need as many copies in both inputs, got {first} and {second}")
    lists = [list(first), list(second)]
    cut: tuple[list[MulIr], list[MulIr]] = ([], [])
    while lists[0]:
        (mul1, ir1), (mul2, ir2) = lists[0].pop(0), lists[1].pop(0)
        mul = min(mul1, mul2)
        for found, rest, total, ir in ((cut[0], lists[0], mul1, ir1), (cut[1], lists[1], mul2, ir2)):
            found.append(MulIr(mul, ir))
            if total > mul:
                rest.insert(0, MulIr(total - mul, ir))
    return Irreps(cut[0]), Irreps(cut[1])
