"""Write the measured tables of README.md and docs/, and the pictures of the accuracy suite, from benchmarks/results.

    python scripts/readme_tables.py

Tables stand between `<!-- NAME:begin -->` and `<!-- NAME:end -->`; `tests/test_docs.py` checks that they are current.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from tdn.bench.results import short
from tdn.cp.tables import load_table
from tdn.models.architectures import build_potential
from tdn.models.tdn import TDNConfig
from tdn.reproduce.figure import clock, draw
from tdn.reproduce.suites import SUITES, Entry
from tdn.reproduce.summary import UNITS, Group, group, tables
from tdn.training.config import PRESETS, RunConfig

ROOT = Path(__file__).parents[1]
DEGREES = range(1, 7)


def markdown(header: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    cells = [list(map(str, header)), *(list(map(str, row)) for row in rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|---" * len(cells[0]) + "|", *lines[1:]])


def ranks() -> str:
    """Smallest exact ranks of each degree, and how far the paper's rank is from exact."""
    fits = [load_table(lmax, lmax, lmax, "all", "paper") for lmax in DEGREES]
    return markdown(
        ("L", *DEGREES),
        (
            ("exact, O(3)", *(load_table(lmax, lmax, lmax).rank for lmax in DEGREES)),
            ("exact, SO(3)", *(load_table(lmax, lmax, lmax, "all").rank for lmax in DEGREES)),
            ("the paper's 7 L², SO(3)", *(fit.rank for fit in fits)),
            ("relative error of the shipped fit at that rank", *(f"{fit.certificate.residual:.1%}" for fit in fits)),
        ),
    )


def accuracy() -> str:
    """First test of every result of `tdn reproduce SUITE` in benchmarks/results, and runs from before there was one."""
    rows = []
    for path in sorted((ROOT / "benchmarks" / "results").glob("accuracy_*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        link = f"[JSON]({path.relative_to(ROOT).as_posix()})"
        for table in tables(content["suite"], group(content["results"])):
            if table.is_first:
                for row in (dict(zip(table.columns, cells, strict=True)) for cells in table.rows):
                    # Of the published numbers, those of hours on a GPU, one is enough here; the JSON has all.
                    if not row["time"] and not row["model"].startswith("MACE"):
                        continue
                    name, energy = f"{content['suite']}, {table.entry}", f"{row['energy']} {table.unit}"
                    rows.append((name, row["model"], row["time"], energy, row["forces"], link))
    for path in sorted((ROOT / "benchmarks" / "results").glob("rmd17_*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        errors = result["errors"]["test"]
        energy, forces = (f"{errors[name]['mae']:.2f} / {errors[name]['rmse']:.2f}" for name in ("energy", "forces"))
        link = f"[JSON]({path.relative_to(ROOT).as_posix()})"
        rows.append((f"rmd17, {result['molecule']}", "tdn-small", "15 min", f"{energy} meV", forces, link))
    header = ("data", "model", "time", "energy MAE / RMSE", "forces MAE / RMSE, meV/Å", "result")
    return markdown(header, rows)


def suites() -> str:
    """Every test of every result of `tdn reproduce SUITE`, with its picture."""
    sections = []
    for content in _suites():
        name = content["suite"]
        sections.append(f"### {content['title']}")
        for table in tables(name, group(content["results"])):
            sections += [f"**{table.title}**", markdown(table.columns, table.rows)]
        sections.append("\n".join(f"- {note}" for note in content["notes"]))
        sections.append(f"![Errors in {name}](../figures/{_picture(name).name})")
    return "\n\n".join(section for section in sections if section)


def _suites() -> list[dict[str, Any]]:
    paths = sorted((ROOT / "benchmarks" / "results").glob("accuracy_*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def _picture(suite: str) -> Path:
    return ROOT / "docs" / "figures" / f"accuracy-{suite}.png"


def presets() -> str:
    """Shape of every preset, and what it reached in `tdn reproduce SUITE`; results with other settings do not count."""
    groups = [
        (f"{content['suite']}, {entry}", SUITES[content["suite"]].entry(entry), own)
        for content in _suites()
        for entry, groups in group(content["results"]).items()
        for own in groups
    ]
    rows = []
    for name in PRESETS:
        config = RunConfig.parse({"preset": name, "data": {"train": "a.xyz"}, "output": "run"})
        model = config.model
        assert isinstance(model, TDNConfig)
        size = sum(p.numel() for p in build_potential(model, dict.fromkeys((1, 6, 8), 0.0), 1.0, {}).parameters())
        shape = (f"`{name}`", model.lmax, model.num_channels, model.num_layers, f"{size / 1000:.0f}k")
        found = [
            _preset_cells(data, entry, own)
            for data, entry, own in groups
            if own.contender == f"tdn-{name}" and all(_is_made_with(config, result) for result in own.results)
        ]
        rows += [(*shape, *cells) for cells in found or [("not measured yet", *[""] * 5)]]
    header = (
        "preset",
        "L",
        "channels",
        "layers",
        "parameters",
        "data",
        "training",
        "ms a step",
        "energy",
        "forces",
        "ms",
    )
    return markdown(header, rows)


def _preset_cells(data: str, entry: Entry, own: Group) -> tuple[str, ...]:
    block = next(iter(entry.blocks))
    errors = []
    for quantity in (entry.energy, "forces"):
        values = own.errors(block, quantity, "mae")
        deviation = stdev(values) if len(values) > 1 else None
        errors.append(f"{_over_seeds([fmean(values), deviation])} {UNITS[quantity]}")
    machine = "" if own.results[0]["device"] == "cpu" else f" on {own.results[0]['device']}"
    pace, inference = (short(own.mean(key), 2) for key in ("ms_per_step", "inference_ms"))
    return data, clock(own.seconds) + machine, pace, *errors, inference


def _is_made_with(config: RunConfig, result: Mapping[str, Any]) -> bool:
    """Whether a result is of this preset as it is now, as far as the settings written then go."""
    now, then = config.model_dump(mode="json"), result["settings"]
    changing = {*config.model.STATISTICS, "max_time", "max_steps", "max_epochs", "tensorboard", "checkpoint_interval"}
    return all(
        value == now[section].get(key)
        for section in ("model", "training")
        for key, value in then[section].items()
        if key not in changing
    )


def _bench(name: str) -> dict[str, Any]:
    path = ROOT / "benchmarks" / "results" / f"bench_{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def speed() -> str:
    """Time of one convolution, and of it with the double backward of force training, beside that of other forms."""
    forms = ("exact_ke_compiled", "e3nn_compiled", "e3nn", "cuequivariance", "paper_cp")
    rows = []
    for row in _bench("conv")["rows"]:
        if (row["channels"], row["neighbors"]) == (64, 20):
            for name, title in (("forward", "forward"), ("training", "with double backward")):
                found = row["passes"][name]
                ratios = (found["ratios"].get(form) for form in forms)
                cells = ("" if ratio is None else f"{ratio:.1f} ×" for ratio in ratios)
                rows.append((row["lmax"], title, f"{short(found['ours_ms'])} ms", *cells))
    titles = ("dense, compiled", "e3nn, compiled", "e3nn", "cuEquivariance", "paper's CP")
    return markdown(("L", "pass", "ours", *titles), rows)


def roofline() -> str:
    """Shares of what one core can do."""
    result = json.loads((ROOT / "benchmarks" / "results" / "roofline.json").read_text(encoding="utf-8"))
    rows = []
    for row in result["rows"]:
        shares = (row["operators"][name] for name in ("aggregate", "edge_gradients", "table_gradient"))
        cells = (f"{100 * found['share']:.0f} % of {found['bound']}" for found in shares)
        rows.append((row["lmax"], row["channels"], row["neighbors"], *cells))
    return markdown(("L", "channels", "neighbours", "`aggregate`", "`edge_gradients`", "`table_gradient`"), rows)


def networks() -> str:
    """Energy and forces, and a training step, of whole networks of several packages."""
    rows = [*_bench("model")["rows"], *_bench("train_step")["rows"]]
    columns = [next(iter(row["passes"].values())) for row in rows]
    names = sorted(columns[1]["times"], key=lambda who: columns[1]["times"][who]["median_ms"])
    lines = []
    for who in names:
        cells = []
        for column in columns:
            found = column["times"].get(who)
            ratio = column["ratios"].get(who)
            cells.append(
                "" if found is None else f"{short(found['median_ms'])} ms" + (f", {ratio:.1f} ×" if ratio else "")
            )
        facts = rows[1]["contenders"][who]
        lines.append((f"{facts['work']}; {facts['mode']}", f"{facts['parameters']:,}".replace(",", " "), *cells))
    titles = [f"{row['system']}, {row['atoms']} atoms" for row in rows[:2]]
    return markdown(("network", "parameters", *titles, f"training step, {rows[2]['system']}"), lines)


def startup() -> str:
    """How long a user waits before work starts."""
    result = json.loads((ROOT / "benchmarks" / "results" / "startup.json").read_text(encoding="utf-8"))
    processes = result["processes"]
    rows = (
        ("`tdn --help`, whole process", f"{processes['tdn --help']['median_s']:.2f} s"),
        ("`import torch`", f"{processes['import torch']['median_s']:.2f} s"),
        (
            "`TDNCalculator` imported, beyond that",
            f"{processes['import torch, TDNCalculator']['beyond_torch_s']:.2f} s",
        ),
        ("slowest factor table, loaded", f"{result['slowest_factor_table_ms']:.1f} ms"),
        ("model of default size, loaded", f"{result['load_default_model_ms']:.1f} ms"),
    )
    return markdown(("waiting for", "median"), rows)


def symmetry() -> str:
    """Invariances of the trained model, in both precisions."""
    result = json.loads((ROOT / "benchmarks" / "results" / "symmetry.json").read_text(encoding="utf-8"))
    checks = {check["name"]: check for check in result["checks"]}
    rows = []
    for name in ("rotation", "reflection", "translation", "permutation"):
        pair = [checks[f"{name} {dtype}"] for dtype in ("float32", "float64")]
        rows.append((name, *(f"{check[key]:.1e}" for check in pair for key in ("measured", "limit"))))
    return markdown(("", "float32", "limit", "float64", "limit"), rows)


def ablation() -> str:
    """Every variant of `benchmarks/ablation.py`, a table for each molecule."""
    sections = [
        _ablation(json.loads(path.read_text(encoding="utf-8")))
        for path in sorted((ROOT / "benchmarks" / "results").glob("ablation_*.json"))
    ]
    return "\n\n".join(sections) or "No results yet."


def _ablation(content: dict[str, Any]) -> str:
    runs, summary = list(content["runs"].values()), content["summary"]
    base = summary.get("base")
    rows = []
    for name in dict.fromkeys(run["variant"] for run in runs):
        own = [run for run in runs if run["variant"] == name]
        change = f"`{own[0]['overrides']}`" if own[0]["overrides"] else "base"
        good = [run for run in own if "failed" not in run]
        if len(good) < len(own):
            change += f", {len(own) - len(good)} of {len(own)} runs diverged"
        if not good:
            rows.append((change, *[""] * 6))
            continue
        found, parameters = summary[name], f"{good[0]['parameters'] / 1000:.0f}k"
        errors = (_over_seeds(found[f"{key}_mae"]) for key in ("train_forces", "valid_forces", "valid_energy"))
        ratio = found["valid_forces_mae"][0] / base["valid_forces_mae"][0] - 1.0 if base and name != "base" else None
        pace = short(found["cpu_ms_per_step"][0]) if "cpu_ms_per_step" in found else ""
        rows.append((change, parameters, pace, *errors, "" if ratio is None else f"{ratio:+.0%}"))
    names = ("molecule", "train_frames", "valid_frames", "steps")
    title = "{}: {} frames to train on, {} others, {} steps, seeds ".format(*(content[name] for name in names))
    title += ", ".join(map(str, sorted({run["seed"] for run in runs})))
    title += f", all with `{content['base']}`" if content["base"] else ""
    header = ("change", "parameters", "ms", "training F", "other F", "other E", "F against base")
    return f"{title}; MAE, meV/Å and meV\n\n{markdown(header, rows)}"


def _over_seeds(pair: list[float | None]) -> str:
    mean, deviation = pair
    assert mean is not None
    return short(mean) + (f" ± {short(deviation, 2)}" if deviation is not None else "")


def nve() -> str:
    """Drift of the energy in every engine, of every model that was measured."""
    rows = []
    for path in sorted((ROOT / "benchmarks" / "results").glob("nve_*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        runs = {(run["engine"], run["dtype"]): run for run in result["runs"]}
        model = f"`{path.stem.removeprefix('nve_')}`, {result['molecule']}"
        for engine in dict.fromkeys(engine for engine, _ in runs):
            rows.append((model, engine, *(_drift(runs.get((engine, dtype))) for dtype in ("float64", "float32"))))
    if not rows:
        return "*Not measured yet.*"
    return markdown(("model", "engine", "float64, meV/atom/ns", "float32, meV/atom/ns"), rows)


def _drift(run: dict[str, Any] | None) -> str:
    """Drift with its standard error and the length of the run, and what it misses."""
    if run is None:
        return ""
    error = run["standard_error"]
    digits = max(0, 1 - math.floor(math.log10(error))) if error > 0 else 3
    text = f"{run['drift_meV_per_atom_ns']:.{digits}f} ± {error:.{digits}f} in {run['ps']:g} ps"
    text += "" if run["passed"] else f", more than {run['limit']:g}"
    return text + ("" if run.get("within_noise_of_ASE", True) else ", not that of ASE")


TABLES = {
    "ranks": ranks, "accuracy": accuracy, "speed": speed, "networks": networks, "startup": startup,
    "symmetry": symmetry, "roofline": roofline, "ablation": ablation, "presets": presets,
    "nve": nve, "suites": suites,
}  # fmt: skip


def updated(text: str) -> str:
    """`text` with every marked table measured again."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- {name}:begin -->\n).*?(\n<!-- {name}:end -->)"
        text = re.sub(pattern, lambda match, table=table: match[1] + table() + match[2], text, flags=re.DOTALL)
    return text


def pages() -> list[Path]:
    """Pages with measured tables."""
    docs = ROOT / "docs"
    named = ("concepts/kernel", "concepts/ablation", "howto/train", "howto/md", "howto/accuracy")
    return [ROOT / "README.md", *(docs / f"{name}.md" for name in named)]


if __name__ == "__main__":
    for content in _suites():
        draw(content["suite"], group(content["results"]), _picture(content["suite"]))
    for page in pages():
        page.write_text(updated(page.read_text(encoding="utf-8")), encoding="utf-8")
