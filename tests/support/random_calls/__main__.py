"""Random legal calls of the three pipelines, and what must hold for each: `make random-calls`.

    python -m support.random_calls --count 3000 --seed 7

with tests/ on PYTHONPATH. A call that does not hold is printed as code that repeats it. Call n of a seed is always the
same: `--first` continues where a run has ended.
"""

import argparse
import collections
import secrets
import sys
import time

from tqdm import tqdm

from . import quiet
from .checks import check
from .drawing import draw

BUNDLED_EVERY = 100  # calls


def main() -> int:
    """Runs the command; 1 if something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000, help="number of calls")
    parser.add_argument("--seed", help="seed of all choices; drawn by default, and printed")
    parser.add_argument("--first", type=int, default=0, help="number of the first call")
    arguments = parser.parse_args()
    seed = arguments.seed or str(secrets.randbelow(10**6))
    print(f"{arguments.count} random calls from number {arguments.first}, --seed {seed}", flush=True)

    quiet()
    begun, failed, refused, checks = time.monotonic(), 0, 0, collections.Counter()
    for number in tqdm(range(arguments.first, arguments.first + arguments.count), disable=None, unit="call"):
        report = check(draw(seed, number, "bundled" if number % BUNDLED_EVERY == BUNDLED_EVERY - 1 else None))
        refused += bool(report.refused)
        checks.update(report.checks)
        if report.complaints:
            failed += 1
            tqdm.write(f"\n# Call {number}: {'; '.join(report.complaints)}\n{report.code()}")
            sys.stdout.flush()
    print(
        f"{failed} of {arguments.count} calls with complaints in {time.monotonic() - begun:.0f} s; {refused} refused."
    )
    print("Checks: " + ", ".join(f"{name} {number}" for name, number in sorted(checks.items())))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
