"""Where MACE, NequIP, SevenNet and Equiformer list the paths of their convolutions.

All of them give every path an output of its own and let the linear layer behind it mix them. For low-rank factors
the paths of one irrep must be summed instead (`merge_paths`), and the linear layer be built for the sum: so the list
is changed where each package makes it, and what the package builds from it fits by itself.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tdn.plug.instructions import merge_paths


class Change(NamedTuple):
    """One name to be bound to something else for a while."""

    owner: object
    name: str
    value: object


def loaded() -> Iterator[types.ModuleType]:
    """The modules that are loaded; nothing is imported."""
    for module in list(sys.modules.values()):
        # Modules that load their names on demand, `torch.ops` for one, are of a class of their own.
        if type(module) is types.ModuleType:
            yield module


def merging_irreps(base: type) -> type:
    """A subclass of e3nn's `Irreps` whose `sort` also merges equal entries, so that `p` maps paths to sums."""

    class MergingIrreps(base):  # type: ignore[misc, valid-type]
        def sort(self) -> tuple[object, tuple[int, ...], None]:
            merged, paths = merge_paths(str(self), [(0, 0, k) for k in range(len(self))])
            return base(str(merged)), tuple(path[2] for path in paths), None  # type: ignore[misc]

    return MergingIrreps


def merging_changes() -> Iterator[Change]:
    """What to bind so that the packages that are loaded build convolutions with merged paths."""
    for module in loaded():
        names = vars(module)
        if "tp_out_irreps_with_instructions" in names and module.__name__.startswith("mace."):
            function = names["tp_out_irreps_with_instructions"]
            yield Change(module, "tp_out_irreps_with_instructions", _merged_list(function))
        if module.__name__ in ("nequip.nn.interaction_block", "sevenn.nn.convolution"):
            yield Change(module, "Irreps", merging_irreps(names["Irreps"]))
        if module.__name__ == "sevenn.model_build":
            yield Change(module, "NequIP_interaction_block", _merged_block(names["NequIP_interaction_block"]))
        if module.__name__ == "sevenn.nn.convolution":
            convolution = names["IrrepsConvolution"]
            yield Change(convolution, "instantiate", _counted(convolution.instantiate))
        # Equiformer is no package: its modules are recognised by what they define.
        function = names.get("DepthwiseTensorProduct")
        if isinstance(function, types.FunctionType) and "sort_irreps_even_first" in function.__globals__:
            yield Change(module, "DepthwiseTensorProduct", _sorted_by_merging(function))


def _merged_list(function: Callable[..., Any]) -> Callable[..., Any]:
    def tp_out_irreps_with_instructions(*args: Any, **kwargs: Any) -> tuple[object, list[tuple[object, ...]]]:
        irreps, instructions = function(*args, **kwargs)
        merged, paths = merge_paths(irreps, instructions)
        return type(irreps)(str(merged)), paths

    return tp_out_irreps_with_instructions


def _merged_block(function: Callable[..., Any]) -> Callable[..., Any]:
    """SevenNet infers the input of the linear layer beside the convolution: it gets the merged irreps too."""

    def interaction_block(irreps_x: Any, irreps_filter: Any, irreps_out_tp: Any, **kwargs: Any) -> Any:
        ends = [(mul, ir) for mul, x in irreps_x for _, y in irreps_filter for ir in x * y if ir in irreps_out_tp]
        merged, _, _ = merging_irreps(type(irreps_out_tp))(ends).sort()
        return function(irreps_x=irreps_x, irreps_filter=irreps_filter, irreps_out_tp=merged, **kwargs)

    return interaction_block


def _counted(instantiate: Callable[..., None]) -> Callable[..., None]:
    """SevenNet counts the weights of its convolution by itself, one for every path: take the layer's count."""

    def instantiate_with_count(convolution: Any) -> None:
        layer = convolution.convolution_cls(**convolution.convolution_kwargs)
        convolution.weight_nn_kwargs["hs"][-1] = layer.weight_numel
        instantiate(convolution)

    return instantiate_with_count


def _sorted_by_merging(function: types.FunctionType) -> Callable[..., Any]:
    """The same function with another `sort_irreps_even_first` among its globals, which are read at every call."""

    def sort_irreps_even_first(irreps: Any) -> Any:
        return merging_irreps(type(irreps))(irreps).sort()  # type: ignore[attr-defined]

    def depthwise_tensor_product(*args: Any, **kwargs: Any) -> Any:
        names = {**function.__globals__, "sort_irreps_even_first": sort_irreps_even_first}
        copy = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__)
        return copy(*args, **kwargs)

    return depthwise_tensor_product
