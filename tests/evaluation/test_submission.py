"""Submissions have the published keys and shapes, and the checker notices what does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tdn.errors import DataError
from tdn.evaluation import FramePrediction
from tdn.evaluation.submission import (
    SPLITS,
    check_submission,
    join_splits,
    read_npz,
    split_arrays,
    write_npz,
)
from tdn.structure import Structure


def structure(sid: object, n: int, fid: int | None = None) -> Structure:
    """`n` atoms, the first one fixed."""
    return Structure(
        numbers=np.full(n, 29),
        positions=np.arange(3.0 * n).reshape(n, 3),
        cell=np.eye(3) * 10.0,
        pbc=np.ones(3, dtype=bool),
        fixed=np.arange(n) == 0,
        info={"sid": sid} if fid is None else {"sid": sid, "fid": fid},
    )


SYSTEMS = [structure(20, 3, 1), structure(3, 2, 5), structure(100, 4, 0)]
PREDICTIONS = [FramePrediction(0.1 * k, np.full((len(s), 3), float(k)), None) for k, s in enumerate(SYSTEMS)]


def submission(task: str, layout: str = "leaderboard", dataset: str = "oc20") -> dict[str, np.ndarray]:
    predictions = [s.positions + 1 for s in SYSTEMS] if task == "is2rs" else PREDICTIONS
    arrays = split_arrays(task, SYSTEMS, predictions, layout=layout, dataset=dataset)
    return join_splits(dict.fromkeys(SPLITS[dataset], arrays), dataset)


def test_legacy_frames_drop_fixed_atoms_and_are_sorted_as_text():
    arrays = split_arrays("s2ef", SYSTEMS, PREDICTIONS, layout="legacy", dataset="oc20")
    assert arrays["ids"].tolist() == ["100_0", "20_1", "3_5"]
    assert arrays["energy"].dtype == arrays["forces"].dtype == np.float16
    np.testing.assert_allclose(arrays["energy"], [0.2, 0.0, 0.1], rtol=1e-3)
    # 3, 2 and 1 free atoms.
    assert arrays["chunk_idx"].tolist() == [3, 5]
    assert [np.unique(part).tolist() for part in np.split(arrays["forces"], arrays["chunk_idx"])] == [[2], [0], [1]]
    assert split_arrays("s2ef", SYSTEMS, PREDICTIONS, layout="legacy", dataset="oc22")["forces"].dtype == np.float32


def test_the_current_layout_has_all_atoms_and_names_without_frames():
    arrays = split_arrays("s2ef", SYSTEMS, PREDICTIONS)
    assert arrays["ids"].tolist() == ["100", "20", "3"]
    assert arrays["chunk_idx"].tolist() == [4, 7]
    assert arrays["forces"].shape == (9, 3)
    assert arrays["forces"].dtype == np.float32


def test_relaxed_positions_are_of_all_atoms_in_both_layouts():
    moved = [s.positions + k for k, s in enumerate(SYSTEMS)]
    for layout in ("legacy", "leaderboard"):
        arrays = split_arrays("is2rs", SYSTEMS, moved, layout=layout)
        assert set(arrays) == {"ids", "pos", "chunk_idx"}
        assert arrays["ids"].tolist() == ["100", "20", "3"]
        np.testing.assert_allclose(arrays["pos"][:4], moved[2])


def test_a_system_that_comes_twice_is_written_once():
    arrays = split_arrays("is2re", [*SYSTEMS, SYSTEMS[0]], [*PREDICTIONS, PREDICTIONS[0]])
    assert arrays["ids"].tolist() == ["100", "20", "3"]
    assert set(arrays) == {"ids", "energy"}


def test_two_structures_of_one_name_are_refused():
    twin = replace(SYSTEMS[0], positions=SYSTEMS[0].positions + 1, info={"sid": 20, "fid": 2})
    with pytest.raises(DataError, match="Two structures are called 20"):
        split_arrays("s2ef", [*SYSTEMS, twin], [*PREDICTIONS, PREDICTIONS[0]])
    assert len(split_arrays("s2ef", [*SYSTEMS, twin], [*PREDICTIONS, PREDICTIONS[0]], layout="legacy")["ids"]) == 4


def test_structures_without_a_name_are_refused():
    with pytest.raises(DataError, match="no fid"):
        split_arrays("s2ef", [structure(1, 2)], PREDICTIONS[:1], layout="legacy")


def test_a_prediction_that_is_not_finite_is_refused():
    broken = FramePrediction(np.nan, np.zeros((3, 3)), None)
    with pytest.raises(DataError, match="energy is not finite in 1 places"):
        split_arrays("is2re", SYSTEMS[:1], [broken])


@pytest.mark.parametrize("task", ["s2ef", "is2re", "is2rs"])
@pytest.mark.parametrize("layout", ["legacy", "leaderboard"])
@pytest.mark.parametrize("dataset", ["oc20", "oc22"])
def test_what_is_written_passes_the_check(task: str, layout: str, dataset: str, tmp_path: Path):
    write_npz(tmp_path / "submission.npz", submission(task, layout, dataset))
    arrays = read_npz(tmp_path / "submission.npz")
    test_sets = dict.fromkeys(SPLITS[dataset], SYSTEMS)
    assert check_submission(arrays, task, layout=layout, dataset=dataset, structures=test_sets) == []


def damaged(**changes: object) -> list[str]:
    """Problems of a legacy S2EF submission after changes to its split `id`; None removes an array."""
    arrays = submission("s2ef", "legacy")
    for key, value in changes.items():
        if value is None:
            del arrays[f"id_{key}"]
        else:
            arrays[f"id_{key}"] = np.asarray(value)
    return check_submission(arrays, "s2ef", layout="legacy", structures={"id": SYSTEMS})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"forces": None}, "`id_forces` is missing"),
        ({"extra": [1]}, "`id_extra` does not belong"),
        ({"ids": ["100_0", "100_0", "3_5"]}, "id: 1 ids come more than once"),
        ({"ids": ["3_5", "20_1", "100_0"]}, "id: ids are not sorted"),
        ({"ids": ["100", "20", "3"]}, "id: ids should be <sid>_<fid>"),
        ({"ids": [1, 2, 3]}, "id: ids should be a list of text"),
        ({"ids": ["100_0", "20_1", "4_5"]}, "id: 1 systems are missing, such as 3_5"),
        ({"energy": [0.0, 1.0]}, "id: energy should have shape (3,)"),
        ({"energy": [0.0, 1.0, np.inf]}, "id: energy is not finite in 1 places"),
        ({"energy": [0, 1, 2]}, "id: energy should have shape (3,), got int64"),
        ({"forces": np.zeros((6, 2))}, "id: forces should have shape (6, 3)"),
        ({"chunk_idx": [3]}, "id: chunk_idx should have shape (2,)"),
        ({"chunk_idx": [3, 6]}, "id: chunk_idx should ascend"),
        ({"chunk_idx": [2, 5]}, "id: 2 systems have another number of free atoms, such as 100_0: 2, expected 3"),
    ],
)
def test_the_checker_notices(changes: dict[str, object], problem: str):
    found = damaged(**changes)
    assert any(text.startswith(problem) for text in found), found


def test_layouts_are_told_apart_by_their_numbers_of_atoms():
    arrays = submission("s2ef", "leaderboard")
    assert check_submission(arrays, "s2ef", layout="leaderboard", structures={"id": SYSTEMS}) == []
    assert check_submission(arrays, "s2ef", layout="legacy")


def test_splits_of_a_submission_are_complete():
    arrays = split_arrays("is2re", SYSTEMS, PREDICTIONS)
    with pytest.raises(DataError, match="check ood"):
        join_splits({"id": arrays}, "oc22")
    with pytest.raises(DataError, match="check test"):
        join_splits({"id": arrays, "ood": arrays, "test": arrays}, "oc22")


def test_a_file_that_needs_unpickling_is_refused(tmp_path: Path):
    np.savez(tmp_path / "bad.npz", id_ids=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="no npz of plain arrays"):
        read_npz(tmp_path / "bad.npz")
