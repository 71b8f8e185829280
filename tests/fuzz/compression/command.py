"""The output and exit status of a fuzzer's run in ``make fuzz-codec``."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """An input that broke a promise."""

    number: int
    data: bytes
    what: str


def run(description: str | None, fuzz: Callable[[int, int, Counter[str]], Finding | None]) -> None:
    """Try so many inputs; the exit status is 1 when one broke a promise.

    Args:
        description: For ``--help``.
        fuzz: Takes the number of inputs, the seed, and what counts the outcomes.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    began_s, outcomes = time.monotonic(), Counter[str]()
    finding = fuzz(wanted.inputs, wanted.seed, outcomes)
    for outcome, count in outcomes.most_common():
        print(f"{count:>10,} {outcome}")
    print(f"{outcomes.total():,} inputs in {time.monotonic() - began_s:.0f} s, seed {wanted.seed}")
    if finding:
        sys.exit(f"input {finding.number}: {finding.what}\n{finding.data.hex()}")
