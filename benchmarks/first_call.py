"""How long the first call of a compiled network takes, in a new process without and with the caches of an earlier one.

    python benchmarks/first_call.py

Energies and forces, and a training step, of the default network on one aspirin molecule, one thread. `cold` builds the
C++ kernels and compiles everything; `cached` finds both on disk; `uncompiled` is the eager network with built kernels.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from common import write_result

from tdn.bench.peers import MODELS
from tdn.bench.rounds import Interpreters, Measurement, measure
from tdn.bench.systems import make_system

RESULTS = Path(__file__).parent / "results"


def first_calls(peer: str, passes: tuple[str, ...]) -> dict[str, float]:
    """Seconds of the first call of each pass in a new process."""
    task = Measurement(passes, [make_system("aspirin")], {}, rounds=1, seconds=0.0)
    entry = measure({"ours": MODELS[peer]}, task, Interpreters())["ours"]
    if entry.absent is not None:
        raise SystemExit(entry.absent)
    return entry.facts["first_call_s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", nargs="+", default=["energy_forces", "training_step"])
    parser.add_argument("--json", type=Path, default=RESULTS / "first_call.json")
    arguments = parser.parse_args()
    content: dict[str, dict[str, float]] = {"cold": {}, "cached": {}, "uncompiled": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.passes:  # each in processes and caches of its own
            os.environ |= {"XDG_CACHE_HOME": f"{folder}/{name}", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/{name}/inductor"}
            for state, peer in (("cold", "ours"), ("cached", "ours"), ("uncompiled", "ours_eager")):
                content[state] |= first_calls(peer, (name,))
                print(f"{name}, {state}: {content[state][name]:.2f} s", flush=True)
    write_result(arguments.json, "python benchmarks/first_call.py", {"first_call_s": content}, threads=1)


if __name__ == "__main__":
    main()
