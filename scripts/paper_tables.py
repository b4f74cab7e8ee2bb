"""Print the tables of docs/howto/paper.md from benchmarks/results: speed, twins and repairs.

python scripts/paper_tables.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from readme_tables import markdown

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def read(name: str) -> dict[str, Any]:
    """A result."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def speed() -> str:
    """Times of the networks, those of all but cp as multiples of it, eager and compiled."""
    rows = []
    for row in read("paper_throughput.json")["rows"]:
        networks = row["networks"]
        names = [n for n in ("exact", "cg", "cg_paths", "e3nn", "e3nn per degree") if n in networks]
        cells = [f"{networks[n]['times_cp']:.2f} / {networks[n]['times_fastest_cp']:.2f}" for n in names]
        own = f"{networks['cp']['median_ms']:.0f} / {networks['cp compiled']['median_ms']:.0f}"
        rows.append((row["lmax"], own, *cells, row["target"]))
    return markdown(("L", "`cp`, ms", "`exact`", "`cg`", "`cg_paths`", "e3nn", "e3nn, per degree", "paper"), rows)


def twins() -> str:
    """Mean and deviation of every variant."""
    rows = []
    for name, row in read("paper_twins.json")["summary"].items():
        cells = [spread(row[key], 1) for key in ("energy_mae_mev_per_atom", "forces_mae_mev_per_ang")]
        turns = [f"{row[key][0]:.0e}" for key in ("rotation_energy", "rotation_forces")]
        rows.append((name, row["seeds"], *cells, *turns))
    header = ("variant", "seeds", "energy MAE, meV/atom", "forces MAE, meV/Å", "rotation: energy", "rotation: forces")
    return markdown(header, sorted(rows))


def spread(value: list[float | None], digits: int) -> str:
    """Mean and, with several seeds, deviation."""
    mean, deviation = value
    return f"{mean:.{digits}f}" if deviation is None else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def fixes() -> str:
    """Errors and broken checks of every option."""
    rows = []
    for run in read("paper_fixes.json")["runs"].values():
        errors = (f"{run['energy_mae_mev_per_atom']:.1f}", f"{run['forces_mae_mev_per_ang']:.0f}")
        rows.append((run["variant"], *errors, ", ".join(run["breaks"]) or "nothing"))
    return markdown(("option", "energy MAE, meV/atom", "forces MAE, meV/Å", "breaks"), rows)


if __name__ == "__main__":
    for name, table in (("speed", speed), ("twins", twins), ("fixes", fixes)):
        print(f"{name}\n\n{table()}\n")
