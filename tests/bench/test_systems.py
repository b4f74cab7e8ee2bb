"""The structures of the benchmarks are what they claim to be."""

from __future__ import annotations

import numpy as np
import pytest

from tdn.bench.systems import (
    HOH_ANGLE,
    OH_LENGTH,
    SYSTEMS,
    ethanol,
    make_system,
    repeat,
    silicon,
    water,
    water_of_size,
)
from tdn.errors import ConfigError
from tdn.neighbors import neighbor_list


@pytest.mark.parametrize(("name", "atoms"), [("aspirin", 21), ("water", 192), ("water1536", 1536), ("si", 512)])
def test_system_has_its_atoms(name: str, atoms: int) -> None:
    assert len(make_system(name)) == atoms


def test_unknown_system_is_refused() -> None:
    with pytest.raises(ConfigError, match="aspirin"):
        make_system("gold")


def test_lips_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TDN_DATA", raising=False)
    with pytest.raises(ConfigError, match="TDN_DATA"):
        SYSTEMS["lips"]()


def test_water_has_the_density_of_the_liquid() -> None:
    structure = water()
    grams = (64 * 18.015) / 6.02214076e23
    assert structure.volume is not None
    assert grams / (structure.volume * 1e-24) == pytest.approx(0.997, abs=1e-3)


def test_water_molecules_are_intact_and_do_not_touch() -> None:
    structure = water()
    molecules = structure.positions.reshape(-1, 3, 3)
    bonds = molecules[:, 1:] - molecules[:, :1]
    lengths = np.linalg.norm(bonds, axis=-1)
    angles = np.degrees(np.arccos((bonds[:, 0] * bonds[:, 1]).sum(-1) / lengths.prod(axis=1)))
    np.testing.assert_allclose(lengths, OH_LENGTH, atol=1e-12)
    np.testing.assert_allclose(angles, HOH_ANGLE, atol=1e-9)
    senders, receivers, shifts = neighbor_list(structure, 1.4)
    assert (senders // 3 == receivers // 3).all()
    assert not shifts.any()


def test_same_seed_gives_the_same_structure() -> None:
    np.testing.assert_array_equal(water(3, seed=5).positions, water(3, seed=5).positions)
    assert not np.array_equal(water(3, seed=5).positions, water(3, seed=6).positions)


def test_silicon_has_four_bonds_an_atom() -> None:
    senders, *_ = neighbor_list(silicon(2), 3.0)
    np.testing.assert_array_equal(np.bincount(senders), 4)


def test_repeated_box_has_the_same_neighbours() -> None:
    box = silicon(2)
    single, double = neighbor_list(box, 4.0)[0], neighbor_list(repeat(box, (2, 1, 2)), 4.0)[0]
    assert len(double) == 4 * len(single)


@pytest.mark.parametrize("size", [100, 192, 1000, 30000])
def test_box_has_about_the_asked_size(size: int) -> None:
    assert len(water_of_size(size)) == pytest.approx(size, rel=0.25)


def test_ethanol_frames_differ() -> None:
    first, second = ethanol(2)
    assert len(first) == 9
    assert not np.allclose(first.positions, second.positions)
