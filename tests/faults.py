"""``make faults``: the tests marked ``fault``, and how many of the faults that they name are held.

The last line on stdout is one JSON object: faults (distinct numbers), held (those all of whose tests passed).
Exit status: 0 all are held; 1 one is not, or none was found.
"""

import json
import sys
from collections import defaultdict

import pytest


class FaultCount:
    """Collects what became of each fault's tests; a pytest plugin."""

    def __init__(self) -> None:
        self._numbers: dict[str, set[str]] = {}
        self._results: dict[str, list[bool]] = defaultdict(list)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Remember which faults each test holds."""
        for item in items:
            marks = item.iter_markers("fault")
            self._numbers[item.nodeid] = {str(number) for mark in marks for number in mark.args}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test is held when its call passed; one that is skipped holds nothing."""
        if report.when == "call" or report.outcome != "passed":
            for number in self._numbers.get(report.nodeid, ()):
                self._results[number].append(report.outcome == "passed")

    def line(self) -> dict[str, int]:
        """The figures."""
        return {"faults": len(self._results), "held": sum(all(passed) for passed in self._results.values())}

    def not_held(self) -> list[str]:
        """The numbers of those that are open."""
        return sorted(number for number, passed in self._results.items() if not all(passed))


def main() -> int:
    """Run, print, and return the exit status."""
    count = FaultCount()
    pytest.main(["-m", "fault", "-q", *sys.argv[1:]], plugins=[count])
    if count.not_held():
        sys.stdout.write(f"not held: {', '.join(count.not_held())}\n")
    line = count.line()
    sys.stdout.write(json.dumps(line) + "\n")
    return 0 if line["faults"] and line["faults"] == line["held"] else 1


if __name__ == "__main__":
    sys.exit(main())
