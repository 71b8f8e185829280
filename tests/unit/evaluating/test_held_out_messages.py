"""A fifth of a phone's messages is never trained on: which, is decided by their words and the phone's key."""

from keyflock_client_sim.evaluating.held_out_messages import split_messages

MESSAGES = [f"message number {'abcdefghij'[at % 10] * (1 + at // 10)} of many" for at in range(500)]


def test_every_message_is_on_one_side_in_its_order() -> None:
    found = split_messages(MESSAGES, "phone-1")

    assert sorted([*found.trained, *found.held_out]) == sorted(MESSAGES)
    assert [one for one in MESSAGES if one in set(found.held_out)] == list(found.held_out)
    # A binomial of 500 by a fifth: five deviations are 45.
    assert 55 < len(found.held_out) < 145


def test_what_is_typed_later_moves_no_message_to_the_other_side() -> None:
    before = split_messages(MESSAGES[:100], "phone-1")

    after = split_messages(MESSAGES, "phone-1")

    assert after.held_out[: len(before.held_out)] == before.held_out
    assert after.trained[: len(before.trained)] == before.trained


def test_a_repeated_sentence_is_on_one_side_however_it_is_written() -> None:
    for message in MESSAGES[:50]:
        found = split_messages([message, message.upper(), f"{message}!"], "phone-1")

        assert {len(found.trained), len(found.held_out)} == {0, 3}


def test_phones_hold_out_different_messages() -> None:
    first, second = (set(split_messages(MESSAGES, f"phone-{number}").held_out) for number in (1, 2))

    assert first - second
    assert second - first
