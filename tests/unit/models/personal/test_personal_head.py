import numpy as np
import pytest

from keyflock_models.arrays import F32, I32
from keyflock_models.personal.head import PersonalHead, feature_space
from keyflock_models.personal.head_fitting import HeadSettings, fit_head
from keyflock_models.personal.words import PersonalStateError

WIDTH, WORDS = 6, 20
SPACE = "0" * 32


def softmax(logits: F32) -> F32:
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exps / exps.sum(axis=1, keepdims=True), np.float32)


def trunk(seed: int = 0) -> tuple[F32, F32]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(WORDS, WIDTH)).astype(np.float32), rng.normal(size=WORDS).astype(np.float32)


def head_of(**changes: object) -> PersonalHead:
    rng = np.random.default_rng(1)
    values: dict[str, object] = {
        "space": SPACE,
        "down": rng.normal(size=(WIDTH, 2)).astype(np.float32),
        "up": rng.normal(size=(2, WIDTH)).astype(np.float32),
        "bias_ids": np.array([5, 9], np.int32),
        "bias": np.array([1.5, -0.5], np.float32),
    }
    return PersonalHead(**(values | changes))  # type: ignore[arg-type]


def user_text(places: int, favourite: int, seed: int = 2) -> tuple[F32, I32]:
    """States at random, and a user who types one word every second time."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(4, WORDS, places).astype(np.int32)
    targets[::2] = favourite
    return rng.normal(size=(places, WIDTH)).astype(np.float32), targets


def mean_loss(head: PersonalHead | None, states: F32, targets: I32) -> float:
    embedding, bias = trunk()
    block = (
        softmax(states @ embedding.T + bias) if head is None else head.probabilities(states, embedding, bias)
    )
    return float(-np.log(block[np.arange(len(targets)), targets]).mean())


def test_probabilities_are_those_of_the_formula() -> None:
    embedding, output_bias = trunk()
    states = np.random.default_rng(3).normal(size=(4, WIDTH)).astype(np.float32)
    head = head_of()

    found = head.probabilities(states, embedding, output_bias)

    adapted = states @ (np.eye(WIDTH, dtype=np.float32) + head.down @ head.up)
    logits = adapted @ embedding.T + output_bias
    logits[:, 5] += 1.5
    logits[:, 9] -= 0.5
    np.testing.assert_allclose(found, softmax(logits), rtol=1e-4)


def test_a_fitted_head_predicts_the_users_later_words_better() -> None:
    states, targets = user_text(400, favourite=7)
    later_states, later = user_text(200, favourite=7, seed=9)

    head = fit_head(states, targets, *trunk(), HeadSettings(rank=2, biases=8), space=SPACE, seed=0)

    assert head is not None
    assert mean_loss(head, later_states, later) < mean_loss(None, later_states, later) - 0.25
    assert 7 in head.bias_ids


def test_a_head_that_does_not_help_later_is_not_kept() -> None:
    states, targets = user_text(400, favourite=7)
    # The last fifth is another person: what was learned before cannot help there.
    embedding, bias = trunk()
    targets[320:] = np.argmax(states[320:] @ embedding.T + bias, axis=1)
    targets[320:] = np.where(targets[320:] < 4, 4, targets[320:])

    settings = HeadSettings(rank=2, biases=8, learning_rate=0.5)
    head = fit_head(states, targets, embedding, bias, settings, space=SPACE, seed=0)

    assert head is None


def test_a_few_words_make_no_head() -> None:
    states, targets = user_text(299, favourite=7)

    assert fit_head(states, targets, *trunk(), HeadSettings(), space=SPACE, seed=0) is None


def test_fitting_is_the_same_each_time() -> None:
    states, targets = user_text(300, favourite=7)

    heads = [
        fit_head(states, targets, *trunk(), HeadSettings(rank=2, biases=8), space=SPACE, seed=5) for _ in "ab"
    ]

    assert heads[0] is not None
    assert heads[1] is not None
    assert heads[0].up.tolist() == heads[1].up.tolist()


def test_places_that_only_fill_a_batch_up_teach_nothing() -> None:
    states, targets = user_text(300, favourite=7)
    oov = np.full(50, 1, np.int32)
    noise = np.full((50, WIDTH), 9.0, np.float32)

    plain = fit_head(states, targets, *trunk(), HeadSettings(rank=2), space=SPACE, seed=5)
    padded = fit_head(
        np.concatenate([noise, states]),
        np.concatenate([oov, targets]),
        *trunk(),
        HeadSettings(rank=2),
        space=SPACE,
        seed=5,
    )

    assert plain is not None
    assert padded is not None
    assert plain.bias.tolist() == padded.bias.tolist()


def test_a_head_of_the_default_size_takes_about_four_kilobytes() -> None:
    state = head_of(
        down=np.zeros((96, 8), np.float32),
        up=np.zeros((8, 96), np.float32),
        bias_ids=np.arange(4, 260, dtype=np.int32),
        bias=np.zeros(256, np.float32),
    ).to_state()

    assert sum(value.nbytes for value in state.values() if isinstance(value, np.ndarray)) == 4_608


def test_the_state_gives_the_same_head_in_float16() -> None:
    again = PersonalHead.from_state(head_of().to_state(), width=WIDTH, words=WORDS)

    np.testing.assert_allclose(again.down, head_of().down, rtol=1e-3)
    assert again.bias.tolist() == [1.5, -0.5]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"space": "x" * 32}, "32 hex digits"),
        ({"down": np.zeros((WIDTH, 2), np.float32)}, "no float16"),
        ({"down": np.zeros((WIDTH + 1, 2), np.float16)}, "does not fit"),
        ({"up": np.zeros((3, WIDTH), np.float16)}, "does not fit"),
        ({"up": np.full((2, WIDTH), np.nan, np.float16)}, "finite"),
        ({"bias": np.array([np.inf, 0], np.float16)}, "finite"),
        ({"bias": np.zeros(3, np.float16)}, "one a word"),
        ({"bias_ids": np.array([9, 5], np.int32)}, "in their order"),
        ({"bias_ids": np.array([5, WORDS], np.int32)}, "in their order"),
        ({"bias_ids": np.array([0, 5], np.int32)}, "in their order"),
    ],
)
def test_a_state_that_cannot_be_a_head_is_refused(change: dict[str, object], reason: str) -> None:
    with pytest.raises(PersonalStateError, match=reason):
        PersonalHead.from_state(head_of().to_state() | change, width=WIDTH, words=WORDS)


@pytest.mark.parametrize(
    "wrong", [{"rank": 17}, {"epochs": 0}, {"learning_rate": 0.0}, {"held_out_ratio": 1.0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="is"):
        HeadSettings(**wrong)  # type: ignore[arg-type]


def test_another_trunk_is_another_space() -> None:
    weights = np.zeros(10, np.float32)
    other = weights.copy()
    other[3] = 1e-6

    assert len(feature_space(weights)) == 32
    assert feature_space(weights) == feature_space(weights.copy())
    assert feature_space(weights) != feature_space(other)
