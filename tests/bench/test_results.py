"""Arithmetic of medians, ratios and exponents, on times that are made up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tdn.bench.figures import draw
from tdn.bench.peers import Peer
from tdn.bench.results import explanations, exponent, short, simulation_facts, summarise, table_columns, table_rows
from tdn.bench.rounds import Entry
from tdn.bench.suites import exponents, saturation


def entry(*times: float, name: str = "forward") -> Entry:
    return Entry(Peer("p", "m:f", "its work"), mode="eager", rounds={name: list(times)}, peak_mib={})


def absent(reason: str) -> Entry:
    return Entry(Peer("p", "m:f", "its work"), absent=reason)


def test_ratio_is_the_median_of_the_ratios_of_the_rounds() -> None:
    # A slow second round hits both; medians of the times alone would give 3 / 2.
    found = summarise({"ours": entry(1.0, 10.0, 2.0), "peer": entry(3.0, 30.0, 2.0)})["passes"]["forward"]
    assert found["ours_ms"] == 2.0
    assert found["ratios"] == {"peer": 3.0}
    assert found["ratio_quartiles"] == {"peer": [2.0, 3.0]}
    assert found["times"]["peer"] == {"median_ms": 3.0, "quartiles_ms": [2.5, 16.5]}


def test_absent_peer_is_listed_with_its_reason() -> None:
    summary = summarise({"ours": entry(1.0), "peer": absent("not installed")})
    assert summary["absent"] == {"peer": "not installed"}
    assert summary["passes"]["forward"]["ratios"] == {}
    assert ("peer", "absent: not installed") in explanations([summary])


def test_peer_that_is_absent_from_one_row_only_is_listed_with_the_row() -> None:
    size = {"lmax": 6, "channels": 8, "neighbors": 5, "nodes": 4, "edges": 20}
    rows = [
        {**size, "lmax": 1, **summarise({"ours": entry(1.0), "peer": entry(2.0)})},
        {**size, **summarise({"ours": entry(1.0), "peer": absent("not built within 300 s, the limit")})},
    ]
    reason = "absent at L=6, R=None, 8 channels, 5 neighbours: not built within 300 s, the limit"
    assert ("peer", reason) in explanations(rows)


def test_times_without_ours_have_no_ratios() -> None:
    summary = summarise({"ours": absent("failed"), "peer": entry(1.0)})
    assert "ratios" not in summary["passes"]["forward"]
    assert table_rows(summary, ["forward"])[0][0] == "peer"


def test_table_is_sorted_and_as_wide_as_its_heading() -> None:
    summary = summarise({"ours": entry(2.0, 2.0), "slow": entry(8.0, 8.0), "fast": entry(1.0, 1.0)})
    rows = table_rows(summary, ["forward"])
    assert [row[0] for row in rows] == ["fast", "ours", "slow"]
    assert {len(row) for row in rows} == {len(table_columns(["forward"]))}


def test_exponent_of_a_power_law_is_its_power() -> None:
    assert exponent([1, 2, 4, 6], [3 * n**2.5 for n in (1, 2, 4, 6)]) == pytest.approx(2.5)
    assert exponent([2], [1.0]) is None


def test_exponents_are_of_the_time_an_edge_from_degree_two_on() -> None:
    rows = [
        {"lmax": lmax, "weights": "path", "edges": 10 * lmax, **summarise({"ours": entry(lmax * 7.0 * lmax**2)})}
        for lmax in (2, 3, 4)
    ]
    slow = {"lmax": 1, "weights": "path", "edges": 1, **summarise({"ours": entry(99.0)})}
    (fit,) = exponents([slow, *rows], ["weights"])
    assert fit["exponents"] == {"ours": pytest.approx(2.0)}
    assert (fit["pass"], fit["weights"]) == ("forward", "path")


def test_simulation_speed_and_memory() -> None:
    facts = simulation_facts(1.0, 1000, 100.0)
    assert facts == {"ns_per_day_1fs": 86.4, "us_per_atom": 1.0, "kib_per_atom": 102.4, "atoms_in_24_gib": 245760}
    assert "atoms_in_24_gib" not in simulation_facts(1.0, 21, 100.0)


def test_saturation_compares_large_boxes_only() -> None:
    rows = [
        {"system": "water", "threads": 1, "atoms": n, "us_per_atom": {"ours": t}, "memory_kib_per_atom": {"ours": m}}
        for n, t, m in ((100, 50.0, 90.0), (3000, 10.0, 24.0), (9000, 12.0, 20.0))
    ]
    (found,) = saturation(rows)
    assert (found["us_per_atom"], found["memory_kib_per_atom"]) == (1.2, 1.2)
    assert found["atoms_in_24_gib"] == 24 * 2**20 // 20


@pytest.mark.parametrize(
    ("value", "text"), [(0.012345, "0.0123"), (1.5, "1.5"), (123.4, "123"), (6973.0, "6970"), (0.0, "0")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


def rows_of_convolutions(*degrees: int) -> list[dict]:
    size = {"channels": 8, "neighbors": 5, "nodes": 4, "edges": 20}
    return [{"lmax": n, **size, **summarise({"ours": entry(1.0 * n), "peer": entry(2.0 * n)})} for n in degrees]


@pytest.mark.parametrize("degrees", [(2,), (1, 2, 3)])
def test_picture_of_convolutions_is_drawn(tmp_path: Path, degrees: tuple[int, ...]) -> None:
    draw({"suite": "conv", "rows": rows_of_convolutions(*degrees)}, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_picture_of_products_is_drawn(tmp_path: Path) -> None:
    rows = [
        {"product": name, "weights": weights, "edges": 20, **summarise({"ours": entry(1.0), "peer": entry(2.0)})}
        for name in ("T1", "T2") for weights in ("path", "shared")
    ]  # fmt: skip
    draw({"suite": "product", "rows": rows}, tmp_path / "picture.svg")
    text = (tmp_path / "picture.svg").read_text()
    assert all(word in text for word in ("T1", "T2", "a weight a path", "shared weights", "peer"))


def test_results_are_json() -> None:
    json.dumps(rows_of_convolutions(1, 2), allow_nan=False)
