"""Dealing users out to workers changes no figure, and figures come back in the users' order."""

from pathlib import Path

import numpy as np

from keyflock_client_sim.corpora.splits import DeviceText, Split
from keyflock_client_sim.corpora.text import UserText
from keyflock_client_sim.measuring.evaluation import evaluate, keystroke_savings, publish_checkpoint
from keyflock_client_sim.measuring.held_out_text import HeldOutText
from keyflock_client_sim.measuring.scorers import Trigram, Unigram
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_models.evaluation import measures
from keyflock_models.evaluation.neural_scorer import NeuralScorer
from keyflock_models.evaluation.trigram import KneserNeyTrigram
from keyflock_models.evaluation.unigram import UnigramModel
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.config import ModelConfig
from keyflock_models.text.vocabulary import build_vocabulary

WORDS = [f"w{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
VOCABULARY = build_vocabulary(WORDS, [1 / 40] * len(WORDS), oov=0.05, eos=0.1)
CONFIG = ModelConfig(vocabulary_size=len(VOCABULARY), embedding_size=6, hidden_size=8)


def message_of(seed: int, messages: int) -> tuple[str, ...]:
    rng = np.random.default_rng(seed)
    return tuple(" ".join(rng.choice([*WORDS, "unheard"], rng.integers(2, 8))) for _ in range(messages))


def text() -> HeldOutText:
    held_out = tuple(
        DeviceText(f"{user}#{part}", user, message_of(10 * number + part, 3 + number))
        for number, user in enumerate("deabc")
        for part in range(2)
    )
    phones = (DeviceText("z#0", "z", message_of(99, 60)),)
    return HeldOutText.of(Split((UserText("y", message_of(98, 60)),), phones, held_out), VOCABULARY)


async def test_a_models_figures_are_those_of_one_process_for_every_user(compilation_cache: Path) -> None:
    users = text()
    rng = np.random.default_rng(3)
    weights = rng.normal(0, 0.5, CONFIG.parameter_count).astype(np.float32)
    checkpoint = Checkpoint(CONFIG, VOCABULARY, weights, {})

    async with WorkerPool(2, compilation_cache=compilation_cache) as pool:
        measured = await evaluate(pool, publish_checkpoint(pool, checkpoint), users.sequences)

    expected = measures.evaluate(NeuralScorer(CONFIG, weights, VOCABULARY), users.sequences)
    assert measured.users == expected.users == ("d", "e", "a", "b", "c")
    np.testing.assert_array_equal(measured.recall_at_3.numerator, expected.recall_at_3.numerator)
    np.testing.assert_array_equal(measured.recall_at_3.denominator, expected.recall_at_3.denominator)
    np.testing.assert_allclose(measured.nll.numerator, expected.nll.numerator, rtol=1e-4)


async def test_baselines_count_the_text_that_is_not_held_out(compilation_cache: Path) -> None:
    users = text()

    async with WorkerPool(2, compilation_cache=compilation_cache) as pool:
        unigram = await evaluate(pool, Unigram(VOCABULARY, users.elsewhere), users.sequences)
        trigram = await evaluate(pool, Trigram(VOCABULARY, users.elsewhere), users.sequences)

    elsewhere = users.elsewhere
    for measured, model in (
        (unigram, UnigramModel.fit(elsewhere, VOCABULARY)),
        (trigram, KneserNeyTrigram.fit(elsewhere, VOCABULARY)),
    ):
        expected = measures.evaluate(model, users.sequences)
        np.testing.assert_array_equal(measured.recall_at_1.numerator, expected.recall_at_1.numerator)


async def test_typing_is_simulated_for_every_user(compilation_cache: Path) -> None:
    users = text()

    async with WorkerPool(2, compilation_cache=compilation_cache) as pool:
        savings = await keystroke_savings(
            pool, Unigram(VOCABULARY, users.elsewhere), users.sequences, users.letters, seed=5
        )

    assert savings.users == ("d", "e", "a", "b", "c")
    assert (savings.all.numerator >= savings.before_typing.numerator).all()
    assert 0.0 < savings.all.micro < 1.0


def test_a_users_several_phones_are_one_user_again() -> None:
    users = text()

    assert list(users.sequences) == ["d", "e", "a", "b", "c"]
    assert [len(rows) for rows in users.sequences.values()] == [6, 8, 10, 12, 14]
    assert {user: rows.shape for user, rows in users.letters.items()} == {
        user: rows.shape for user, rows in users.sequences.items()
    }
    assert len(users.elsewhere) == 120
