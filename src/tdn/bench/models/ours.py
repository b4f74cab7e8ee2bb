"""`TDN` with random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tdn.bench.models.common import atoms_of, contender, mean_neighbors, species_of
from tdn.bench.worker import Contender, Task
from tdn.calculator import TDNCalculator, VerletList
from tdn.graph import AtomGraph, collate
from tdn.models.potential import Potential
from tdn.models.tdn import TDNConfig
from tdn.structure import Structure


def make_config(settings: dict[str, Any], **changes: Any) -> TDNConfig:
    """The default network, with whatever sizes the settings name."""
    names = {"lmax": "lmax", "channels": "num_channels", "layers": "num_layers", "cutoff": "r_max"}
    return TDNConfig(**{field: settings[name] for name, field in names.items() if name in settings}, **changes)


def build(task: Task, compiled: bool = True) -> Contender:
    """Energies and forces of all structures as one batch, their neighbour list made before."""
    structures = [
        Structure(n.astype(np.int64), p.astype(np.float64), c.astype(np.float64), pbc.astype(np.bool_))
        for n, p, c, pbc in task.structures
    ]
    graph = collate([AtomGraph.from_structure(s, make_config(task.settings).r_max) for s in structures])
    config = make_config(task.settings, avg_num_neighbors=mean_neighbors(graph.num_edges, task))
    potential = Potential(config, dict.fromkeys(species_of(task), 0.0))
    potential = potential.to(device=task.device, dtype=getattr(torch, task.dtype))
    graph = graph.to(task.device)
    if compiled:
        potential.compile()

    def predict(training: bool) -> tuple[Tensor, Tensor]:
        prediction = potential.train(training)(graph)
        return prediction.energy, prediction.forces

    mode = "compiled" if compiled else "eager"
    facts = {"edges": graph.num_edges, "config": config.model_dump(mode="json")}
    return contender(potential, predict, task, mode, **facts)


def saved(task: Task, path: str, compiled: bool = True) -> Contender:
    """A model file on the user's structure.

    Passes are `energy_forces`; an MD `step` through ASE, in which every atom moves by 0.01 Å in a random direction;
    of the neighbour list of such a step `list`, building it, and `reuse`, choosing the edges from one still valid; and
    `large`, many copies.
    """
    from tdn.modelfile import load_model

    potential = load_model(path, torch.device(task.device), getattr(torch, task.dtype, None)).eval()
    (atoms,) = atoms_of(task)
    structure = Structure.from_ase(atoms)
    potential.check_elements(structure.numbers)
    single = AtomGraph.from_structure(structure, potential.r_max)
    copies = max(2, -(-task.settings["large_atoms"] // len(structure)))
    graph, large = (g.to(potential.device) for g in (single, collate([single] * copies)))
    atoms.calc = calculator = TDNCalculator(potential, device=task.device, compile=compiled)
    if compiled:
        potential.compile()
    random = np.random.default_rng(0)
    lists = VerletList(potential.r_max, calculator.neighbors.skin)

    def step() -> Tensor:
        moves = random.normal(size=(len(atoms), 3))
        atoms.positions += 0.01 * moves / np.linalg.norm(moves, axis=1, keepdims=True)
        return torch.from_numpy(atoms.get_forces())

    def predict(graph: AtomGraph) -> tuple[Tensor, Tensor]:
        prediction = potential(graph)
        return prediction.energy, prediction.forces

    passes = {
        "energy_forces": lambda: predict(graph), "step": step, "large": lambda: predict(large),
        "list": lambda: AtomGraph.from_structure(structure, lists.r_max + lists.skin).positions,
        "reuse": lambda: lists.graph(structure).positions,
    }  # fmt: skip
    facts = {
        "atoms": len(structure), "edges": single.num_edges, "large_atoms": large.num_atoms,
        "dtype": str(potential.dtype).removeprefix("torch."), "device": str(potential.device),
        "skin": lists.skin, "steps_per_list": steps_per_list(structure.numbers, lists.skin),
    }  # fmt: skip
    return Contender({name: passes[name] for name in task.passes}, "compiled" if compiled else "eager", facts)


def steps_per_list(numbers: np.ndarray, skin: float, temperature: float = 300.0) -> int:
    """Steps of 1 fs until the fastest atom has moved by `skin / 2` Å, if all fly straight with thermal speeds.

    Real ones turn back, so that a list lives longer.
    """
    from ase import Atoms, units
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

    atoms = Atoms(numbers=numbers, positions=np.zeros((len(numbers), 3)))
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=np.random.default_rng(0))
    fastest = np.linalg.norm(atoms.get_velocities(), axis=1).max() * units.fs
    return max(1, int(skin / 2 / max(fastest, 1e-9)))
