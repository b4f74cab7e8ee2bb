"""SevenNet (2402.03789) with the architecture of the published 7net-0, from the configuration that it ships."""

# pyright: reportMissingImports=false
from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tdn.bench.models.common import atoms_of, contender, mean_neighbors, species_of
from tdn.bench.worker import Contender, Task


def matched(task: Task) -> Contender:
    """SevenNet with our channels, degree and layers."""
    channels, lmax, layers = (task.settings[name] for name in ("channels", "lmax", "layers"))
    return build(task, channel=channels, lmax=lmax, num_convolution_layer=layers, irreps_manual=False)


def build(task: Task, **sizes: int) -> Contender:
    """SevenNet-0, or that with other `sizes` in its configuration.

    Eager: its faster products, FlashTP and cuEquivariance, need a GPU.
    """
    import sevenn
    import sevenn._keys as keys
    import yaml
    from ase.data import chemical_symbols
    from sevenn.atom_graph_data import AtomGraphData
    from sevenn.model_build import build_E3_equivariant_model
    from sevenn.parse_input import init_model_config
    from sevenn.train.dataload import unlabeled_atoms_to_graph
    from torch_geometric.loader.dataloader import Collater

    torch.set_default_dtype(getattr(torch, task.dtype))
    cutoff = float(task.settings["cutoff"])
    graphs = [AtomGraphData.from_numpy_dict(unlabeled_atoms_to_graph(a, cutoff)) for a in atoms_of(task)]
    batch = Collater([])(graphs).to(task.device)
    edges = int(batch[keys.EDGE_IDX].shape[1])
    preset = Path(str(sevenn.__file__)).parent / "presets" / "sevennet-0.yaml"
    config = yaml.safe_load(preset.read_text(encoding="utf-8"))["model"]
    config |= sizes
    config["chemical_species"] = [chemical_symbols[z] for z in species_of(task)]
    config["cutoff"], config["cutoff_function"]["cutoff_on"] = cutoff, 0.9 * cutoff
    config = {
        **init_model_config(config), keys.CONV_DENOMINATOR: mean_neighbors(edges, task), keys.SHIFT: 0.0,
        keys.SCALE: 1.0,
    }  # fmt: skip
    model = build_E3_equivariant_model(config).to(task.device)
    model.set_is_batch_data(True)

    def predict(training: bool) -> tuple[Tensor, Tensor]:
        output = model.train(training)(batch.clone())
        return output[keys.PRED_TOTAL_ENERGY].view(-1), output[keys.PRED_FORCE]

    return contender(model, predict, task, "eager", edges=edges)
