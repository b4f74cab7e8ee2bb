"""Fine-tuning: the start is the model itself, frozen parts stay, new elements and old data come in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import read, write

from tdn.cli.main import main
from tdn.errors import ConfigError
from tdn.graph import AtomGraph
from tdn.modelfile import load_model
from tdn.models.architectures import build_potential
from tdn.models.potential import Potential
from tdn.models.tdn import TDNConfig
from tdn.structure import Structure
from tdn.training.config import RunConfig, read_yaml
from tdn.training.run import train
from tdn.training.start import freeze, grown, nearest_element

from .conftest import assert_same_bits, morse_clusters, run_content
from .test_run import Listener


@pytest.fixture(scope="module")
def trained(clusters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained on the clusters."""
    folder = tmp_path_factory.mktemp("trained")
    train(RunConfig.parse(run_content(clusters, folder / "run", max_steps=60)))
    return folder / "run" / "model.tdn"


def tuning(data: Path, output: Path, model: Path, training: dict | None = None, **start: object) -> RunConfig:
    content = run_content(data, output, **(training or {}))
    del content["model"]
    return RunConfig.parse({**content, "start": {"path": str(model), **start}})


def energies(potential: Potential, frames: list[Atoms]) -> np.ndarray:
    graphs = [AtomGraph.from_structure(Structure.from_ase(atoms), potential.r_max) for atoms in frames]
    return np.array([float(potential(graph).energy) for graph in graphs])


def shifted(frames: list[Atoms], by: dict[str, float]) -> list[Atoms]:
    for atoms in frames:
        atoms.info["REF_energy"] += sum(by[symbol] for symbol in atoms.get_chemical_symbols())
    return frames


def test_another_zero_of_energy_costs_nothing(trained: Path, tmp_path: Path) -> None:
    """Without a step, a model fine-tuned to shifted energies is the same model with shifted references."""
    frames = shifted(morse_clusters(20, seed=1), {"H": 3.0, "C": -70.0})
    write(tmp_path / "new.extxyz", frames)
    listener = Listener()
    config = tuning(tmp_path / "new.extxyz", tmp_path / "run", trained, {"max_steps": 1, "lr": 1e-12})
    train(config, listener)
    old, new = load_model(trained), load_model(tmp_path / "run" / "model.tdn")
    for name, weight in old.state_dict().items():
        assert torch.allclose(new.state_dict()[name], weight, atol=1e-6), name
    moved = (new.reference_energies - old.reference_energies).numpy()
    np.testing.assert_allclose(moved, [3.0, -70.0], atol=0.3)
    assert any(line.startswith(f"starting from {trained}") for line in listener.lines)
    assert any("refitted" in line for line in listener.lines)


def test_isolated_atoms_of_the_new_data_become_the_references(trained: Path, tmp_path: Path) -> None:
    frames = shifted(morse_clusters(20, seed=1), {"H": 3.0, "C": -70.0})
    for symbol, energy in (("H", -5.0), ("C", -60.0)):
        frames.append(Atoms(symbol, info={"REF_energy": energy, "config_type": "IsolatedAtom"}))
        frames[-1].arrays["REF_forces"] = np.zeros((1, 3))
    write(tmp_path / "new.extxyz", frames)
    train(tuning(tmp_path / "new.extxyz", tmp_path / "run", trained, {"max_steps": 1, "lr": 1e-12}))
    new = load_model(tmp_path / "run" / "model.tdn")
    assert new.reference_energies.tolist() == [-5.0, -60.0]
    labels = np.array([atoms.info["REF_energy"] for atoms in frames[:20]])
    assert np.abs(energies(new, frames[:20]) - labels).max() < 2.0, "what is left went into the shifts"


def test_frozen_parts_stay_and_the_rest_moves(clusters: Path, trained: Path, tmp_path: Path) -> None:
    frozen = ["network.embedding", "network.layers.0"]
    train(tuning(clusters, tmp_path / "run", trained, freeze=frozen))
    old, new = (load_model(path).state_dict() for path in (trained, tmp_path / "run" / "model.tdn"))
    for name, weight in old.items():
        stays = name == "network.embedding" or name.startswith("network.layers.0.")
        assert torch.equal(new[name], weight) == stays, name


def test_new_elements_start_as_their_nearest_relatives(trained: Path, tmp_path: Path) -> None:
    frames = morse_clusters(20, seed=1)
    for atoms in frames:
        symbols = np.array(atoms.get_chemical_symbols(), dtype="U2")
        # Silicon in some, so that the compositions determine its reference energy.
        symbols[np.flatnonzero(symbols == "C")[: len(atoms) % 3]] = "Si"
        atoms.set_chemical_symbols(symbols.tolist())
    write(tmp_path / "new.extxyz", shifted(frames, {"H": 0.0, "C": 0.0, "Si": -50.0}))
    listener = Listener()
    train(tuning(tmp_path / "new.extxyz", tmp_path / "run", trained), listener)
    new = load_model(tmp_path / "run" / "model.tdn")
    assert new.elements == (1, 6, 14)
    assert any("new elements Si" in line for line in listener.lines)
    labels = np.array([atoms.info["REF_energy"] for atoms in frames])
    assert np.abs(energies(new, frames) - labels).max() < 3.0, "a silicon atom is 50 eV off without its own reference"


def test_a_grown_potential_is_the_old_one_on_old_elements() -> None:
    torch.manual_seed(0)
    config = TDNConfig(lmax=1, num_channels=4, r_max=4.0, radial_hidden=(8,))
    old = build_potential(config, {6: -2.0, 8: -3.0}, 2.0, {6: -1.0}).double().eval()
    new = grown(old, {1: -0.5, 6: -2.0, 8: -3.0, 14: -7.0}).eval()
    frames = morse_clusters(3)
    for atoms in frames:
        atoms.set_chemical_symbols(["O" if symbol == "H" else "C" for symbol in atoms.get_chemical_symbols()])
    np.testing.assert_allclose(energies(new, frames), energies(old, frames), rtol=1e-14)
    relative = [atoms.copy() for atoms in frames]
    for atoms in relative:
        atoms.set_chemical_symbols(["Si" if symbol == "C" else "O" for symbol in atoms.get_chemical_symbols()])
    counts = np.array([atoms.get_chemical_symbols().count("C") for atoms in frames])
    np.testing.assert_allclose(energies(new, relative), energies(old, frames) - 5.0 * counts, rtol=1e-12)


@pytest.mark.parametrize(
    ("number", "known", "nearest"),
    [
        *((14, (1, 6, 7, 8), 6), (16, (1, 6, 7, 8), 8), (17, (1, 6, 9), 9)),
        *((3, (1, 6, 11), 1), (78, (46, 79), 46), (60, (57, 26), 57)),
    ],
)
def test_relatives_are_those_of_the_periodic_table(number: int, known: tuple[int, ...], nearest: int) -> None:
    assert nearest_element(number, known) == nearest


def test_old_frames_are_replayed(clusters: Path, trained: Path, tmp_path: Path) -> None:
    write(tmp_path / "new.extxyz", morse_clusters(8, seed=1))
    listener = Listener()
    config = tuning(tmp_path / "new.extxyz", tmp_path / "run", trained, replay=str(clusters), replay_frames=5)
    train(config, listener)
    assert "replay: 9 training frames with those of clusters.extxyz" in listener.lines, "4 are held out"


def test_a_run_that_starts_from_a_model_resumes_to_the_same_bits(clusters: Path, trained: Path, tmp_path: Path) -> None:
    options = {"start": {"path": str(trained), "freeze": ["network.embedding"]}}
    content = run_content(clusters, tmp_path / "whole")
    del content["model"]
    train(RunConfig.parse({**content, **options}))
    content["training"]["max_steps"] = 5
    content["training"] |= {"lr_final": 1.0, "energy_weight_final": None}  # nothing depends on where the end is
    parts = {**content, **options, "output": str(tmp_path / "parts")}
    train(RunConfig.parse(parts))
    stored = read_yaml(tmp_path / "parts" / "config.yaml")
    stored["training"]["max_steps"] = 12
    train(RunConfig.parse(stored), resume=True)
    content["training"]["max_steps"] = 12
    train(RunConfig.parse({**content, **options, "output": str(tmp_path / "again")}))
    assert_same_bits(*(tmp_path / name / "model.tdn" for name in ("parts", "again")))


def test_learning_rate_is_gentler_unless_given(clusters: Path, trained: Path, tmp_path: Path) -> None:
    assert tuning(clusters, tmp_path, trained).training.lr == 3e-3
    assert tuning(clusters, tmp_path, trained, {"lr": 0.02}).training.lr == 0.02


def test_wrong_starts_are_refused(clusters: Path, trained: Path, tmp_path: Path) -> None:
    content = run_content(clusters, tmp_path / "run")
    model = {**content["model"], "num_channels": 5}
    wrong = RunConfig.parse({**content, "model": model, "start": {"path": str(trained)}})
    with pytest.raises(ConfigError, match=r"leave out model\.num_channels=5 \(4 there\)"):
        train(wrong)
    potential = load_model(trained)
    with pytest.raises(ConfigError, match=r"no parameter is named 'network\.layer'"):
        freeze(potential, ["network.layer"])
    with pytest.raises(ConfigError, match="nothing to train"):
        freeze(potential, ["*"])


def test_command_fine_tunes(
    clusters: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["tdn", "train", "--from", str(trained), "--data", str(clusters), "--output", str(tmp_path / "run")]
    options = ["--freeze", "network.embedding", "--replay", str(clusters), "--valid", "4", "max_steps=3", "-q"]
    monkeypatch.setattr("sys.argv", [*arguments, *options, "--no-report", "tensorboard=false"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    config = read_yaml(tmp_path / "run" / "config.yaml")
    assert config["start"]["freeze"] == ["network.embedding"]
    assert len(read(clusters, index=":")) == 24
    monkeypatch.setattr("sys.argv", [*arguments[:2], *arguments[4:], "--freeze", "network"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "name it with --from" in capsys.readouterr().err
