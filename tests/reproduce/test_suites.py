"""The accuracy suite: its files, splits and published numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tdn.data.reading import read_frames
from tdn.datasets import organics_path
from tdn.errors import ConfigError, DataError
from tdn.reproduce.entries import choose_entries, data_folder, read_entry, write_frames
from tdn.reproduce.figure import pareto_front
from tdn.reproduce.suites import SUITES, Block, Entry, Part

COUNTS = {
    ("rmd17", "ethanol"): {"train": 950, "valid": 50, "test": 1000},
    ("rmd17-50", "ethanol"): {"train": 50, "valid": 50, "test": 1000},
    ("acac", "300K"): {"train": 450, "valid": 50, "300K": 650, "H transfer": 15},
    # 31 frames of the first block are training frames too.
    ("3bpa", "300K"): {"train": 450, "valid": 50, "mixed 300K": 136, "mixed 600K": 167, "mixed 1200K": 166},
    ("mlearn-si", "si"): {"train": 193, "valid": 21, "test": 25},
    ("mlearn-li", "li"): {"train": 217, "valid": 24, "test": 29},
    ("water", "water"): {"train": 300, "valid": 20, "data_3": 80},
    ("solvent", "clusters"): {"train": 120, "valid": 14, "1-2 molecules": 120, "3-6 molecules": 146},
    ("lips", "lips"): {"train": 140, "valid": 10, "last 50": 50},
    ("shipped", "organics"): {"train": 345, "valid": 62, "new molecules": 93},
}


@pytest.mark.parametrize(("suite", "name"), COUNTS)
def test_entries_have_the_frames_that_they_say(suite: str, name: str, request: pytest.FixtureRequest) -> None:
    data = None if suite == "shipped" else request.getfixturevalue("data_dir")
    folder = data_folder(suite, data)
    entry = SUITES[suite].entry(name)
    found = read_entry(entry, folder)
    assert found.counts() == COUNTS[suite, name]
    assert found.train.report.forces.key is not None
    again = read_entry(entry, folder)
    assert again.valid.origins == found.valid.origins


def test_rmd17_has_its_ten_molecules_with_published_numbers() -> None:
    entries = SUITES["rmd17"].entries
    assert len(entries) == 10
    for entry in entries.values():
        assert [row.model for row in entry.blocks["test"].published][:4] == ["MACE", "Allegro", "BOTNet", "NequIP"]


def test_more_frames_have_smaller_published_errors() -> None:
    few, many = (SUITES[name].entries for name in ("rmd17-50", "rmd17"))
    assert few.keys() == many.keys()
    for name, entry in few.items():
        published = {row.model: row.forces for row in many[name].blocks["test"].published}
        for row in entry.blocks["test"].published:
            assert row.forces > published[row.model]


def test_no_molecule_of_the_shipped_set_is_trained_and_tested() -> None:
    found = read_entry(SUITES["shipped"].entry("organics"), data_folder("shipped", None))
    parts = [found.train, found.valid, found.blocks["new molecules"]]
    molecules = [name for part in parts for name in {structure.info["molecule"] for structure in part.structures}]
    assert len(molecules) == len(set(molecules))


def test_missing_data_are_told_with_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Name the folder.*github\.com/andersx/rmd17-npz"):
        data_folder("rmd17", None)
    with pytest.raises(DataError, match=r"No data of acac.*github\.com/davkovacs"):
        data_folder("acac", tmp_path)


def test_entries_without_files_are_left_out_unless_they_are_asked_for(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / f"rmd17_ethanol_{part}_01.npz").touch()
    entries, remarks = choose_entries("rmd17", tmp_path, [])
    assert [entry.name for entry in entries] == ["ethanol"]
    assert len(remarks) == 9
    with pytest.raises(DataError, match=r"aspirin: no rmd17_aspirin_train_01\.npz.*Get the files from"):
        choose_entries("rmd17", tmp_path, ["ethanol", "aspirin"])
    with pytest.raises(ConfigError, match="there are aspirin, azobenzene"):
        choose_entries("rmd17", tmp_path, ["etanol"])


def test_training_frames_are_never_tested() -> None:
    part = ("train.extxyz",)
    entry = Entry("x", Part(part, 0, 10), 2, {"test": Block(Part(part, 5, 20))})
    folder = organics_path("train").parent
    assert read_entry(entry, folder).counts() == {"train": 8, "valid": 2, "test": 10}
    with pytest.raises(DataError, match="no frames that training does not see"):
        read_entry(Entry("x", Part(part, 0, 10), 2, {"test": Block(Part(part, 5, 10))}), folder)


def test_written_frames_are_read_as_the_same(tmp_path: Path) -> None:
    found = read_entry(SUITES["shipped"].entry("organics"), data_folder("shipped", None))
    write_frames(tmp_path / "train.extxyz", found.train)
    again = read_frames(tmp_path / "train.extxyz")
    assert again.isolated_atoms == pytest.approx(found.train.isolated_atoms)
    assert len(again) == len(found.train)
    for old, new in zip(found.train.structures, again.structures, strict=True):
        assert new.energy == old.energy
        assert np.allclose(new.positions, old.positions, atol=1e-7)
        assert np.allclose(new.forces, old.forces, atol=1e-7)


def test_front_is_what_nothing_beats_in_cost_and_error() -> None:
    points = [(3.0, 5.0), (1.0, 9.0), (2.0, 9.5), (2.0, 7.0), (4.0, 5.0)]
    assert pareto_front(points) == [(1.0, 9.0), (2.0, 7.0), (3.0, 5.0)]
