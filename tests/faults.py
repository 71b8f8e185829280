"""``make faults``: the tests marked ``fault``, and how many of the faults that they name are held.

The last line on stdout is one JSON object: faults (distinct numbers), held (those with a test that passed
and none that failed; a test is skipped where what it needs, such as a corpus, is not on the machine).
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
        """Record whether a test passed or failed; one that was skipped shows nothing."""
        for number in self._numbers.get(report.nodeid, ()):
            results = self._results[number]
            if report.failed or (report.when == "call" and report.passed):
                results.append(report.passed)

    def figures(self) -> dict[str, int]:
        """Return the figures."""
        return {"faults": len(self._results), "held": len(self._results) - len(self.not_held())}

    def not_held(self) -> list[str]:
        """Return the numbers of the faults with a failed test, or with none that passed."""
        return sorted(number for number, passed in self._results.items() if not passed or not all(passed))


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
