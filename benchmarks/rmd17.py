"""Accuracy on rMD17 after a wall-clock budget on one core: 950 training, 50 validation, 1000 test frames, split 01.

    python benchmarks/rmd17.py --data FOLDER --molecule ethanol --max-time 15m

FOLDER holds rmd17_<molecule>_{train,test}_01.npz. Everything else is the default of `tdn train`.
The result goes to benchmarks/results/; the test frames are looked at once, after training.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from common import write_result

from tdn.training import load_config, train
from tdn.training.logs import ConsoleReporter

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--molecule", default="ethanol")
    parser.add_argument("--max-time", default="15m")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", help="key=value, as for tdn train")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    files = {part: arguments.data / f"rmd17_{arguments.molecule}_{part}_01.npz" for part in ("train", "test")}
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"train={files['train']}", "valid=50", f"test={files['test']}", f"output={folder}/run"]
        settings += [f"max_time={arguments.max_time}", f"threads={arguments.threads}", f"seed={arguments.seed}"]
        result = train(load_config(None, [*settings, *arguments.overrides]), ConsoleReporter())
    if result.signal is not None:
        raise SystemExit("interrupted: nothing is recorded")
    errors = {part: table.to_dict() for part, table in result.errors.items()}
    command = (
        f"python benchmarks/rmd17.py --data FOLDER --molecule {arguments.molecule} --max-time {arguments.max_time}"
    )
    command += f" --threads {arguments.threads} --seed {arguments.seed} " + " ".join(arguments.overrides)
    name = f"rmd17_{arguments.molecule}_{arguments.max_time}_{arguments.threads}core_seed{arguments.seed}.json"
    content = {"molecule": arguments.molecule, "frames": {"train": 950, "valid": 50, "test": 1000}}
    progress = {"steps": result.steps, "seconds": result.elapsed, "dtype": "float32", "seed": arguments.seed}
    write_result(RESULTS / name, command.strip(), {**content, **progress, "errors": errors})
    test = errors["test"]
    print(f"test: E MAE {test['energy']['mae']:.2f} meV, F MAE {test['forces']['mae']:.2f} meV/Å -> {RESULTS / name}")


if __name__ == "__main__":
    main()
