"""A group whose operations are committed one by one, because some row keeps them from one transaction."""

from collections.abc import Callable
from typing import Any

from sqlalchemy.exc import IntegrityError
from tests.contract.test_store_contract import device

from keyflock_server.storage.errors import AlreadyExists, StorageUnavailable
from keyflock_server.storage.interfaces.group_writer import AddDevice
from keyflock_server.storage.sql.group_writer import SqlGroupWriter


class ScriptedTransactions:
    """Transactions that give one result or error after the other."""

    def __init__(self, *results: object) -> None:
        self.results = list(results)

    async def run(self, function: Callable[..., Any], *args: object, **kwargs: object) -> Any:  # noqa: ANN401 - as scripted
        del function, args, kwargs  # nothing is written here
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    async def run_outside(self, function: Callable[..., Any]) -> Any:  # noqa: ANN401 - as scripted
        return await self.run(function)

    async def close(self) -> None:
        """Do nothing."""


async def test_a_store_that_goes_away_meanwhile_is_waited_for_once_and_undoes_nothing() -> None:
    taken, away = IntegrityError("", {}, Exception()), StorageUnavailable("The database is away.")
    transactions = ScriptedTransactions(taken, [None], taken, away)

    outcomes = await SqlGroupWriter(transactions).commit([AddDevice(device(name)) for name in "abcde"])

    assert outcomes[0] is None
    assert isinstance(outcomes[1], AlreadyExists)
    assert outcomes[2:] == [away] * 3
    assert transactions.results == []
