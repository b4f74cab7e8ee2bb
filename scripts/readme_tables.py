"""Write the measured tables of README.md and docs/, and the pictures of the suites, from benchmarks/results.

    python scripts/readme_tables.py

Tables stand between `<!-- NAME:begin -->` and `<!-- NAME:end -->`; `tests/test_docs.py` checks that they are current.
Results that have not been measured leave a word in their place.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from tdn.bench import figures
from tdn.bench.results import row_title, short
from tdn.bench.suites import EXPLANATIONS, SMALLEST_FITTED_DEGREE
from tdn.cp.tables import load_table
from tdn.models.architectures import build_potential
from tdn.models.tdn import TDNConfig
from tdn.reproduce.figure import clock, draw
from tdn.reproduce.suites import SUITES, Entry
from tdn.reproduce.summary import UNITS, Group, group, tables
from tdn.training.config import PRESETS, RunConfig

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DEGREES = range(1, 7)
NOT_YET = "No results yet."
# Forms of the convolution that stand beside ours, and how they are called.
FORMS = {
    "ours_compiled": "ours, compiled", "exact_ke_compiled": "dense, compiled", "e3nn_compiled": "e3nn, compiled",
    "e3nn": "e3nn", "cuequivariance": "cuEquivariance", "paper_cp": "paper's CP",
}  # fmt: skip


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
    """Errors on every test of `tdn reproduce SUITE`, contenders of one machine side by side; MACE's published ones.

    Presets as they are: those with changes are in the tables of `suites`.
    """
    contents = _suites()
    found = {name: groups for content in contents for name, groups in _groups(content).items()}
    present = {own.contender for groups in found.values() for own in groups}
    contenders = [*(name for name in OURS if name in present), *sorted(present.difference(OURS))]
    rows = []
    for (suite, name), groups in found.items():
        entry = SUITES[suite].entry(name)
        conditions = sorted({(own.seconds, own.machine) for own in groups})
        for block, (seconds, machine) in itertools.product(entry.blocks, conditions):
            side_by_side = (own for own in groups if (own.seconds, own.machine) == (seconds, machine))
            cells = {own.contender: _errors(own, entry, block) for own in side_by_side}
            if any(cells.values()):
                test = f"{suite} {name}, {block} ({UNITS[entry.energy]}, {entry.measure.upper()})"
                measured = (cells.get(contender, "") for contender in contenders)
                rows.append((test, f"{clock(seconds)}, {machine}", *measured, _mace(entry, block)))
    return markdown(("data, test", "training", *contenders, "MACE (paper)"), rows)


OURS = [f"tdn-{name}" for name in PRESETS]


def _groups(content: Mapping[str, Any]) -> dict[tuple[str, str], list[Group]]:
    plain = [result for result in content["results"] if not result["changes"]]
    return {(content["suite"], entry): groups for entry, groups in group(plain).items()}


def _errors(own: Group, entry: Entry, block: str) -> str:
    """Errors of energies / force components, as they are published; energies alone where a test has no forces."""
    values = [own.errors(block, quantity, entry.measure) for quantity in (entry.energy, "forces")]
    return " / ".join(_mean_and_deviation(errors) for errors in values if errors)


def _mace(entry: Entry, block: str) -> str:
    for row in entry.blocks[block].published:
        if row.model.startswith("MACE") and row.energy is not None and row.forces is not None:
            return f"{row.energy:g} / {row.forces:g}"
    return ""


def _mean_and_deviation(values: Sequence[float]) -> str:
    return _over_seeds([fmean(values), stdev(values) if len(values) > 1 else None])


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
    paths = sorted(RESULTS.glob("accuracy_*.json"))
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
        elements: dict[int, float] = dict.fromkeys((1, 6, 8), 0.0)
        model = config.model.with_statistics(mean_neighbors=8.0, mean_atoms=9.0, num_elements=len(elements))
        assert isinstance(model, TDNConfig)
        size = sum(p.numel() for p in build_potential(model, elements, 1.0, {}).parameters())
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
        errors.append(f"{_mean_and_deviation(own.errors(block, quantity, 'mae'))} {UNITS[quantity]}")
    pace, inference = (short(own.mean(key), 2) for key in ("ms_per_step", "inference_ms"))
    return data, f"{clock(own.seconds)}, {own.machine}", pace, *errors, inference


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


def _read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def speed() -> str:
    """Time of one convolution, and of it with the double backward of force training, beside that of other forms."""
    chosen = [row for row in _read("bench_conv")["rows"] if (row["channels"], row["neighbors"]) == (64, 20)]
    forms, rows = _forms(chosen), []
    for row in chosen:
        for name, title in (("forward", "forward"), ("training", "with double backward")):
            rows.append((row["lmax"], title, *_beside(row["passes"][name], forms)))
    return markdown(("L", "pass", "ours", *(FORMS[form] for form in forms)), rows)


def _forms(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those of `FORMS` that were timed."""
    return [form for form in FORMS if any(form in row["contenders"] for row in rows)]


def _beside(found: Mapping[str, Any], forms: Sequence[str]) -> list[str]:
    """Our time, and how many times as long each of `forms` takes."""
    ratios = (found["ratios"].get(form) for form in forms)
    return [f"{short(found['ours_ms'])} ms", *("" if ratio is None else f"{ratio:.1f} ×" for ratio in ratios)]


def grid() -> str:
    """The convolution with its double backward, for more channels and neighbours."""
    measured = _read("bench_conv_grid")["rows"]
    forms = _forms(measured)
    rows = [
        (row["lmax"], row["channels"], row["neighbors"], *_beside(row["passes"]["training"], forms)) for row in measured
    ]
    return markdown(("L", "channels", "neighbours", "ours", *(FORMS[form] for form in forms)), rows)


def exponents() -> str:
    """Fitted exponents of the time an edge, of convolutions and of single products."""
    titles = {None: "convolution", "path": "product, a weight a path", "shared": "product, shared weights"}
    results = [_read(f"bench_{name}") for name in ("conv", "product") if (RESULTS / f"bench_{name}.json").exists()]
    fits = [(result, fit) for result in results for fit in result["exponents"]]
    names = list(dict.fromkeys(who for _, fit in fits for who in fit["exponents"]))
    rows = []
    for result, fit in fits:
        last = max(row["lmax"] or 0 for row in result["rows"])
        found = (fit["exponents"].get(who) for who in names)
        cells = ("" if a is None else f"{a:.1f}" for a in found)
        rows.append((titles[fit.get("weights")], f"{SMALLEST_FITTED_DEGREE} to {last}", fit["pass"], *cells))
    return markdown(("what", "L", "pass", *(f"`{who}`" for who in names)), rows) if rows else NOT_YET


def roofline() -> str:
    """Shares of what one core can do."""
    result = _read("roofline")
    rows = []
    for row in result["rows"]:
        shares = (row["operators"][name] for name in ("aggregate", "edge_gradients", "table_gradient"))
        cells = (f"{100 * found['share']:.0f} % of {found['bound']}" for found in shares)
        rows.append((row["lmax"], row["channels"], row["neighbors"], *cells))
    return markdown(("L", "channels", "neighbours", "`aggregate`", "`edge_gradients`", "`table_gradient`"), rows)


def networks() -> str:
    """Energy and forces, and a training step, of whole networks of several packages."""
    rows = [*_read("bench_model")["rows"], *_read("bench_train_step")["rows"]]
    titles = [row_title(row) for row in rows[:-1]]
    return _networks(rows, [*titles, f"training step, {rows[-1]['system']}"])


def _networks(rows: Sequence[Mapping[str, Any]], titles: Sequence[str]) -> str:
    """A column of times for each row of a suite, contenders in the order of the largest system."""
    columns = [next(iter(row["passes"].values())) for row in rows]
    largest = max(rows, key=lambda row: row["atoms"])
    times = columns[rows.index(largest)]["times"]
    every = dict.fromkeys(who for column in columns for who in column["times"])
    names = sorted(every, key=lambda who: times.get(who, {}).get("median_ms", float("inf")))
    lines = []
    for who in names:
        cells = []
        for column in columns:
            found, ratio = column["times"].get(who), column["ratios"].get(who)
            cells.append(
                "" if found is None else f"{short(found['median_ms'])} ms" + (f", {ratio:.1f} ×" if ratio else "")
            )
        facts = next(row["contenders"][who] for row in (largest, *rows) if who in row["contenders"])
        lines.append((f"{facts['work']}; {facts['mode']}", _thousands(facts["parameters"]), *cells))
    return markdown(("network", "parameters", *titles), lines)


def _thousands(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def _systems() -> list[dict[str, Any]]:
    """Rows of all results of `tdn bench model` but those of the first table and of networks at our sizes."""
    paths = [path.stem for path in sorted(RESULTS.glob("bench_model_*.json")) if path.stem != "bench_model_matched"]
    rows = [row for name in paths for row in _read(name)["rows"] if row["passes"]]
    if not rows:
        raise FileNotFoundError("bench_model_*.json")
    return rows


def more_systems() -> str:
    """Energy and forces of whole networks on more systems."""
    return _networks(_systems(), [row_title(row) for row in _systems()])


def training_steps() -> str:
    """A training step of whole networks on more systems."""
    rows = _read("bench_train_step_systems")["rows"]
    return _networks(rows, [row_title(row) for row in rows])


def matched() -> str:
    """Energy and forces of networks at our sizes."""
    rows = _read("bench_model_matched")["rows"]
    return _networks(rows, [row_title(row) for row in rows])


def memory() -> str:
    """Memory and simulation speed of whole networks on all periodic systems."""
    rows = [*_read("bench_model")["rows"], *(_systems() if list(RESULTS.glob("bench_model_*.json")) else ())]
    lines = []
    for row in rows:
        for facts in row["contenders"].values():
            if "kib_per_atom" in facts:
                numbers = (facts["peak_mib"]["energy_forces"], facts["kib_per_atom"], facts["ns_per_day_1fs"])
                cells = (short(number) for number in numbers)
                lines.append((row_title(row), facts["work"], *cells, _thousands(facts["atoms_in_24_gib"])))
    if not lines:
        return NOT_YET
    return markdown(("system", "network", "peak, MiB", "KiB an atom", "ns/day at 1 fs", "atoms in 24 GiB"), lines)


def scaling() -> str:
    """Our time and memory an atom for growing boxes and batches, the picture, and what did not fit."""
    result = _read("bench_scaling")
    rows = [
        (f"{row['system']}, batch of {row['structures']}" if row["system"] == "ethanol" else row["system"],
         _thousands(row["atoms"]), row["threads"],
         *(short(row[key]["ours"]) if "ours" in row[key] else "" for key in ("us_per_atom", "memory_kib_per_atom")))
        for row in result["rows"]
    ]  # fmt: skip
    rows += [("water", _thousands(o["atoms"]), o["threads"], o["reason"], "") for o in result["left_out"]]
    table = markdown(("system", "atoms", "threads", "µs an atom", "KiB an atom"), rows)
    lines = [
        f"From {_thousands(found['from_atoms'])} atoms on, {found['threads']} threads: largest over smallest time an "
        f"atom {found['us_per_atom']}, memory {found['memory_kib_per_atom']}; "
        f"{_thousands(found['atoms_in_24_gib'])} atoms in 24 GiB."
        for found in result["saturated"]
    ]
    picture = "![Time and memory an atom against the number of atoms](../figures/bench-scaling.png)"
    return "\n\n".join([table, *lines, picture])


def first_call() -> str:
    """Seconds of first calls."""
    found = _read("first_call")["first_call_s"]
    rows = [
        (EXPLANATIONS[name], *(short(found[state][name]) for state in ("cold", "cached", "uncompiled")))
        for name in found["cold"]
    ]
    return markdown(("", "nothing cached", "from the caches of an earlier process", "not compiled"), rows)


def startup() -> str:
    """How long a user waits before work starts."""
    result = _read("startup")
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
    result = _read("symmetry")
    checks = {check["name"]: check for check in result["checks"]}
    rows = []
    for name in ("rotation", "reflection", "translation", "permutation"):
        pair = [checks[f"{name} {dtype}"] for dtype in ("float32", "float64")]
        rows.append((name, *(f"{check[key]:.1e}" for check in pair for key in ("measured", "limit"))))
    return markdown(("", "float32", "limit", "float64", "limit"), rows)


def ablation() -> str:
    """Every variant of `benchmarks/ablation.py`, a table for each molecule."""
    sections = [
        _ablation(json.loads(path.read_text(encoding="utf-8"))) for path in sorted(RESULTS.glob("ablation_*.json"))
    ]
    return "\n\n".join(sections) or NOT_YET


def _ablation(content: dict[str, Any]) -> str:
    runs, summary = list(content["runs"].values()), content["summary"]
    base = summary.get("base")
    paces: dict[str, list[float]] = {}
    for run in runs:
        if run["variant"] == "base":
            paces.setdefault(run["machine"], []).append(run["cpu_ms_per_step"])
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
        # A step of the base on the same machine is the measure.
        times = [run["cpu_ms_per_step"] / fmean(paces[run["machine"]]) for run in good if run["machine"] in paces]
        time = f"{fmean(times):.1f} ×" if times else ""
        rows.append((change, parameters, time, *errors, "" if ratio is None else f"{ratio:+.0%}"))
    names = ("molecule", "train_frames", "valid_frames", "steps")
    title = "{}: {} frames to train on, {} others, {} steps, ".format(*(content[name] for name in names))
    seeds = [str(seed) for seed in sorted({run["seed"] for run in runs})]
    several = f"seeds {', '.join(seeds)} where an error has a ±, else one of them"
    title += several if len(seeds) > 1 else f"seed {seeds[0]}"
    title += f", all with `{content['base']}`" if content["base"] else ""
    header = ("change", "parameters", "time", "training F", "other F", "other E", "F against base")
    return f"{title}; MAE, meV/Å and meV\n\n{markdown(header, rows)}"


def _over_seeds(pair: list[float | None]) -> str:
    mean, deviation = pair
    assert mean is not None
    return short(mean) + (f" ± {short(deviation, 2)}" if deviation is not None else "")


def nve() -> str:
    """Drift of the energy in every engine, of every model that was measured."""
    rows = []
    for path in sorted(RESULTS.glob("nve_*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        runs = {(run["engine"], run["dtype"]): run for run in result["runs"]}
        model = f"`{path.stem.removeprefix('nve_')}`, {result['molecule']}"
        for engine in dict.fromkeys(engine for engine, _ in runs):
            rows.append((model, engine, *(_drift(runs.get((engine, dtype))) for dtype in ("float64", "float32"))))
    if not rows:
        return NOT_YET
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


def _or_not_yet(table: Callable[[], str]) -> Callable[[], str]:
    @functools.wraps(table)
    def measured() -> str:
        try:
            return table()
        except FileNotFoundError:
            return NOT_YET

    return measured


TABLES = {
    table.__name__: _or_not_yet(table)
    for table in (
        ranks, accuracy, speed, grid, exponents, networks, more_systems, training_steps, matched, memory, scaling,
        first_call, startup, symmetry, roofline, ablation, presets, nve, suites,
    )
}  # fmt: skip


def updated(text: str) -> str:
    """`text` with every marked table measured again."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- {name}:begin -->\n).*?(\n<!-- {name}:end -->)"
        text = re.sub(pattern, lambda match, table=table: match[1] + table() + match[2], text, flags=re.DOTALL)
    return text


def pages() -> list[Path]:
    """Pages with measured tables."""
    named = ("concepts/kernel", "concepts/ablation", "howto/train", "howto/md", "howto/accuracy", "howto/bench")
    return [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in named)]


if __name__ == "__main__":
    for content in _suites():
        draw(content["suite"], group(content["results"]), _picture(content["suite"]))
    for path in sorted(RESULTS.glob("bench_*.json")):
        picture = ROOT / "docs" / "figures" / f"{path.stem.replace('_', '-')}.png"
        figures.draw(json.loads(path.read_text(encoding="utf-8")), picture)
    for page in pages():
        page.write_text(updated(page.read_text(encoding="utf-8")), encoding="utf-8")
