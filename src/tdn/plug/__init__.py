"""Drop-in tensor products for e3nn and for the networks built on it."""

from tdn.plug.instructions import merge_paths
from tdn.plug.irreps import Irreps
from tdn.plug.tensor_product import CPTensorProduct
from tdn.plug.twins import CPElementwiseTensorProduct, CPFullTensorProduct, CPFullyConnectedTensorProduct

__all__ = [
    "CPElementwiseTensorProduct",
    "CPFullTensorProduct",
    "CPFullyConnectedTensorProduct",
    "CPTensorProduct",
    "Irreps",
    "merge_paths",
]
