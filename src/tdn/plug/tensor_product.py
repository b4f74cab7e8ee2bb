"""e3nn's tensor product with its arguments, weights and results, computed by the kernels of this package."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from tdn.errors import ConfigError
from tdn.plug.instructions import Normalisation, coefficients, read_instructions
from tdn.plug.irreps import Irreps
from tdn.plug.kernels import Entries, Kernel, Layout, TermKernel, build_kernels
from tdn.plug.signs import Signs, coupling_sign
from tdn.plug.terms import Plan, Rank, WeightBlock, path_of, separate_paths, shared_paths


class CPTensorProduct(nn.Module):
    """Drop-in replacement of `e3nn.o3.TensorProduct`; needs no e3nn.

    With `share_paths=False` it is the same map: same weights, same order, same outputs to rounding. A free weight for
    every path and channel has no low-rank form, so this uses exact kernels (`tdn.plug.kernels`).

    With `share_paths=True` all paths of one mode and of equal multiplicities use one weight (arXiv 2507.01131,
    section 3.3), and paths that make up a whole coupling are merged into exact low-rank factors. Every path then
    also carries the fixed path weight of its factor table, a few percent from one; `expand_weights` gives the
    equivalent weights for e3nn. Paths whose outputs are kept apart cannot be merged: see `merge_paths`, and
    `low_rank` and `reasons` for what a layer does.

    Args:
        irreps_in1: Irreps of the first input, as text, list or e3nn's object.
        irreps_in2: Irreps of the second input.
        irreps_out: Irreps of the output.
        instructions: `(i_in1, i_in2, i_out, mode, has_weight[, path_weight])`, modes as in `tdn.plug.instructions`.
        in1_var: Variance of each entry of the first input.
        in2_var: Variance of each entry of the second input.
        out_var: Wanted variance of each entry of the output.
        irrep_normalization: "component" (default), "norm" or "none".
        path_normalization: "element" (default), "path" or "none".
        internal_weights: Whether the layer holds its weights.
        shared_weights: Whether all samples use the same weights.
        compile_left_right: Accepted for e3nn's sake and ignored.
        compile_right: Ignored, unless true: there is no `right`.
        normalization: Old name of `irrep_normalization`.
        rank: With shared paths: "exact", "paper" (the fit at rank 7 L²), the rank of a shipped table, or a table.
        share_paths: Whether paths share their weights.
        signs: "current" for the couplings of e3nn 0.5 and later, "installed" for those of the e3nn installed, which
            before 0.5 have another sign for some paths of odd `l1 + l2 + l3`.
        layout: `mul_ir`, e3nn's, or `ir_mul`, of all inputs and outputs.
        kernel: "auto", or "low-rank" or "dense" to insist on one for merged paths.

    Attributes:
        instructions: As e3nn's, with normalised `path_weight`.
        weight_numel: Number of weights.
        output_mask: One for components that some path reaches, else zero, `[irreps_out.dim]`.

    Raises:
        ConfigError: For arguments that do not fit each other.
        FactorTableError: If no factors of the wanted rank are shipped.
    """

    weight: Tensor
    output_mask: Tensor

    def __init__(
        self,
        irreps_in1: object,
        irreps_in2: object,
        irreps_out: object,
        instructions: Iterable[Sequence[Any]],
        in1_var: Sequence[float] | None = None,
        in2_var: Sequence[float] | None = None,
        out_var: Sequence[float] | None = None,
        irrep_normalization: str | None = None,
        path_normalization: str | None = None,
        internal_weights: bool | None = None,
        shared_weights: bool | None = None,
        compile_left_right: bool = True,
        compile_right: bool = False,
        normalization: str | None = None,
        _specialized_code: bool | None = None,
        _optimize_einsums: bool | None = None,
        *,
        rank: Rank = "exact",
        share_paths: bool = False,
        signs: Signs = "current",
        layout: Layout = "mul_ir",
        kernel: Kernel = "auto",
    ) -> None:
        super().__init__()
        if compile_right:
            raise ConfigError("`right` (partial evaluation) is not offered: leave compile_right at False")
        if layout not in ("mul_ir", "ir_mul"):
            raise ConfigError(f"layout must be mul_ir or ir_mul, got {layout!r}")
        self.irreps_in1, self.irreps_in2, self.irreps_out = map(_public, (irreps_in1, irreps_in2, irreps_out))
        self._irreps = Irreps(irreps_in1), Irreps(irreps_in2), Irreps(irreps_out)
        self.rank, self.share_paths = rank, share_paths
        self.layout: Layout = layout
        given = read_instructions(*self._irreps, instructions)
        irrep = normalization or irrep_normalization or "component"
        wanted = Normalisation(irrep, path_normalization or "element", in1_var, in2_var, out_var)
        scales = coefficients(*self._irreps, given, wanted)
        self.instructions = [i._replace(path_weight=scale) for i, scale in zip(given, scales, strict=True)]
        self._set_weights(internal_weights, shared_weights)
        flips = [coupling_sign(path_of(self._irreps, i), signs) for i in given]
        if share_paths:
            # Merged paths have the signs of their factor table: e3nn's weights carry the flips, see expand_weights.
            plan = shared_paths(self._irreps, given, scales, flips, rank)
        else:
            plan = separate_paths(self._irreps, given, scales, flips)
        self._set_plan(plan, kernel)

    def _set_weights(self, internal: bool | None, shared: bool | None) -> None:
        """Resolve the two flags as e3nn does."""
        if shared is False and internal is None:
            internal = False
        self.shared_weights = True if shared is None else bool(shared)
        if internal is None:
            internal = self.shared_weights and any(i.has_weight for i in self.instructions)
        self.internal_weights = bool(internal)
        if self.internal_weights and not self.shared_weights:
            raise ConfigError("internal weights are shared by all samples: shared_weights=False needs external ones")

    def _set_plan(self, plan: Plan, kernel: Kernel) -> None:
        self._plan = plan
        in1, in2, out = (Entries(irreps, self.layout) for irreps in self._irreps)
        self._entries = in1, in2, out
        self._kernels = build_kernels([term for term in plan.terms if self._reaches(term.in1, term.in2, term.out)],
                                      in1, in2, kernel)  # fmt: skip
        self.weight_numel = plan.blocks[-1].stop if plan.blocks else 0
        if self.internal_weights and self.weight_numel > 0:
            self.weight = nn.Parameter(torch.randn(self.weight_numel))
        else:
            self.register_buffer("weight", torch.tensor([]))
        reached = {i.i_out for i in self.instructions if i.path_weight != 0 and 0 not in i.path_shape}
        mask = [torch.full((entry.dim,), float(k in reached)) for k, entry in enumerate(self._irreps[2])]
        self.register_buffer("output_mask", torch.cat(mask) if mask else torch.ones(0))

    def _reaches(self, *entries: Sequence[int]) -> bool:
        return all(irreps[i].mul > 0 for irreps, found in zip(self._irreps, entries, strict=True) for i in found)

    @property
    def low_rank(self) -> bool:
        """Whether every path that has weights is part of a coupling with factors."""
        weighted = [term for term in self._plan.terms if term.weight is not None]
        return bool(weighted) and all(term.factors is not None for term in weighted)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why paths are not merged into low-rank factors; empty if all are."""
        if not self.share_paths and any(i.has_weight for i in self.instructions):
            return ("every path has weights of its own: share_paths=True lets them share",)
        return self._plan.unshared

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels in use, see `tdn.plug.kernels`."""
        return tuple(type(kernel).__name__ for kernel in self._kernels)

    def forward(self, x: Tensor, y: Tensor, weight: Tensor | Sequence[Tensor] | None = None) -> Tensor:
        """The product.

        Args:
            x: `[..., irreps_in1.dim]`.
            y: `[..., irreps_in2.dim]`; leading dimensions are broadcast.
            weight: `[weight_numel]`, or `[..., weight_numel]` unless weights are shared; or a list, one a block.

        Returns:
            `[..., irreps_out.dim]`.
        """
        if x.shape[-1] != self._irreps[0].dim or y.shape[-1] != self._irreps[1].dim:
            raise ConfigError(
                f"inputs must end in {self._irreps[0].dim} and {self._irreps[1].dim} components "
                f"({self._irreps[0]} and {self._irreps[1]}), got shapes {tuple(x.shape)} and {tuple(y.shape)}"
            )
        weight = self._checked(weight)
        shapes = [x.shape[:-1], y.shape[:-1]] + ([] if self.shared_weights else [weight.shape[:-1]])
        batch = torch.broadcast_shapes(*shapes)
        x, y = _flat(x, batch), _flat(y, batch)
        weight = weight if self.shared_weights else _flat(weight, batch)
        return self._product(x, y, weight).view(*batch, self._irreps[2].dim)

    def _product(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        in1, in2, out = self._entries
        parts: dict[int, list[Tensor]] = {}
        for kernel in cast(Iterable[TermKernel], self._kernels):
            weights = [self._view(weight, term.weight) for term in kernel.terms]
            outputs = kernel(in1.read(x, kernel.in1), in2.read(y, kernel.in2), weights)
            for term, values in zip(kernel.terms, outputs, strict=True):
                out.write(values, term.out, parts)
        return out.collect(parts, x)

    def _view(self, weight: Tensor, block: WeightBlock | None) -> Tensor | None:
        if block is None:
            return None
        return weight[..., block.start : block.stop].unflatten(-1, block.shape)

    def _checked(self, weight: Tensor | Sequence[Tensor] | None) -> Tensor:
        if weight is None:
            if self.weight_numel > 0 and not self.internal_weights:
                raise ConfigError(f"this layer holds no weights: pass {self.weight_numel} of them to forward")
            if not self.shared_weights:
                return self.weight.new_empty((1, 0))
            return self.weight
        if not isinstance(weight, Tensor):
            weight = torch.cat([w.flatten(0 if self.shared_weights else 1) for w in weight], dim=-1)
        expected = "[weight_numel]" if self.shared_weights else "[..., weight_numel]"
        if weight.shape[-1] != self.weight_numel or (weight.dim() == 1) != self.shared_weights:
            raise ConfigError(f"weights must have shape {expected}, weight_numel {self.weight_numel}, "
                              f"got {tuple(weight.shape)}")  # fmt: skip
        return weight

    def weight_views(self, weight: Tensor | None = None, yield_instruction: bool = False) -> Iterator[Any]:
        """Views of every block of weights, one a path, or one for all paths that share it.

        Args:
            weight: Weights as for `forward`, by default the layer's own.
            yield_instruction: Give `(number, instruction, view)`, the instruction being the first that uses the block.
        """
        weight = self._checked(weight)
        seen: set[WeightBlock] = set()
        for n, (instruction, block) in enumerate(zip(self.instructions, self._plan.path_blocks, strict=True)):
            if block is not None and block not in seen:
                seen.add(block)
                view = self._view(weight, block)
                yield (n, instruction, view) if yield_instruction else view

    def weight_view_for_instruction(self, instruction: int, weight: Tensor | None = None) -> Tensor:
        """View of the weights that an instruction uses."""
        block = self._plan.path_blocks[instruction]
        if block is None:
            raise ValueError(f"instruction {instruction} has no weights")
        view = self._view(self._checked(weight), block)
        assert view is not None
        return view

    def expand_weights(self, weight: Tensor | None = None) -> Tensor:
        """Weights for `e3nn.o3.TensorProduct` with the same arguments that give the same map.

        Args:
            weight: Weights as for `forward`, by default the layer's own.

        Returns:
            One weight for every path, `[..., e3nn's weight_numel]`.
        """
        weight = self._checked(weight)
        pairs = zip(self._plan.path_blocks, self._plan.path_scales, strict=True)
        views = [weight[..., b.start : b.stop] * scale for b, scale in pairs if b is not None]
        return torch.cat(views, dim=-1) if views else weight

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # e3nn keeps constants of its generated code in the state dict.
        for key in [key for key in state_dict if key.startswith(f"{prefix}_compiled_main_")]:
            del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __repr__(self) -> str:
        in1, in2, out = (irreps.simplify() for irreps in self._irreps)
        form = "low-rank" if self.low_rank else "exact kernels"
        return f"{type(self).__name__}({in1} x {in2} -> {out} | {self.weight_numel} weights | {form})"


def _flat(values: Tensor, batch: torch.Size) -> Tensor:
    """`values` for every sample, `[samples, components]`."""
    return values.expand(*batch, -1).reshape(batch.numel(), values.shape[-1])


def _public(irreps: object) -> object:
    """What a layer shows as its irreps: e3nn's object if it was given one, as e3nn's users expect."""
    return irreps if type(irreps).__module__.partition(".")[0] == "e3nn" else Irreps(irreps)
