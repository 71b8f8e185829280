"""BENCHMARKS.md: each benchmark rewrites its own section only, with machine, command and date."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from keyflock_load_tests.machine import machine

PAGE: Final = Path(__file__).resolve().parents[2] / "BENCHMARKS.md"
PICTURES: Final = PAGE.parent / "docs" / "pictures"
_PREAMBLE: Final = """# Benchmarks

Written by `make bench` and the other `make bench-...`; every section says where, how and when it was
measured.
Machines are noisy: times are medians, and what is compared is compared as ratios within one run.
"""


@dataclass(frozen=True, slots=True)
class Section:
    """The section of one benchmark.

    Args:
        name: Identifies the section in the page, for example ``learning``.
        title: The heading.
        command: The command that makes the section again.
        body: The text, in Markdown.
    """

    name: str
    title: str
    command: str
    body: str


def write(section: Section, page: Path = PAGE) -> None:
    """Write a section into the page, in place of its predecessor or at the end."""
    text = page.read_text(encoding="utf-8") if page.exists() else _PREAMBLE
    begin, end = f"<!-- {section.name}: begin -->", f"<!-- {section.name}: end -->"
    now = datetime.now(UTC).date().isoformat()
    origin = f"`{section.command}` · {now} · {machine()}"
    block = f"{begin}\n## {section.title}\n\n{origin}\n\n{section.body.strip()}\n{end}\n"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end) + "\n", re.DOTALL)
    text = pattern.sub(lambda _: block, text) if pattern.search(text) else f"{text.rstrip()}\n\n{block}"
    page.write_text(text, encoding="utf-8")


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table; the first column is aligned left, the others right."""
    ruler = "|---|" + "---:|" * (len(header) - 1)
    lines = ["| " + " | ".join(row) + " |" for row in (header, *rows)]
    return "\n".join([lines[0], ruler, *lines[1:]])
