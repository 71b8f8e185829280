"""Lists on the command line: they go on over pages, end at the limit, and are narrowed by filters."""

import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.unit.cli.test_command_line import CommandResult, StandInAdminPort, admin_port, run, token_file

__all__ = ["admin_port", "run", "token_file"]  # fixtures


def queries(port: StandInAdminPort) -> list[dict[str, list[str]]]:
    """The query parameters of the calls that the port was asked."""
    return [parse_qs(urlsplit(path).query) for _, path, _, _ in port.asked]


def page(*names: str, next: str | None) -> bytes:  # noqa: A002 - the field's name
    """A page of a list of tasks."""
    return json.dumps({"items": [{"name": name} for name in names], "next": next}).encode()


def test_a_list_goes_on_over_pages_to_its_end(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    admin_port.earlier_answers = [page("a", "b", next="behind-b"), page(next="behind-c")]
    admin_port.answer = page("d", next=None)

    ran = run("task", "list", "--url", admin_port.url, "--token-file", token_file)

    assert [line.split()[0] for line in ran.out.splitlines()] == ["name", "a", "b", "d"]
    assert ran.err == ""
    assert queries(admin_port) == [
        {"limit": ["1000"]},
        {"limit": ["998"], "after": ["behind-b"]},
        {"limit": ["998"], "after": ["behind-c"]},
    ]


def test_a_list_that_ends_at_its_limit_says_how_to_see_more(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    admin_port.earlier_answers = [page("a", "b", next="behind-b")]
    admin_port.answer = page("c", next="behind-c")

    ran = run("task", "list", "--limit", "3", "--url", admin_port.url, "--token-file", token_file)

    assert len(ran.out.splitlines()) == 4
    assert ran.err == "The list goes on behind these 3: give a larger --limit, or a filter.\n"
    assert [query["limit"] for query in queries(admin_port)] == [["3"], ["1"]]


def test_a_list_over_pages_is_one_json_object_that_says_where_it_goes_on(
    run: Callable[..., CommandResult], admin_port: StandInAdminPort, token_file: Path
) -> None:
    admin_port.earlier_answers = [page("a", next="behind-a")]
    admin_port.answer = page("b", next="behind-b")

    ran = run("task", "list", "--json", "--limit", "2", "--url", admin_port.url, "--token-file", token_file)

    assert json.loads(ran.out) == {"items": [{"name": "a"}, {"name": "b"}], "next": "behind-b"}
    assert ran.err == ""


@pytest.mark.parametrize(
    ("command", "query"),
    [
        (("population", "list", "--archived"), {"archived": ["true"]}),
        (("task", "list", "--archived"), {"archived": ["true"]}),
        (
            ("task", "list", "--state", "paused", "--kind", "evaluate"),
            {"state": ["paused"], "kind": ["evaluate"]},
        ),
        (("task", "list", "--population", "en-US"), {"population": ["en-US"]}),
        (("round", "list", "mine", "--phase", "collecting"), {"task": ["mine"], "phase": ["collecting"]}),
    ],
)
def test_the_filters_of_a_list_are_the_query_of_its_call(
    run: Callable[..., CommandResult],
    admin_port: StandInAdminPort,
    token_file: Path,
    command: tuple[str, ...],
    query: dict[str, list[str]],
) -> None:
    admin_port.answer = page(next=None)

    ran = run(*command, "--url", admin_port.url, "--token-file", token_file)

    assert ran.code == 0
    assert queries(admin_port) == [{"limit": ["1000"]} | query]


def test_a_limit_below_one_is_a_usage_error(run: Callable[..., CommandResult]) -> None:
    ran = run("task", "list", "--limit", "0")

    assert ran.code == 2
    assert "--limit" in ran.err
