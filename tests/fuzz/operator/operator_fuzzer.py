"""The whole operator API against its own OpenAPI document, in sequences of calls that follow one another.

    make fuzz-operator MINUTES=20

It starts ``keyflock serve`` as operators run it, with a population, a task, a phone and an assignment. By the
document that the server serves, schemathesis draws calls, valid and invalid ones, with names and cursors of
earlier answers. No answer may be a 5xx, every answer is as the document says, and what the document forbids
is refused. The last line on stdout is one JSON object.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, Unsatisfiable
from schemathesis import Case, GenerationMode, Response
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.fuzz.http.http_fuzzer import SERVE, FuzzedServer, prepared, serving

from keyflock_server.protocol.operator.call import TOML

#: Calls whose answers have no end.
UNENDING: Final = ("events",)
#: Calls of one sequence, at most.
STEPS: Final = 8
_AT_ONCE: Final = 5
#: What is there; most of the addresses that are drawn name it.
KNOWN: Final = {"population": "en-US", "task": "next-word", "round": "next-word-1", "version": "0"}
CHECKS: Final[tuple[CheckFunction, ...]] = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
)


_ANY: Final = settings(
    database=None, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)
#: Bodies that are tasks, some of them with a mistake.
TASKS: Final = st.builds(
    '[task]\nname = "{}"\npopulation = "en-US"\n[round]\ngoal = {}\nmax_rounds = 1\n'.format,
    st.sampled_from(("next-word", "another", "third", "no name")),
    st.sampled_from((4, 8, 0, -1)),
).map(str.encode)
schemathesis.openapi.media_type(TOML, TASKS)


@dataclass
class OperatorFuzzOutcome:
    """What a run has sent and heard."""

    calls: Counter[str] = field(default_factory=Counter)
    answers: Counter[int] = field(default_factory=Counter)
    #: Answers that were not as they should be, each with the request as a command.
    failures: list[str] = field(default_factory=list)

    def line(self) -> dict[str, object]:
        """The figures that a run ends with."""
        return {
            "requests": self.calls.total(),
            "calls": len(self.calls),
            "failures": len(self.failures),
            "answers": {str(status): count for status, count in sorted(self.answers.items())},
        }


@contextlib.contextmanager
def operators_port() -> Iterator[tuple[str, str]]:
    """A server that knows a population, a task, a round and a device: the port's address and a token."""
    with serving(SERVE, {}) as server:
        credentials = asyncio.run(prepared(server, waits_for_suggestions=False))
        yield _url(server), credentials.admin_token


def fuzz_operators(url: str, token: str, outcome: OperatorFuzzOutcome, *, sequences: int, seed_: int) -> None:
    """Send so many sequences of calls, and each call by itself.

    Args:
        url: The admin port's address.
        token: A token of role admin.
        outcome: Gets what was sent, heard and found.
        sequences: Number of sequences.
        seed_: Another one, other calls.
    """
    calls = _Calls(url, token, outcome)
    calls.fuzz_sequences(sequences, seed_)
    calls.fuzz_each_alone(max(1, sequences // STEPS), seed_)


class _Calls:
    """The calls of a server's document, each with what is checked of its answers."""

    def __init__(self, url: str, token: str, outcome: OperatorFuzzOutcome) -> None:
        self._schema = schemathesis.openapi.from_dict(_document(url)).exclude(operation_id=list(UNENDING))
        self._schema.config.update(base_url=url)
        self._sending: dict[str, Any] = {"headers": {"Authorization": f"Bearer {token}"}, "timeout": 60}
        self._outcome = outcome

    def fuzz_sequences(self, sequences: int, seed_: int) -> None:
        """Send sequences of calls whose names and cursors come from one another's answers."""
        calls = self

        class OperatorCalls(calls._schema.as_state_machine()):  # type: ignore[misc]  # made at run time
            def before_call(self, case: Case[Any]) -> None:
                _name_what_is_there(case)

            def get_call_kwargs(self, case: Case[Any]) -> dict[str, Any]:
                del case
                return calls._sending

            def after_call(self, response: Response, case: Case[Any]) -> None:
                calls._count(response, case)

            def validate_response(
                self, response: Response, case: Case[Any], additional_checks: object = None, **_: object
            ) -> None:
                del additional_checks
                calls._check(response, case)

        for part in range(0, sequences, _AT_ONCE):
            chosen = settings(_ANY, max_examples=min(_AT_ONCE, sequences - part), stateful_step_count=STEPS)
            # What is drawn depends on the server's answers, which Hypothesis takes for a flaky test and ends.
            with contextlib.suppress(Flaky):
                seed(seed_ + part)(OperatorCalls).run(settings=chosen)

    def fuzz_each_alone(self, times: int, seed_: int) -> None:
        """Send every call so often, also those that no other one leads to, and half as often a wrong one."""
        modes = {GenerationMode.POSITIVE: times, GenerationMode.NEGATIVE: times // 2}
        for operation in [found.ok() for found in self._schema.get_all_operations() if isinstance(found, Ok)]:
            for mode, examples in modes.items():
                if not examples:
                    continue

                def send(case: Case[Any]) -> None:
                    _name_what_is_there(case)
                    response = case.call(**self._sending)
                    self._count(response, case)
                    self._check(response, case)

                # A call without anything to get wrong has no wrong form.
                with contextlib.suppress(Flaky, Unsatisfiable):
                    drawn = given(operation.as_strategy(generation_mode=mode))(send)
                    seed(seed_)(settings(_ANY, max_examples=examples)(drawn))()

    def _count(self, response: Response, case: Case[Any]) -> None:
        self._outcome.calls[case.operation.definition.raw["operationId"]] += 1
        self._outcome.answers[response.status_code] += 1

    def _check(self, response: Response, case: Case[Any]) -> None:
        try:
            case.validate_response(response, checks=list(CHECKS))
        except FailureGroup as failures:
            self._outcome.failures += [f"{case.as_curl_command()}: {one}" for one in failures.exceptions]


def _name_what_is_there(case: Case[Any]) -> None:
    """Let most right calls name what is there, so that they come past the first gate."""
    if case.meta is None or case.meta.generation.mode is GenerationMode.NEGATIVE:
        return
    for name, value in dict(case.path_parameters or {}).items():
        if name in KNOWN and len(str(value)) % 4:
            case.path_parameters[name] = KNOWN[name]


def _document(url: str) -> dict[str, Any]:
    """The server's description of its API, without what it says of tokens: a wrong one is answered late."""
    with urllib.request.urlopen(f"{url}/admin/v1/openapi.json", timeout=60) as answer:  # noqa: S310 - the server that was started here
        document: dict[str, Any] = json.loads(answer.read())
    for methods in document["paths"].values():
        for operation in methods.values():
            operation.pop("security", None)
    return document


def _url(server: FuzzedServer) -> str:
    host, port = server.admin
    return f"http://{host}:{port}"


def main() -> int:
    """Send sequences for so many minutes, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0, help="Another one, other calls.")
    chosen = parser.parse_args()
    outcome, until_s = OperatorFuzzOutcome(), time.monotonic() + 60.0 * chosen.minutes
    part = chosen.seed * 1_000_000
    while time.monotonic() < until_s:
        # A new server now and then: deleted populations and cancelled tasks are there again.
        with operators_port() as (url, token):
            for _ in range(20):
                fuzz_operators(url, token, outcome, sequences=20, seed_=part)
                part += 1_000
                if time.monotonic() >= until_s:
                    break
        sys.stderr.write(f"{outcome.calls.total()} requests\n")
    for failure in outcome.failures:
        sys.stderr.write(f"{failure}\n")
    print(json.dumps(outcome.line()))
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
