"""Exports of a model of default size: how long they take to make and to load, and how far they are from the model.

    python benchmarks/export.py

An untrained network of default size in float32. Every export and every loading is a process of its own with one thread;
exporting starts without the compiler's caches and includes the comparison with the model. Loading is the call alone,
after `import torch`; for AOTInductor also with TORCHINDUCTOR_VEC_ISA_OK=1, which spares PyTorch from asking in six
processes which vector instructions the machine has. Processor time is what one core takes that has nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import write_result

RESULTS = Path(__file__).parent / "results"
LIMITS = {"export_s": 60.0, "load_s": 2.0, "relative_difference": 1e-5}
SUFFIXES = {"aoti": ".pt2", "metatomic": ".pt", "lammps": ".mliap.pt"}
LOADING = {
    "aoti": "import torch._inductor; f = torch._inductor.aoti_load_package",
    "metatomic": "from metatomic.torch import load_atomistic_model as f",
    "lammps": "f = lambda path: torch.load(path, weights_only=False)",
}


def children_s() -> float:
    """Processor time of all finished children, compilers among them, s."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def make(target: str, model: Path, path: Path, cache: Path) -> dict[str, Any]:
    """Export in a fresh process with empty caches."""
    report = path.with_name("report.json")
    command = [sys.executable, "-m", "tdn", "export", str(model), "--to", target, "-o", str(path)]
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    before = children_s()
    subprocess.run([*command, "--json", str(report), "--quiet"], check=True, env=environment)
    found = json.loads(report.read_text(encoding="utf-8"))
    differences = {name: found[name] for name in ("energy", "forces", "stress")}
    seconds = {"command_processor_s": round(children_s() - before, 1), "export_wall_s": round(found["seconds"], 1)}
    return {**seconds, "differences": differences}


def load(target: str, path: Path, rounds: int, **variables: str) -> dict[str, float]:
    """Seconds to load in fresh processes with environment `variables`: medians."""
    clocks = "time.perf_counter(), time.process_time()"
    code = f"import sys, time, torch; {LOADING[target]}; a = {clocks}; f(sys.argv[1]); b = {clocks}; print(*a, *b)"
    command = [sys.executable, "-W", "ignore", "-c", code, str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    runs = [subprocess.run(command, check=True, capture_output=True, text=True, env=environment) for _ in range(rounds)]
    clock = np.array([run.stdout.splitlines()[-1].split() for run in runs], dtype=float)
    wall, processor = np.median(clock[:, 2:] - clock[:, :2], axis=0)
    return {"load_processor_s": round(float(processor), 3), "load_wall_s": round(float(wall), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=RESULTS / "export.json")
    arguments = parser.parse_args()

    from tdn import Potential, TDNConfig, save_model

    torch.manual_seed(0)
    result: dict[str, Any] = {"model": "TDNConfig(), untrained, float32, seed 0", "limits": LIMITS, "targets": {}}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.tdn"
        save_model(model, Potential(TDNConfig(), {1: -13.6, 6: -1029.0, 7: -1485.0, 8: -2042.0}))
        for target, suffix in SUFFIXES.items():
            path = Path(folder) / f"exported{suffix}"
            made = make(target, model, path, Path(folder) / f"cache-{target}")
            made |= load(target, path, arguments.rounds)
            if target == "aoti":
                quick = load(target, path, arguments.rounds, TORCHINDUCTOR_VEC_ISA_OK="1")
                made |= {f"{name}_isa_known": value for name, value in quick.items()}
            made["mib"] = round(path.stat().st_size / 2**20, 2)
            made["passed"] = (
                made["command_processor_s"] <= LIMITS["export_s"]
                and made.get("load_wall_s_isa_known", made["load_wall_s"]) <= LIMITS["load_s"]
                and max(made["differences"].values()) <= LIMITS["relative_difference"]
            )
            result["targets"][target] = made
            print(target, made, flush=True)
    write_result(arguments.json, "python benchmarks/export.py", result, threads=1)


if __name__ == "__main__":
    main()
