"""Whole runs: what they write, what they refuse, and that they learn."""

from __future__ import annotations

import csv
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write

from oc_files import is2re_record, slabs, write_records
from tdn.data.reading import read_frames
from tdn.errors import ConfigError, DataError, ModelFileError
from tdn.evaluation.evaluate import evaluate
from tdn.graph import AtomGraph
from tdn.modelfile import load_model, read_header
from tdn.models.architectures import build_potential
from tdn.models.paper_potential import PaperPotential
from tdn.structure import Structure
from tdn.training.config import RunConfig
from tdn.training.logs import COLUMNS, Reporter
from tdn.training.loop import TrainingDiverged
from tdn.training.run import RUN_FILES, train

from .conftest import assert_same_bits, morse_clusters, run_config, run_content


class Listener(Reporter):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    warning = line


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_writes_its_files_and_says_every_choice(clusters: Path, tmp_path: Path):
    heard = Listener()
    config = run_content(clusters, tmp_path / "run")
    config["data"]["test"] = 3
    result = train(RunConfig.parse(config), heard)
    assert {p.name for p in (tmp_path / "run").iterdir()} == {*RUN_FILES} - {"report.html"}
    said = "\n".join(heard.lines)
    assert "energies from `REF_energy`, 24 of 24 frames" in said
    assert "17 train, 4 valid, 3 test" in said
    rows = rows_of(tmp_path / "run")
    assert tuple(rows[0]) == COLUMNS
    assert [int(row["step"]) for row in rows] == [5, 10, 12]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == result.steps == 12
    assert summary["data"]["train"]["num_frames"] == 17
    assert summary["errors"]["test"] == result.errors["test"].to_dict()
    assert result.errors["test"].frames == 3


def test_the_model_file_reproduces_the_errors_that_were_reported(clusters: Path, tmp_path: Path):
    config = run_content(clusters, tmp_path / "run", max_steps=20)
    config["data"] = {"train": str(clusters), "valid": str(clusters)}
    result = train(RunConfig.parse(config))
    model = load_model(result.model_path)
    errors = []
    for atoms in read(clusters, ":"):
        prediction = model(AtomGraph.from_structure(Structure.from_ase(atoms), model.r_max))
        errors.append(prediction.forces.numpy() - atoms.arrays["REF_forces"])
    expected = pytest.approx(1e3 * np.abs(np.concatenate(errors)).mean(), rel=1e-5)
    assert result.errors["valid"].forces.mae == expected
    best = min(rows_of(tmp_path / "run"), key=lambda row: float(row["valid_loss"]))
    assert float(best["valid_forces_mae"]) == expected
    header = read_header(result.model_path)["metadata"]
    assert header["valid"]["forces_mae"] == result.errors["valid"].forces.mae
    assert header["valid"]["energy_rmse_mev_per_atom"] == result.errors["valid"].energy_per_atom.rmse
    assert header["data"]["train"]["sha256"]
    assert header["elements"] == ["H", "C"]
    assert str(tmp_path) not in json.dumps(header)


def test_a_few_frames_can_be_learnt_by_heart(clusters: Path, tmp_path: Path):
    config = run_content(clusters, tmp_path / "run", max_steps=250, validate_every=250, warmup_steps=10)
    config["data"] = {"train": str(tmp_path / "few.extxyz"), "valid": str(tmp_path / "few.extxyz")}
    config["model"] |= {"num_channels": 8, "lmax": 2, "product_order": 3}
    frames = read(clusters, ":")[:4]
    write(tmp_path / "few.extxyz", frames)
    result = train(RunConfig.parse(config))
    typical = 1e3 * np.abs(np.concatenate([atoms.arrays["REF_forces"] for atoms in frames])).mean()
    assert result.errors["valid"].forces.mae < 0.05 * typical
    assert result.errors["valid"].energy_per_atom.mae < 10


def test_the_best_weights_are_kept_and_not_the_last(clusters: Path, tmp_path: Path):
    result = train(
        run_config(clusters, tmp_path / "run", max_steps=100, lr=0.1, lr_final=1.0, ema_decay=0.0, patience=3)
    )
    losses = [float(row["valid_loss"]) for row in rows_of(tmp_path / "run")]
    best = int(np.argmin(losses))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["best_step"] == 5 * (best + 1)
    assert best < len(losses) - 1
    written = float(rows_of(tmp_path / "run")[best]["valid_forces_mae"])
    assert result.errors["valid"].forces.mae == pytest.approx(written, rel=1e-5)
    # Patience: as many validations without improvement, and no more.
    assert len(losses) - 1 - best == 3
    assert summary["stopped_early"]


def test_a_wall_clock_budget_is_kept_and_annealed_to(clusters: Path, tmp_path: Path):
    result = train(run_config(clusters, tmp_path / "run", max_steps=None, max_time="2s", validate_every=10))
    assert 2.0 <= result.elapsed < 4.0
    rows = rows_of(tmp_path / "run")
    assert float(rows[-1]["lr"]) < 0.1 * max(float(row["lr"]) for row in rows)


def test_training_that_diverges_names_the_frames_and_keeps_the_checkpoint(clusters: Path, tmp_path: Path):
    config = run_config(clusters, tmp_path / "run", lr=1e30, warmup_steps=0, clip_grad=None, checkpoint_interval=0)
    with pytest.raises(TrainingDiverged, match=r"frames clusters.extxyz:\d+.*lower training.lr"):
        train(config)
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()


def test_a_folder_with_a_run_in_it_is_left_alone_unless_told_otherwise(clusters: Path, tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    config = run_config(clusters, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"--resume .* --overwrite"):
        train(config)
    with pytest.raises(ConfigError, match="one of"):
        train(config, resume=True, overwrite=True)
    train(config, overwrite=True)
    train(config, overwrite=True)
    assert len(rows_of(tmp_path / "run")) == 3
    assert (tmp_path / "run" / "thesis.tex").read_text() == "precious"


def test_an_output_that_is_a_file_is_refused(clusters: Path, tmp_path: Path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        train(run_config(clusters, tmp_path / "run"))


def test_a_run_that_failed_at_its_data_is_not_in_the_way_of_the_next(clusters: Path, tmp_path: Path):
    with pytest.raises(DataError, match="No such file"):
        train(run_config(tmp_path / "nothing.extxyz", tmp_path / "run"))
    assert train(run_config(clusters, tmp_path / "run")).steps == 12


def test_training_files_with_isolated_atoms_only_are_refused(tmp_path: Path):
    write(tmp_path / "atoms.extxyz", [Atoms("H", info={"REF_energy": -9.0})])
    with pytest.raises(DataError, match="isolated atoms only"):
        train(run_config(tmp_path / "atoms.extxyz", tmp_path / "run"))


def test_a_finished_run_resumes_to_itself_and_can_be_extended(clusters: Path, tmp_path: Path):
    config = run_config(clusters, tmp_path / "run")
    first = train(config)
    copy = tmp_path / "copy.tdn"
    copy.write_bytes(first.model_path.read_bytes())
    again = train(config, resume=True)
    assert again.steps == first.steps
    assert again.errors == first.errors
    assert_same_bits(copy, again.model_path)
    longer = train(run_config(clusters, tmp_path / "run", max_steps=20), resume=True)
    assert longer.steps == 20
    assert [int(row["step"]) for row in rows_of(tmp_path / "run")] == [5, 10, 12, 15, 20]


def test_resuming_with_another_configuration_or_other_data_is_refused(clusters: Path, tmp_path: Path):
    data = tmp_path / "data.extxyz"
    write(data, morse_clusters(24))
    train(run_config(data, tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"training\.lr"):
        train(run_config(data, tmp_path / "run", lr=0.5), resume=True)
    write(data, morse_clusters(24, seed=1))
    with pytest.raises(ModelFileError, match="other data"):
        train(run_config(data, tmp_path / "run"), resume=True)


def test_a_damaged_checkpoint_is_an_error_and_not_a_fresh_start(clusters: Path, tmp_path: Path):
    config = run_config(clusters, tmp_path / "run")
    train(config)
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ModelFileError, match="damaged"):
        train(config, resume=True)


def test_the_seed_decides_the_weights(clusters: Path, tmp_path: Path):
    paths = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        content = run_content(clusters, tmp_path / name)
        paths.append(train(RunConfig.parse({**content, "seed": seed})).model_path)
    assert_same_bits(paths[0], paths[1])
    with pytest.raises(AssertionError):
        assert_same_bits(paths[0], paths[2])


def test_isolated_atoms_give_references_and_the_mean_binding_goes_into_shifts(clusters: Path, tmp_path: Path):
    atoms = [Atoms(s, info={"REF_energy": e, "config_type": "IsolatedAtom"}) for s, e in (("H", -9.0), ("C", -8.0))]
    write(tmp_path / "atoms.extxyz", atoms)
    content = run_content(clusters, tmp_path / "run")
    content["data"]["train"] = [str(clusters), str(tmp_path / "atoms.extxyz")]
    model = load_model(train(RunConfig.parse(content)).model_path)
    lone = model(AtomGraph.from_structure(Structure.from_ase(Atoms("C")), model.r_max))
    assert lone.energy.item() == -8.0
    # Clusters have about -10 eV an atom: 1 to 2 eV of binding start in the shifts.
    assert (model.shift * model.scale).mean().item() == pytest.approx(-2.0, abs=0.8)


def test_elements_get_matrices_of_their_own_as_far_as_there_are_several(clusters: Path, tmp_path: Path):
    asked = run_content(clusters, tmp_path / "asked")
    asked["model"]["element_matrices"] = 3
    configs = [
        load_model(train(config).model_path).config
        for config in (run_config(clusters, tmp_path / "run"), RunConfig.parse(asked))
    ]
    assert [config.element_matrices for config in configs] == [2, 3]


def test_data_without_forces_can_be_learnt_from_if_asked_for(tmp_path: Path):
    frames = morse_clusters(24)
    for atoms in frames:
        del atoms.arrays["REF_forces"]
    write(tmp_path / "data.extxyz", frames)
    content = run_content(tmp_path / "data.extxyz", tmp_path / "run")
    with pytest.raises(DataError, match="No forces found"):
        train(RunConfig.parse(content))
    content["data"]["forces_key"] = "none"
    result = train(RunConfig.parse({**content, "output": str(tmp_path / "other")}))
    assert result.errors["valid"].forces is None
    assert result.errors["valid"].energy.mae > 0


def test_frames_without_forces_count_for_their_energy_only(tmp_path: Path):
    frames = morse_clusters(16)
    for atoms in frames[::2]:
        del atoms.arrays["REF_forces"]
    write(tmp_path / "data.extxyz", frames)
    content = run_content(tmp_path / "data.extxyz", tmp_path / "run")
    with pytest.raises(DataError, match="missing in 8 of 16"):
        train(RunConfig.parse(content))
    content["data"]["allow_partial"] = True
    content["output"] = str(tmp_path / "other")
    assert train(RunConfig.parse(content)).errors["valid"].forces.count < 3 * 4 * 5


def test_stress_of_crystals_is_learnt(tmp_path: Path):
    rng, frames = np.random.default_rng(0), []
    for _ in range(10):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3))), scale_atoms=True)
        atoms.rattle(0.05, rng=rng)
        atoms.calc = EMT()
        atoms.info["REF_energy"] = atoms.get_potential_energy()
        atoms.info["REF_stress"] = atoms.get_stress(voigt=False)
        atoms.arrays["REF_forces"] = atoms.get_forces()
        atoms.calc = None
        frames.append(atoms)
    write(tmp_path / "cu.extxyz", frames)
    content = run_content(tmp_path / "cu.extxyz", tmp_path / "run", max_steps=80, validate_every=1, batch_size=5)
    content["data"]["valid"] = str(tmp_path / "cu.extxyz")
    content["training"]["energy_weight"] = content["training"]["forces_weight"] = 0
    train(RunConfig.parse(content))
    errors = [float(row["valid_stress_rmse"]) for row in rows_of(tmp_path / "run")]
    assert errors[-1] < 0.5 * errors[0]


def test_batches_hold_to_the_edge_budget(clusters: Path, tmp_path: Path):
    config = run_config(clusters, tmp_path / "run", max_epochs=1, max_steps=None, batch_size=20, max_edges=12)
    # Three atoms have 6 edges and five up to 20: at most two clusters in a batch, so 20 frames need ten steps or more.
    assert train(config).steps >= 10


def test_tensorboard_gets_the_rows_too(clusters: Path, tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(run_config(clusters, tmp_path / "run", tensorboard=True))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    logged = [(event.step, event.value) for event in events.Scalars("valid_forces_mae")]
    rows = rows_of(tmp_path / "run")
    assert [step for step, _ in logged] == [int(row["step"]) for row in rows]
    assert [value for _, value in logged] == pytest.approx([float(row["valid_forces_mae"]) for row in rows], rel=1e-6)


def test_weights_and_biases_is_used_when_asked_for_only(clusters: Path, tmp_path: Path, monkeypatch):
    calls: list[tuple] = []

    class Run:
        def log(self, values: dict, step: int) -> None:
            calls.append((step, values["valid_forces_mae"]))

        def finish(self) -> None:
            calls.append(("finish",))

    fake = types.ModuleType("wandb")
    fake.init = lambda **options: calls.append((options["project"],)) or Run()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    train(run_config(clusters, tmp_path / "plain"))
    assert calls == []
    train(run_config(clusters, tmp_path / "run", wandb_project="potentials"))
    rows = [(int(row["step"]), float(row["valid_forces_mae"])) for row in rows_of(tmp_path / "run")]
    assert calls == [("potentials",), *rows, ("finish",)]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="not installed"):
        train(run_config(clusters, tmp_path / "missing", wandb_project="potentials"))


def test_torch_random_numbers_are_not_consumed_by_a_step(clusters: Path, tmp_path: Path):
    config = run_config(clusters, tmp_path / "run", max_steps=2)
    train(config)
    first = torch.rand(1)
    train(run_config(clusters, tmp_path / "other", max_steps=4))
    assert torch.equal(first, torch.rand(1))


def test_relaxed_energies_are_learnt_from_initial_structures(tmp_path: Path):
    records = [is2re_record(atoms, k) for k, atoms in enumerate(slabs(20))]
    np.savez(tmp_path / "linref.npz", coeff=np.full(90, -1.0))
    content = run_content(write_records(tmp_path / "is2re.lmdb", records), tmp_path / "run", max_steps=2)
    content["data"] |= {"valid": 2, "forces_key": "none", "ocp": {"max_energy": 1e3}}
    content["data"]["reference_energies"] = str(tmp_path / "linref.npz")
    result = train(RunConfig.parse(content))
    assert result.errors["valid"].energy is not None
    assert result.errors["valid"].forces is None
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "linear reference" in summary["reference_energies"]
    train(RunConfig.parse(yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())), resume=True)


@pytest.mark.parametrize(("forces", "energy"), [("direct", "per_atom"), ("gradient", "extensive")])
def test_the_papers_network_trains_with_a_force_head_and_with_gradients(
    clusters: Path, tmp_path: Path, forces: str, energy: str
):
    content = run_content(clusters, tmp_path / "run", max_steps=120, lr=1e-2, validate_every=120, energy_weight=0.1)
    content["model"] = {
        **{"architecture": "PaperTDN", "num_channels": 8, "num_layers": 1, "num_heads": 2, "num_gaussians": 16},
        **{"forces": forces, "energy": energy, "r_max": 4.0, "dropout": 0.0},
    }
    result = train(RunConfig.parse(content))
    potential = load_model(result.model_path)
    assert isinstance(potential, PaperPotential)
    assert potential.config.avg_num_nodes == pytest.approx(4.0, abs=0.3)
    frames = read_frames(clusters).structures
    untrained = build_potential(potential.config, {1: 0.0, 6: 0.0}, potential.scale).eval()
    maes = [evaluate(p, frames).overall.forces.mae for p in (potential, untrained)]
    assert maes[0] < 0.8 * maes[1]


def test_a_final_energy_weight_changes_a_run_in_its_last_part_only(clusters: Path, tmp_path: Path):
    histories = {}
    for name, options in {"plain": {}, "staged": {"energy_weight_final": 1e4, "final_fraction": 0.5}}.items():
        train(run_config(clusters, tmp_path / name, max_steps=20, validate_every=5, **options))
        with (tmp_path / name / "metrics.csv").open(newline="") as file:
            histories[name] = [row["valid_forces_mae"] for row in csv.DictReader(file)]
    plain, staged = histories["plain"], histories["staged"]
    assert plain[:2] == staged[:2]
    assert plain[2] != staged[2]
