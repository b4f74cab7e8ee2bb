"""The one seam where faster kernels plug in: sums over neighbours, and their derivatives of every order.

`nodes.py` gathers from and sums into nodes. `graph.py` groups edges by either end. `convolution.py` is the convolution
in rank space: three custom operators, closed under differentiation. `reference.py` computes them in plain PyTorch on
every device, and `plain.py` puts that into traces that must run without tdn. An implementation for a kind of device is
a module that registers itself for the operators, by `aggregate.register_kernel("cuda")` and so on, as `cpu.py` does for
CPUs with a C++ kernel: no layer, no parameter and no state dict knows of it.
"""

from tdn.nn.kernels import cpu, gpu  # noqa: F401  (register themselves)
from tdn.nn.kernels.convolution import convolve
from tdn.nn.kernels.graph import EdgeIndex
from tdn.nn.kernels.nodes import gather, largest, scatter_sum
from tdn.nn.kernels.plain import PlainOperators

__all__ = ["EdgeIndex", "PlainOperators", "convolve", "gather", "largest", "scatter_sum"]
