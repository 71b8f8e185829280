"""The operator API keeps to its own document, whatever is asked: a short run of ``make fuzz-operator``."""

from tests.fuzz.operator.operator_fuzzer import UNENDING, OperatorFuzzOutcome, fuzz_operators, operators_port

from keyflock_server.protocol.operator.table import OPERATOR_CALLS

SEQUENCES = 5


def test_sequences_of_calls_are_answered_as_the_document_says_and_bring_no_5xx() -> None:
    outcome = OperatorFuzzOutcome()

    with operators_port() as (url, token):
        fuzz_operators(url, token, outcome, sequences=SEQUENCES, seed_=1)

    assert outcome.failures == []
    assert not [status for status in outcome.answers if status >= 500]
    # It gets past every gate often enough to mean something.
    assert outcome.calls.total() >= 2 * SEQUENCES
    assert set(outcome.calls) == {call.name for call in OPERATOR_CALLS} - set(UNENDING)
    assert {200, 422} <= set(outcome.answers)
