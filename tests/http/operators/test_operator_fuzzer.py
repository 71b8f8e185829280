"""The operator API keeps to its own document, whatever is asked: a short run of ``make fuzz-operator``."""

from tests.fuzz.operator.operator_fuzzer import OperatorFuzzOutcome, fuzz_operators, operators_port

SEQUENCES = 15


def test_sequences_of_calls_are_answered_as_the_document_says_and_bring_no_5xx() -> None:
    outcome = OperatorFuzzOutcome()

    with operators_port() as (url, token):
        fuzz_operators(url, token, outcome, sequences=SEQUENCES, seed_=1)

    assert outcome.failures == []
    assert not [status for status in outcome.answers if status >= 500]
    # It gets past every gate often enough to mean something.
    assert outcome.calls.total() >= 2 * SEQUENCES
    assert len(outcome.calls) >= 8
    assert {200, 422} <= set(outcome.answers)
