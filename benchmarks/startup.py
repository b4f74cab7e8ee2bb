"""How long a user waits before work starts: imports, help, factor tables, model files.

    python benchmarks/startup.py

Whole processes, in turns; "beyond torch" is the median over rounds of the difference to `import torch`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import interleaved_times, write_result

from tdn import Potential, TDNConfig, load_model, save_model
from tdn.cp.tables import list_tables, read_table

RESULTS = Path(__file__).parent / "results"
CODE = {
    "import torch": "import torch",
    "import tdn": "import tdn",
    "tdn --help": "import sys; sys.argv = ['tdn', '--help']; from tdn.cli.main import main; main()",
    "import torch, Potential": "import torch; from tdn import Potential",
    "import torch, TDNCalculator": "import torch; from tdn import TDNCalculator",
    "import torch, train": "import torch; from tdn import train",
}


def process(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def best_ms(function, repeats: int = 20) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=RESULTS / "startup.json")
    arguments = parser.parse_args()
    times = interleaved_times({name: lambda code=code: process(code) for name, code in CODE.items()}, arguments.rounds)
    torch_alone = times["import torch"]
    seconds = {
        name: {
            "median_s": round(float(np.median(values)) / 1e3, 3),
            "beyond_torch_s": round(float(np.median(values - torch_alone)) / 1e3, 3),
        }
        for name, values in times.items()
    }
    slowest_table = max(best_ms(lambda path=entry.path: read_table(path), 5) for entry in list_tables())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tdn"
        save_model(path, Potential(TDNConfig(), {1: 0.0, 6: 0.0, 7: 0.0, 8: 0.0}))
        loading = best_ms(lambda: load_model(path))
    content = {"processes": seconds, "slowest_factor_table_ms": slowest_table, "load_default_model_ms": loading}
    torch.set_num_threads(1)
    write_result(arguments.json, "python benchmarks/startup.py", content)
    for name, row in seconds.items():
        print(f"{name}: {row['median_s']} s, {row['beyond_torch_s']} s beyond torch")
    print(f"slowest factor table {slowest_table:.2f} ms, default model {loading:.1f} ms")


if __name__ == "__main__":
    main()
