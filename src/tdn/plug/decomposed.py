"""Building networks of e3nn's layers with ours: a context manager for construction, a function for built models."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from tdn.errors import ConfigError
from tdn.plug.instructions import MODES
from tdn.plug.seams import Change, loaded, merging_changes
from tdn.plug.tensor_product import CPTensorProduct
from tdn.plug.terms import Rank
from tdn.plug.twins import CPFullyConnectedTensorProduct

# Names are bound for the whole process, so one block at a time.
_LOCK = threading.RLock()


@contextmanager
def decomposed(rank: Rank = "exact", share_paths: bool = True) -> Iterator[None]:
    """Build networks with our tensor products: every `TensorProduct` and `FullyConnectedTensorProduct` of e3nn.

        with tdn.plug.decomposed():
            model = MACE(...)

    Everything that binds these two names, in modules loaded before, gets ours until the block ends. With shared paths,
    MACE, NequIP, SevenNet and Equiformer also merge the paths of their convolutions (`tdn.plug.seams`). The radial
    networks then have as many outputs as our layers have weights. Import the package before the block.

    Args:
        rank: See `CPTensorProduct`.
        share_paths: Whether paths share weights; if not, the network computes what it did, with our exact kernels.

    Raises:
        ConfigError: If e3nn has not been imported.
    """
    if "e3nn.o3" not in sys.modules:
        raise ConfigError("nothing to replace: import the network's package (and with it e3nn) before this block")
    with _LOCK, ExitStack() as stack:
        for change in [*_class_changes(rank, share_paths), *(merging_changes() if share_paths else ())]:
            _bind(stack, change)
        yield


def _bind(stack: ExitStack, change: Change) -> None:
    """Bind a name until the stack closes."""
    stack.callback(setattr, change.owner, change.name, getattr(change.owner, change.name))
    setattr(change.owner, change.name, change.value)


def _class_changes(rank: Rank, share_paths: bool) -> Iterator[Change]:
    from e3nn import o3

    options = {"rank": rank, "share_paths": share_paths, "signs": "installed"}
    replacements = {
        o3.TensorProduct: _with_options(CPTensorProduct, options),
        o3.FullyConnectedTensorProduct: _with_options(CPFullyConnectedTensorProduct, options),
    }
    for module in loaded():
        if module.__name__.partition(".")[0] == "tdn":
            continue
        for name, value in list(vars(module).items()):
            if isinstance(value, type) and value in replacements:
                yield Change(module, name, replacements[value])


def _with_options(layer: type[CPTensorProduct], options: dict[str, Any]) -> type:
    """A class whose instances are layers with `options`; of the layer's own class, so that they can be pickled."""

    def __new__(cls: type, *args: Any, **kwargs: Any) -> CPTensorProduct:
        return layer(*args, **{**options, **kwargs})

    return type(layer.__name__, (), {"__new__": __new__, "__doc__": layer.__doc__})


def replace_(
    model: nn.Module, rank: Rank = "exact", share_paths: bool = False, discard_weights: bool = False
) -> list[str]:
    """Replace e3nn's tensor products in a model that is already built, in place.

    Without sharing every weight is carried over and the model computes what it did, trained or not. Weights of
    single paths cannot be carried over to shared ones: for that, build the model inside `decomposed`.

    Args:
        model: The model; products without weights or of modes that we do not have, and `TensorSquare`, stay.
        rank: See `CPTensorProduct`.
        share_paths: Whether paths share weights. Only layers that hold their weights can change so.
        discard_weights: Draw new weights for layers whose paths now share them, for a model that is not trained.

    Returns:
        Names of the layers replaced.

    Raises:
        ConfigError: If weights would be lost. The model is then as before.
    """
    o3 = sys.modules.get("e3nn.o3")
    if o3 is None:
        return []
    found: list[tuple[str, nn.Module, CPTensorProduct]] = []
    for name, layer in model.named_modules():
        if isinstance(layer, o3.TensorProduct) and not isinstance(layer, o3.TensorSquare) and _gains(layer):
            twin = _twin(layer, rank, share_paths)
            _carry_over(name, layer, twin, discard_weights)
            found.append((name, layer, twin))
    for name, _, twin in found:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, twin)
    return [name for name, *_ in found]


def _gains(layer: Any) -> bool:
    """Whether a layer has weights, and only modes that we have."""
    return layer.weight_numel > 0 and all(i.connection_mode in MODES for i in layer.instructions)


def _twin(layer: Any, rank: Rank, share_paths: bool) -> CPTensorProduct:
    """Our layer with the irreps, normalisation and weights' kind of e3nn's."""
    instructions = [(*i[:5], i.path_weight**2) for i in layer.instructions]  # e3nn keeps the root
    twin = CPTensorProduct(
        layer.irreps_in1, layer.irreps_in2, layer.irreps_out, instructions,
        irrep_normalization="none", path_normalization="none",
        internal_weights=layer.internal_weights, shared_weights=layer.shared_weights,
        rank=rank, share_paths=share_paths, signs="installed",
    )  # fmt: skip
    twin.train(layer.training)
    return twin.to(device=layer.output_mask.device, dtype=layer.output_mask.dtype)


def _carry_over(name: str, layer: Any, twin: CPTensorProduct, discard: bool) -> None:
    if twin.weight_numel == layer.weight_numel:
        if layer.internal_weights and layer.weight_numel:
            twin.weight.data.copy_(layer.weight.data)
            twin.weight.requires_grad_(layer.weight.requires_grad)
        return
    counts = f"layer {name!r}: its {layer.weight_numel} weights would become {twin.weight_numel} shared ones"
    if not layer.internal_weights:
        raise ConfigError(
            f"{counts}, and the network that computes them was built for the former: "
            "build the model inside `with tdn.plug.decomposed(...)`, or use share_paths=False"
        )
    if not discard:
        raise ConfigError(
            f"{counts}, which loses what was learned: use share_paths=False, or discard_weights=True if the model "
            "is not trained"
        )
