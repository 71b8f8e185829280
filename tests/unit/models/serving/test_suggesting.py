"""Batched answers against the one-user reference, on a small network with weights at random."""

import gc
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from keyflock_compression import decode_state, encode_state
from keyflock_models.arrays import F32
from keyflock_models.evaluation.neural_scorer import NeuralScorer
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.personal.blend import HEAD
from keyflock_models.personal.gate import Gate
from keyflock_models.personal.head import PersonalHead, feature_space
from keyflock_models.personal.head_mapping import HeadMap
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_models.serving.batched_trunk import BatchedTrunk
from keyflock_models.serving.profile import ServingProfile
from keyflock_models.serving.suggesting import SuggestionQuery, suggest_batch
from keyflock_models.serving.vocabulary_index import VocabularyIndex
from keyflock_models.text.special_tokens import BOS, EOS, OOV
from keyflock_models.text.vocabulary import Vocabulary, build_vocabulary

WORDS = [f"{first}{second}a" for first in "bcdfghjklm" for second in "aeiou" for _ in "x"] + [
    f"{first}{second}{third}" for first in "bcdfgh" for second in "aeiou" for third in "rstlmn"
]
CONFIG = ModelConfig(vocabulary_size=len(WORDS) + 4, embedding_size=16, hidden_size=24)


@pytest.fixture(scope="module")
def words() -> Vocabulary:
    shares = np.arange(len(WORDS), 0, -1) / sum(range(len(WORDS) + 1))
    return build_vocabulary(WORDS, list(0.8 * shares), oov=0.1, eos=0.1)


@pytest.fixture(scope="module")
def weights() -> F32:
    return np.random.default_rng(0).normal(0, 0.4, ParamLayout.for_config(CONFIG).size).astype(np.float32)


@pytest.fixture(scope="module")
def index(words: Vocabulary) -> VocabularyIndex:
    return VocabularyIndex.from_vocabulary(words, lambda word: word != WORDS[0])


@pytest.fixture(scope="module")
def trunk(weights: F32, index: VocabularyIndex) -> BatchedTrunk:
    return BatchedTrunk(CONFIG, weights, index.is_shown)


def sentences(seed: int, count: int) -> list[str]:
    rng = np.random.default_rng(seed)
    own = [f"own{letter}x{seed}q" for letter in "abc"]
    favourites = [*rng.choice(WORDS[1:], 12).tolist(), *own]
    return [" ".join(rng.choice(favourites, rng.integers(1, 7))) for _ in range(count)]


def user(words: Vocabulary, weights: F32, seed: int, *, has_head: bool) -> PersonalModel:
    scorer = NeuralScorer(CONFIG, weights, words)
    model = PersonalModel.new(words)
    for message in sentences(seed, 60):
        ids = model.encode(message)
        rows = [row_of(scorer, model, " ".join(message.split()[:at]))[0] for at in range(len(ids))]
        model.learn(message, model.judge(ids, np.stack(rows)))
    if has_head:
        rng = np.random.default_rng(seed)
        model.head = PersonalHead(
            feature_space(weights),
            rng.normal(0, 0.3, (16, 4)).astype(np.float32),
            rng.normal(0, 0.3, (4, 16)).astype(np.float32),
            np.array([5, 9, 40], np.int32),
            np.array([2.0, -3.0, 1.0], np.float32),
        )
        model.weights.responsibilities[:, HEAD] = 500.0
    # As a server has it: after a journey as bytes.
    return PersonalModel.from_state(model.to_state(), words, width=16)


def row_of(scorer: NeuralScorer, model: PersonalModel, context: str) -> tuple[F32, F32 | None]:
    """The trunk's probabilities after a context, and the same with the user's head."""
    public = [one if one < len(model.vocabulary) else OOV for one in model.encode(context)]
    rows = np.array([[BOS, *public, EOS]], np.int32)
    state = scorer.states(rows)[0, len(public)][None]
    embedding, bias = scorer.output_product
    logits = state @ embedding.T + bias
    row = np.exp(logits - logits.max())
    head = None if model.head is None else model.head.probabilities(state, embedding, bias)[0]
    return (row / row.sum())[0].astype(np.float32), head


def reference(model: PersonalModel, weights: F32, question: SuggestionQuery) -> list[tuple[str, float]]:
    scorer = NeuralScorer(CONFIG, weights, model.vocabulary)
    row, head = row_of(scorer, model, question.context)
    return model.suggest(
        model.encode(question.context),
        row,
        count=question.count,
        head=head,
        prefix=question.prefix,
        is_personal=question.is_personal,
        may_show=lambda word: word != WORDS[0],
    )


def alike(found: tuple[tuple[str, float], ...], expected: list[tuple[str, float]]) -> None:
    assert [word for word, _ in found] == [word for word, _ in expected]
    np.testing.assert_allclose([value for _, value in found], [value for _, value in expected], atol=1e-5)


def test_a_batch_gives_what_each_user_would_get_alone(
    words: Vocabulary, weights: F32, index: VocabularyIndex, trunk: BatchedTrunk
) -> None:
    models = [user(words, weights, seed, has_head=seed % 2 == 0) for seed in range(6)]
    asked: list[tuple[PersonalModel, SuggestionQuery]] = []
    for seed, model in enumerate(models):
        model.gate.is_proved = (True, seed % 3 > 0)
        profile = ServingProfile.from_model(model, index)
        for at, message in enumerate(["", *sentences(seed, 4)]):
            asked.append((model, SuggestionQuery(message, count=1 + at, profile=profile)))
            asked.append((model, SuggestionQuery(message, count=10, profile=profile, is_personal=True)))

    found = suggest_batch([question for _, question in asked], trunk, index)

    assert sum(answer.is_personal for answer in found) == len(asked)
    for (model, question), answer in zip(asked, found, strict=True):
        alike(answer.words, reference(model, weights, question))


def test_where_the_history_does_not_know_the_context_the_network_answers(
    words: Vocabulary, weights: F32, index: VocabularyIndex, trunk: BatchedTrunk
) -> None:
    models = [user(words, weights, seed, has_head=seed == 2) for seed in (1, 2)]
    unknown = next(word for word in WORDS[1:] if all(word not in " ".join(sentences(s, 60)) for s in (1, 2)))
    questions = [
        SuggestionQuery(f"{unknown} {unknown}", count=count, profile=ServingProfile.from_model(model, index))
        for model in models
        for count in (1, 3, 7)
    ]

    found = suggest_batch(questions, trunk, index)

    # A head is part of the network, and speaks.
    assert [answer.is_personal for answer in found] == 3 * [False] + 3 * [True]
    for number, (question, answer) in enumerate(zip(questions, found, strict=True)):
        alike(answer.words, reference(models[number // 3], weights, question))
    alone = suggest_batch([SuggestionQuery(f"{unknown} {unknown}", count=7)], trunk, index)[0]
    alike(found[2].words, list(alone.words))


def test_the_networks_best_stays_on_the_strip(
    words: Vocabulary, weights: F32, index: VocabularyIndex, trunk: BatchedTrunk
) -> None:
    model = user(words, weights, 1, has_head=False)
    message = sentences(1, 60)[7].split()[0]
    shown = {}
    for places in (0, 1, 2):
        model.gate.is_proved = (places > 0, places > 1)
        profile = ServingProfile.from_model(model, index)
        shown[places] = [
            word
            for word, _ in suggest_batch([SuggestionQuery(message, profile=profile)], trunk, index)[0].words
        ]

    shared_words = {places: len(set(shown[0][: 3 - places]) & set(shown[places])) for places in (1, 2)}
    assert shared_words == {1: 2, 2: 1}
    assert shown[1] != shown[0]


def test_a_prefix_leaves_the_words_that_begin_so_and_shares_among_them(
    words: Vocabulary, weights: F32, index: VocabularyIndex, trunk: BatchedTrunk
) -> None:
    model = user(words, weights, 1, has_head=True)
    profile = ServingProfile.from_model(model, index)
    questions = [
        SuggestionQuery("baa daa", prefix=prefix, count=5, profile=profile)
        for prefix in ("c", "da", "own", "zzz")
    ]

    found = suggest_batch(questions, trunk, index)

    for question, answer in zip(questions[:2], found, strict=False):
        alike(answer.words, reference(model, weights, question))
    assert all(word.startswith("own") for word, _ in found[2].words)
    assert sum(value for _, value in found[2].words) == pytest.approx(1.0)
    assert found[3].words == ()


def test_who_has_no_profile_gets_the_networks_words(
    words: Vocabulary, weights: F32, index: VocabularyIndex, trunk: BatchedTrunk
) -> None:
    question = SuggestionQuery("baa beo caa", count=4)

    found = suggest_batch([question], trunk, index)

    assert not found[0].is_personal
    alike(found[0].words, reference(PersonalModel.new(words), weights, question))


def test_a_shut_gate_gives_the_networks_words(
    words: Vocabulary, weights: F32, index: VocabularyIndex, trunk: BatchedTrunk
) -> None:
    model = user(words, weights, 2, has_head=False)
    model.gate = Gate()
    profile = ServingProfile.from_model(model, index)

    with_it, without = suggest_batch(
        [SuggestionQuery("baa", profile=profile), SuggestionQuery("baa")], trunk, index
    )

    assert not with_it.is_personal
    assert [word for word, _ in with_it.words] == [word for word, _ in without.words]


def test_a_head_of_another_trunk_never_speaks(
    words: Vocabulary, weights: F32, index: VocabularyIndex
) -> None:
    model = user(words, weights, 2, has_head=True)
    profile = ServingProfile.from_model(model, index)
    mixture = profile.mixture(0, feature_space(weights), is_personal=False, has_letters=False)

    assert profile.head_for(mixture, feature_space(weights)) is not None
    assert profile.head_for(mixture, "f" * 32) is None


def test_a_head_that_cannot_be_mapped_is_set_aside(
    words: Vocabulary, weights: F32, index: VocabularyIndex, trunk: BatchedTrunk
) -> None:
    model = user(words, weights, 2, has_head=True)
    assert model.head is not None
    origin = "1" * 32
    model.head = replace(model.head, space=origin)
    beyond = np.eye(16, dtype=np.float32) * 1e6
    across = HeadMap(origin, feature_space(weights), beyond, beyond)
    profile = ServingProfile.from_model(model, index)

    followed = profile.for_trunk(feature_space(weights), {origin: across})

    assert followed.head is None
    assert suggest_batch([SuggestionQuery("baa", profile=followed)], trunk, index)[0].words


def test_compiling_stops_when_nobody_waits_for_it(trunk: BatchedTrunk) -> None:
    may_go_on = iter([False, True])

    # Asked a third time, it would have nothing to say.
    trunk.compile(lambda: next(may_go_on))

    assert next(may_go_on, None) is None


def test_a_blocked_word_is_never_shown(words: Vocabulary, weights: F32) -> None:
    model = PersonalModel.new(words)
    for _ in range(30):
        model.learn(f"{WORDS[0]} ownbad", None)
    strict = VocabularyIndex.from_vocabulary(words, lambda word: word not in {WORDS[0], "ownbad"})
    profile = ServingProfile.from_model(model, strict)

    trunk = BatchedTrunk(CONFIG, weights, strict.is_shown)
    for prefix in ("", "b", "own"):
        question = SuggestionQuery("", prefix=prefix, count=10, profile=profile, is_personal=True)
        shown = [word for word, _ in suggest_batch([question], trunk, strict)[0].words]
        assert WORDS[0] not in shown
        assert "ownbad" not in shown


def test_a_long_context_is_read_from_its_end(index: VocabularyIndex, trunk: BatchedTrunk) -> None:
    tail = " ".join(WORDS[5:25])

    long, longer = suggest_batch(
        [SuggestionQuery(f"{WORDS[30]} {tail}"), SuggestionQuery(f"{WORDS[31]} {tail}")], trunk, index
    )

    assert long.words == longer.words


@pytest.mark.fault("D15")
@pytest.mark.parametrize(("seeds", "has_head"), [((), False), ((1,), False), ((1, 2, 3), True)])
def test_a_profile_says_about_what_it_takes_of_memory(
    words: Vocabulary, weights: F32, index: VocabularyIndex, seeds: tuple[int, ...], *, has_head: bool
) -> None:
    model = user(words, weights, 1, has_head=has_head)
    for seed in seeds:
        for message in sentences(seed, 400):
            model.learn(message + f" q{message[:4]}w"[:20], None)
    data = encode_state(model.to_state())

    def made() -> ServingProfile:
        return ServingProfile.from_model(PersonalModel.from_state(decode_state(data), words, width=16), index)

    made()
    gc.collect()
    tracemalloc.start()
    profiles = [made() for _ in range(40)]
    gc.collect()
    held_bytes = tracemalloc.get_traced_memory()[0] / len(profiles)
    tracemalloc.stop()

    said_bytes = profiles[0].size_bytes
    assert 0.7 * held_bytes - 3_000 < said_bytes < 1.4 * held_bytes + 3_000


@pytest.mark.fault("D15")
def test_a_profile_holds_nothing_that_only_learning_needs(
    words: Vocabulary, weights: F32, index: VocabularyIndex
) -> None:
    model = user(words, weights, 1, has_head=False)
    before = ServingProfile.from_model(model, index).size_bytes
    for number in range(500):
        letters = f"{number:03}".translate(str.maketrans("0123456789", "abcdefghij"))
        model.words.learn(words, f"seenonce{letters}")

    assert ServingProfile.from_model(model, index).size_bytes == before
