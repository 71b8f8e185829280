"""``make faults``: the tests marked ``fault``, and how many of the faults that they name are held.

The last line on stdout is one JSON object: faults (distinct numbers), held (those all of whose tests passed).
Exit status: 0 all are held; 1 one is not, or none was found.
"""

import json
import sys
from collections import defaultdict

import pytest


class FaultMarkerPlugin:
    """A pytest plugin that collects the results of the tests of each fault."""

    def __init__(self) -> None:
        self._numbers: dict[str, set[str]] = {}
        self._results: dict[str, list[bool]] = defaultdict(list)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Collect the numbers of the faults that each test is marked with."""
        for item in items:
            marks = item.iter_markers("fault")
            self._numbers[item.nodeid] = {str(number) for mark in marks for number in mark.args}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record whether a test passed; a skipped test counts as failed."""
        if report.when == "call" or report.outcome != "passed":
            for number in self._numbers.get(report.nodeid, ()):
                self._results[number].append(report.outcome == "passed")

    def figures(self) -> dict[str, int]:
        """Return the figures."""
        return {"faults": len(self._results), "held": sum(all(passed) for passed in self._results.values())}

    def not_held(self) -> list[str]:
        """Return the numbers of the faults with a failed test."""
        return sorted(number for number, passed in self._results.items() if not all(passed))


def main() -> int:
    """Run the tests, print the figures, and return the exit status."""
    plugin = FaultMarkerPlugin()
    pytest.main(["-m", "fault", "-q", *sys.argv[1:]], plugins=[plugin])
    if plugin.not_held():
        sys.stdout.write(f"not held: {', '.join(plugin.not_held())}\n")
    figures = plugin.figures()
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0 if figures["faults"] and figures["faults"] == figures["held"] else 1


if __name__ == "__main__":
    sys.exit(main())
