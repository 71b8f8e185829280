"""A command that calls a server: the options of which server, and of how its answer is printed, are its own.

A command is a function whose first parameter is an ``OperatorSession``; the options that all such commands
share come after its other parameters.
"""

import functools
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final

import typer

from keyflock_server.cli import output
from keyflock_server.cli.options import MAX_LIMIT, DataDir, Json, TokenFile, Url, Watch, connect
from keyflock_server.cli.watching import watch

if TYPE_CHECKING:
    from keyflock_server.protocol.operator.call import AnyCall


@dataclass(frozen=True, slots=True)
class OperatorSession:
    """The server that a command talks to, and how the command prints what it answers."""

    url: str | None
    token_file: Path | None
    data_dir: Path | None
    as_json: bool

    def call(
        self,
        call: "AnyCall",
        path_params: Mapping[str, str] | None = None,
        *,
        order: Mapping[str, object] | None = None,
        body: bytes | None = None,
        query: Mapping[str, str] | None = None,
        media_type: str | None = None,
    ) -> Any:  # noqa: ANN401 - JSON
        """Return the server's answer, as plain JSON values.

        Args:
            call: The endpoint.
            path_params: The values of the parameters in its path.
            order: The fields of its JSON body.
            body: Its body, where that is no JSON object.
            query: Its query parameters.
            media_type: What the body is, where the endpoint takes several kinds.
        Raises:
            CommandError: the server is not found, cannot be reached, or has refused the call.
        """
        if order is not None:
            body = json.dumps(order).encode()
        return connect(self.url, self.token_file, self.data_dir).call(
            call, path_params, body, query, media_type
        )

    def read(
        self, call: "AnyCall", path_params: Mapping[str, str], query: Mapping[str, str] | None = None
    ) -> bytes:
        """Return the bytes that a server answers; raises CommandError as ``call`` does."""
        return connect(self.url, self.token_file, self.data_dir).read(call, path_params, query=query)

    def print_fields(self, answer: Mapping[str, Any]) -> None:
        """Print an answer, a line per field."""
        output.print_json(answer) if self.as_json else output.print_fields(answer)

    def print_rows(
        self, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], answer: Mapping[str, Any]
    ) -> None:
        """Print the rows of an answer as a table; as JSON, the answer."""
        output.print_json(answer) if self.as_json else output.print_table(columns, rows)

    def print_list(
        self,
        columns: Sequence[str],
        call: "AnyCall",
        path_params: Mapping[str, str] | None = None,
        *,
        limit: int,
        query: Mapping[str, str | None] | None = None,
    ) -> None:
        """Print a list as a table, with a note where it goes on behind ``limit`` items.

        The pages are asked for one after the other, and none behind the last item that is printed. As JSON
        it is one object: ``items``, and ``next``, which is null at the end of the list.

        Args:
            columns: The fields that the table shows.
            call: The endpoint of the list.
            path_params: The values of the parameters in its path.
            limit: Maximum number of items.
            query: Its other query parameters; those that are None are left out.
        """
        given = {name: value for name, value in (query or {}).items() if value is not None}
        items: list[Mapping[str, Any]] = []
        while True:
            size = min(MAX_LIMIT, limit - len(items))
            page = self.call(call, path_params, query={"limit": str(size)} | given)
            items += page["items"]
            if page["next"] is None or len(items) >= limit:
                break
            given["after"] = page["next"]
        output.print_list(columns, {**page, "items": items}, as_json=self.as_json)


_Function = Callable[Concatenate[OperatorSession, ...], None]


def operator_command(
    app: typer.Typer, name: str, *, is_watchable: bool = False
) -> Callable[[_Function], Callable[..., None]]:
    """Return a decorator that makes a function the command of this name.

    Args:
        app: The group of the command.
        name: The command's name in it.
        is_watchable: Whether it has ``--watch``: it shows something that changes, and changes nothing.
    """

    def register(function: _Function) -> Callable[..., None]:
        @functools.wraps(function)
        def command(**given: Any) -> None:  # noqa: ANN401 - what the command line says
            watches = given.pop("watch", False)
            shared = {parameter.name: given.pop(parameter.name) for parameter in _SHARED}
            show = functools.partial(function, OperatorSession(**shared), **given)
            watch(show) if watches else show()

        signature = inspect.signature(function)
        own = list(signature.parameters.values())[1:] + (list(_WATCH) if is_watchable else [])
        vars(command)["__signature__"] = signature.replace(parameters=[*own, *_SHARED])
        return app.command(name)(command)

    return register


def _shared_options(
    url: Url = None, token_file: TokenFile = None, data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Declare the options that all these commands have."""


def _watch_option(watch: Watch = False) -> None:
    """Declare the option of commands that can be watched."""


_WATCH: Final = tuple(inspect.signature(_watch_option).parameters.values())
_SHARED: Final = tuple(inspect.signature(_shared_options).parameters.values())
