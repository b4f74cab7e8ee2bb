"""The custom operators in PyTorch's own, for graphs that run where `tdn` is not installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from tdn.nn.kernels import convolution, graph, nodes, reference  # noqa: F401  (registers the operators)

# Every custom operator of the package has its line here.
PLAIN_FORMS: dict[Any, Callable[..., Any]] = {
    torch.ops.tdn.gather.default: lambda values, index: values.index_select(0, index),
    torch.ops.tdn.scatter_sum.default: reference.scatter_sum,
    torch.ops.tdn.largest.default: reference.largest,
    torch.ops.tdn.group_by.default: reference.group_by,
    torch.ops.tdn.aggregate.default: reference.aggregate,
    torch.ops.tdn.edge_gradients.default: reference.edge_gradients,
    torch.ops.tdn.table_gradient.default: reference.table_gradient,
}


class PlainOperators(TorchFunctionMode):
    """Within this context custom operators run in their plain forms, derivatives included.

    What is traced there runs where `tdn` is not installed.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace the operators that have a plain form."""
        form: Callable[..., Any] = PLAIN_FORMS.get(func) or func
        return form(*args, **(kwargs or {}))
