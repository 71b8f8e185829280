"""Events that drop a round's sum, with their texts: who decided it, why, and how many reports it held."""

from keyflock_server.protocol.identifiers import ModelVersion
from keyflock_server.rounds.round import Abandoned, Cancelled, Discarded, Round


def discarded_by_operator(current: Round, reason: str) -> Discarded:
    """Return the event of an operator who discards a held round."""
    return Discarded(
        f"{current.detail} Discarded by an operator: {_sentence(reason)} {_sum_given_up(current)}"
    )


def discarded_by_rollback(current: Round, to: ModelVersion, reason: str) -> Discarded:
    """Return the event of a round that has not published when its population is rolled back."""
    why = f"The population was rolled back to version {to} by an operator: {_sentence(reason)}"
    return Discarded(" ".join(part for part in (current.detail, why, _sum_given_up(current)) if part))


def discarded_without_version(current: Round) -> Discarded:
    """Return the event of a round that was opened while its base version was being withdrawn."""
    return Discarded(
        f"Version {current.base_version}, which it trains from, was withdrawn. {_sum_given_up(current)}"
    )


def cancelled_while_collecting(current: Round) -> Cancelled:
    """Return the event that ends a collecting round when its task is cancelled.

    The text has no number: another process may be counting at this moment.
    """
    given_up = " What the round had counted was discarded." if current.reports else ""
    return Cancelled(f"The task was cancelled by an operator.{given_up}")


def cancelled_while_held(current: Round) -> Cancelled:
    """Return the event that ends a held round when its task is cancelled."""
    return Cancelled(f"{current.detail} The task was cancelled by an operator. {_sum_given_up(current)}")


def cancelled_while_stuck(current: Round, trouble: str) -> Cancelled:
    """Return the event that ends a round that cannot close when its task is cancelled."""
    why = f"The task was cancelled by an operator. The round could not close: {trouble}"
    return Cancelled(f"{why} {_sum_given_up(current)}")


def abandoned_by_operator(current: Round, reason: str) -> Abandoned:
    """Return the event of an operator who ends a collecting round and drops its reports."""
    why = f"Abandoned by an operator: {_sentence(reason)} {_sum_given_up(current)}"
    return Abandoned(why, current.reports)


def carried_by_operator(reason: str) -> str:
    """Return the detail of a round that an operator ends, and whose reports go into the next one.

    The text has no number: another process may be counting at this moment.
    """
    return f"Ended by an operator: {_sentence(reason)} Its reports were carried into the next round."


def _sum_given_up(current: Round) -> str:
    return f"The sum of {current.reports} reports was discarded."


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
