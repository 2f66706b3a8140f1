"""Runs the drill; exits non-zero on any violation."""

import argparse
import sys
import time
from pathlib import Path

from tests.drill import report
from tests.drill.faults import FAULTS
from tests.drill.script import full_script, run, say
from tests.drill.world import drilling
from tests.processes import be_usual


def main() -> int:
    """One run for each seed, one after the other."""
    be_usual()
    options = parser().parse_args()
    results = []
    for seed in options.seed:
        results.append(one_run(seed, options))
        print(report.tables(results[-1:]))
        if options.keep:
            report.keep(results)
    return 1 if any(each["violations"] for each in results) else 0


def parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    made = argparse.ArgumentParser(prog="python -m tests.drill", description=__doc__)
    made.add_argument("--seed", type=int, nargs="+", default=[int(time.time())])
    made.add_argument("--jobs", type=int, default=2000)
    made.add_argument("--rate", type=float, default=100.0)
    made.add_argument("--longest", type=float, default=120.0, help="seconds of the longest job")
    made.add_argument(
        "--long-tasks", type=float, default=200.0, help="seconds of the producer's longest task"
    )
    made.add_argument("--pooled", action="store_true", help="all workers go through PgBouncer")
    made.add_argument("--keep", action="store_true", help="show these runs in the README")
    made.add_argument("--faults", help=f"these only, comma-separated, in this order: {[*FAULTS]}")
    return made


def one_run(seed: int, options: argparse.Namespace) -> report.Result:
    """A run from beginning to end; what it came to."""
    began = time.monotonic()
    with drilling(seed, options.rate, all_pooled=options.pooled) as drill:
        names = options.faults.split(",") if options.faults else full_script(drill.chance)
        say(f"seed {seed}, {options.jobs} jobs, {len(names)} faults")
        try:
            wrong = run(drill, options.jobs, names, options.longest, options.long_tasks)
        finally:
            Path("drill.log").write_text(drill.fleet.log() + drill.shop.log())
        print(*(f"VIOLATION: {each}" for each in wrong[:50]), sep="\n")
        minutes = (time.monotonic() - began) / 60
        return report.result(drill, wrong, seed, options.jobs, minutes)


if __name__ == "__main__":
    sys.exit(main())
