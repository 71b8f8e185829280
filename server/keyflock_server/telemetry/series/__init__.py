"""The one registry of series: every metric that a server shows is declared here.

A declaration is a row: name, kind, unit in the name, labels with all their values or a bound, and a sentence.
The page docs/metrics.md and the tests of alert rules and dashboards are made from it.
"""

from typing import Final

from keyflock_server.telemetry.series import calls, personal, phones, process, releases, rounds
from keyflock_server.telemetry.series.declaration import DeclaredSeries

#: The declared series by the section of the documents that shows them.
SECTIONS: Final[dict[str, tuple[DeclaredSeries, ...]]] = {
    "Tasks, rounds and versions": rounds.DECLARED,
    "Releases": releases.DECLARED,
    "Phones": phones.DECLARED,
    "Calls and connections": calls.DECLARED,
    "Personal models and suggestions": personal.DECLARED,
    "The process": (*process.DECLARED, *process.OF_LIBRARY),
}
SERIES: Final = tuple(series for section in SECTIONS.values() for series in section)
