"""Drop-in tensor products for e3nn and for the networks built on it."""

from tdn.plug.decomposed import decomposed, replace_
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
    "decomposed",
    "merge_paths",
    "replace_",
]
