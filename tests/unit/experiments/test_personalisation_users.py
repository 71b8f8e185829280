from keyflock_client_sim.corpora.text import UserText
from keyflock_client_sim.experiments.personalisation.users import cut_in_time, shuffle_messages, split_users

USERS = [
    UserText(f"u{number}", tuple(f"m{number}x{place} two three" for place in range(10)))
    for number in range(9)
]


def test_the_later_fifth_of_the_words_is_judged() -> None:
    cut = cut_in_time(USERS[0], max_words=1_000)

    assert cut.earlier == USERS[0].messages[:8]
    assert cut.later == USERS[0].messages[8:]


def test_only_the_latest_words_count() -> None:
    cut = cut_in_time(USERS[0], max_words=15)

    assert cut.earlier + cut.later == USERS[0].messages[5:]


def test_a_user_of_one_message_has_nothing_to_learn_from() -> None:
    cut = cut_in_time(UserText("u", ("just this",)), max_words=100)

    assert (cut.earlier, cut.later) == ((), ("just this",))


def test_a_long_message_is_read_in_pieces() -> None:
    cut = cut_in_time(UserText("u", (" ".join(["word"] * 100),)), max_words=1_000)

    assert [len(piece.split()) for piece in cut.earlier + cut.later] == [40, 40, 20]


def test_halves_have_nobody_in_common_and_a_grown_corpus_keeps_its_users_sides() -> None:
    trains, measured = split_users(USERS, seed=0)
    fewer_trains, fewer_measured = split_users(USERS[:6], seed=0)

    assert {user.user for user in trains} | {user.user for user in measured} == {user.user for user in USERS}
    assert not {user.user for user in trains} & {user.user for user in measured}
    assert {user.user for user in fewer_trains} <= {user.user for user in trains}
    assert {user.user for user in fewer_measured} <= {user.user for user in measured}


def test_dealt_anew_everyone_keeps_their_number_of_messages_and_none_is_lost() -> None:
    dealt = shuffle_messages(USERS, seed=1)

    assert [len(user.messages) for user in dealt] == [10] * 9
    assert sorted(text for user in dealt for text in user.messages) == sorted(
        text for user in USERS for text in user.messages
    )
    own = sum(
        text in before.messages for before, after in zip(USERS, dealt, strict=True) for text in after.messages
    )
    assert own < 30
