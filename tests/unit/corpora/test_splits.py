"""Who is public, who is a phone and who is held out: seeded, disjoint, and in time order within a phone."""

import os
from pathlib import Path

import pytest

from keyflock_client_sim.corpora.sources import Corpus, read_corpus
from keyflock_client_sim.corpora.splits import DeviceText, LeftOutUsers, into_devices, split, take_public
from keyflock_client_sim.corpora.text import CorpusError, UserText, digest

DATA = Path(os.environ.get("KEYFLOCK_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))


def corpus_of(users: int, words: int = 300) -> Corpus:
    texts = tuple(
        UserText(f"play-{n % 12}/role-{n}", ("five words in a message",) * (words // 5)) for n in range(users)
    )
    return Corpus("made", texts, lambda user: user.user.partition("/")[0])


def test_no_user_is_in_two_parts_and_no_group_is_half_public() -> None:
    corpus = corpus_of(120)

    parts = split(corpus, seed=7, devices=40, held_out_devices=12)

    public_groups = {corpus.group_of(user) for user in parts.public}
    other_groups = {device.user.partition("/")[0] for device in (*parts.phones, *parts.held_out)}
    assert len(public_groups) == 4
    assert public_groups.isdisjoint(other_groups)
    assert {phone.user for phone in parts.phones}.isdisjoint(held.user for held in parts.held_out)
    assert (len(parts.phones), len(parts.held_out)) == (40, 12)


def test_the_seed_alone_decides_and_another_seed_decides_otherwise() -> None:
    first, again, other = (
        split(corpus_of(120), seed=seed, devices=40, held_out_devices=12) for seed in (1, 1, 2)
    )

    assert first == again
    assert first.phones != other.phones


def test_the_phones_of_a_long_writer_are_all_on_one_side() -> None:
    corpus = corpus_of(24, words=5_000)

    parts = split(corpus, seed=3, devices=1_000, held_out_devices=6, public_ratio=0.0)

    assert {phone.user for phone in parts.phones}.isdisjoint(held.user for held in parts.held_out)
    assert max(phone.words for phone in parts.phones) <= 2_000
    assert len(parts.held_out) == 6


def test_held_out_phones_may_share_a_user_with_phones_but_never_a_message() -> None:
    chatty = UserText("chatty", tuple(f"word {number} " + "so " * 18 for number in range(1_000)))
    corpus = Corpus("made", (chatty,), lambda user: user.user)

    parts = split(corpus, seed=1, devices=50, held_out_devices=3, public_ratio=0.0, held_out_by="phone")

    assert len(parts.held_out) == 3
    assert {phone.user for phone in parts.held_out} == {phone.user for phone in parts.phones} == {"chatty"}
    trained_messages = {message for phone in parts.phones for message in phone.messages}
    assert trained_messages.isdisjoint(message for phone in parts.held_out for message in phone.messages)
    assert not {phone.device for phone in parts.phones} & {phone.device for phone in parts.held_out}


def test_a_corpus_without_enough_text_is_refused_in_one_line() -> None:
    with pytest.raises(CorpusError, match="made: too little text for phones of 100 words"):
        split(corpus_of(30, words=50), seed=1, devices=10, held_out_devices=5)


@pytest.mark.fault("F14")
def test_users_with_too_little_text_are_counted() -> None:
    few, many = corpus_of(30, words=50), corpus_of(20, words=300)
    corpus = Corpus("made", (*few.users, *many.users), few.group_of)

    parts = split(corpus, seed=1, devices=50, held_out_devices=5, public_ratio=0.0)

    assert parts.left_out == LeftOutUsers(users=30, all_users=50, min_words=100)
    assert str(parts.left_out) == (
        "30 of 50 users have less text than the 100 words that are needed, and are left out"
    )
    assert not split(many, seed=1, devices=50, held_out_devices=5).left_out.users


@pytest.mark.fault("F14")
def test_a_corpus_of_nothing_but_short_users_says_how_many_there_are() -> None:
    with pytest.raises(CorpusError, match="30 of 30 users have less text than the 100 words"):
        split(corpus_of(30, words=50), seed=1, devices=10, held_out_devices=5, public_ratio=0.0)


def test_a_larger_public_part_holds_the_smaller_one() -> None:
    corpus = corpus_of(120)

    small, _ = take_public(corpus.users, 0.25, seed=5, group_of=corpus.group_of)
    large, rest = take_public(corpus.users, 0.5, seed=5, group_of=corpus.group_of)

    assert set(small) < set(large)
    assert (len(small), len(large), len(rest)) == (30, 60, 60)


def test_a_users_messages_are_cut_into_phones_in_order_and_scraps_are_dropped() -> None:
    user = UserText("ann", ("a b c", "d e", "f g h i", "j"))

    devices = into_devices(user, min_words=2, max_words=5)

    assert devices == (
        DeviceText("ann#0", "ann", ("a b c", "d e")),
        DeviceText("ann#1", "ann", ("f g h i", "j")),
    )
    assert into_devices(user, min_words=6, max_words=5) == ()


def test_the_digest_tells_texts_apart_even_when_they_read_the_same_in_a_row() -> None:
    texts = [
        [UserText("ann", ("ab", "c"))],
        [UserText("ann", ("a", "bc"))],
        [UserText("ann", ("ab",)), UserText("c", ())],
    ]

    assert len({digest(users) for users in texts}) == 3


@pytest.mark.skipif(
    not DATA.is_dir(), reason="the text-message corpus is not on this machine (KEYFLOCK_DATA)"
)
def test_text_messages_make_the_fleet_that_their_page_promises() -> None:
    corpus = read_corpus(DATA / "nus_sms_en.jsonl.gz")

    phones = [device for user in corpus.users for device in into_devices(user)]

    assert len(corpus.users) == 342
    assert abs(len(phones) - 378) <= 5
