"""What earlier runs found, in a file: a run goes on where the last one ended."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.mutants.operators import Mutant


@dataclass(frozen=True, slots=True)
class MutantResult:
    """Whether the tests noticed a change."""

    digest: str
    key: str
    is_killed: bool
    noticed_by: str
    wall_s: float


class ResultFile:
    """Results by digest, appended to a file of JSON lines.

    A digest is of the changed source and of the tests that it was tried with: when either changes, the result
    is no longer found, and the change is tried again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._results: dict[str, MutantResult] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                result = MutantResult(**json.loads(line))
                self._results[result.digest] = result

    def get(self, digest: str) -> MutantResult | None:
        """Return the result for a digest, if there is one."""
        return self._results.get(digest)

    def add(self, result: MutantResult) -> None:
        """Keep a result."""
        self._results[result.digest] = result
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")


def digest_of(mutant: Mutant, source: str, tests_digest: str) -> str:
    """Return the digest by which the result of a change is kept."""
    content = "\0".join([mutant.path, mutant.apply(source), tests_digest])
    return hashlib.sha256(content.encode()).hexdigest()
