"""Every personal model that learning can reach is stored and restored bit for bit."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.learning.models.personal_corpora import DATA, Figures, observe_user, read_users

from keyflock_compression import decode_state, encode_state
from keyflock_models.personal.gate import GainPrior, Gate
from keyflock_models.personal.head import MAX_MAGNITUDE, PersonalHead
from keyflock_models.personal.head_mapping import HeadMap
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_models.text.public_vocabulary import public_vocabulary
from keyflock_models.text.vocabulary import Vocabulary, build_vocabulary

pytestmark = pytest.mark.fault("F1")

WIDTH = 4
VOCABULARY = build_vocabulary(
    ["the", "room", "is", "wide", "don't"], [0.3, 0.2, 0.2, 0.1, 0.1], oov=0.1, eos=0.1
)
PIECES = (
    "12'",
    "11'",
    "'482913'",
    "3\ufe0f\u20e3",
    "\u2764\ufe0f",
    "\u0301",
    "\u06cc\u200c\u062e",
    "A7X9K2",
    "2nd",
)

texts = (
    st.text(max_size=40)
    | st.text(
        alphabet="aAbB\u00e7\u0130\u00df\ufb0112'\u2019\u00b4.:/@<># _-\u0301\u200c\u200d\ufe0f\U0001f600",
        max_size=30,
    )
    | st.lists(st.sampled_from((*PIECES, "the", "room", "xylo", "yurt", "Zinc")), max_size=8).map(" ".join)
)
numbers = st.floats(-MAX_MAGNITUDE, MAX_MAGNITUDE, width=32)


def restored(model: PersonalModel) -> tuple[bytes, bytes]:
    """The model as stored, and as stored again after it was restored."""
    data = encode_state(model.to_state())
    again = PersonalModel.from_state(decode_state(data), VOCABULARY, width=WIDTH)
    return data, encode_state(again.to_state())


class Typing(RuleBasedStateMachine):
    """A user types anything, forgets words, gets heads and other trunks, and changes the phone."""

    @initialize(capacity=st.integers(1, 6))
    def begin(self, capacity: int) -> None:
        """Begin with few words, so that some are evicted."""
        self.model = PersonalModel.new(VOCABULARY)
        self.model.words.capacity = capacity
        self.messages: list[str] = []

    @rule(message=texts, times=st.integers(1, 3), is_judged=st.booleans())
    def type(self, message: str, times: int, is_judged: bool) -> None:
        """Type a message."""
        self.messages.append(message)
        for _ in range(times):
            ids = self.model.encode(message)
            rows = np.full((len(ids), len(VOCABULARY)), 1 / len(VOCABULARY), np.float32)
            head = rows if self.model.head is not None else None
            self.model.learn(message, self.model.judge(ids, rows, head) if is_judged and ids else None)

    @rule(data=st.data())
    def type_again(self, data: st.DataObject) -> None:
        """Type an earlier message again."""
        if self.messages:
            self.model.learn(data.draw(st.sampled_from(self.messages)), None)

    @rule(word=texts)
    def forget_any(self, word: str) -> None:
        """Forget some word."""
        self.model.forget_word(word)

    @rule(data=st.data())
    def forget_own(self, data: st.DataObject) -> None:
        """Forget an own word."""
        if len(self.model.words):
            self.model.forget_word(data.draw(st.sampled_from(sorted({*self.model.words.all()} - {""}))))

    @rule(numbers=st.lists(numbers, min_size=2 * WIDTH + 1, max_size=2 * WIDTH + 1), rank=st.integers(0, 1))
    def fit(self, numbers: list[float], rank: int) -> None:
        """Get a head with any numbers that `fit_head` returns."""
        values = np.array(numbers, np.float32)
        self.model.set_head(
            PersonalHead(
                "0" * 32,
                values[:WIDTH].reshape(WIDTH, 1)[:, :rank],
                values[WIDTH : 2 * WIDTH].reshape(1, WIDTH)[:rank],
                np.array([5], np.int32),
                values[-1:],
            )
        )

    @rule(scale=numbers)
    def change_trunk(self, scale: float) -> None:
        """Get a version whose map turns and stretches the head."""
        matrix = np.eye(WIDTH, dtype=np.float32) * np.float32(scale)
        space = self.model.head.space if self.model.head is not None else "0" * 32
        self.model.update_trunk("1" * 32, HeadMap(space, "1" * 32, matrix, matrix))

    @invariant()
    def is_restored(self) -> None:
        """Storing and restoring changes nothing."""
        if hasattr(self, "model"):
            # Another phone reads with the default capacity, which is larger.
            data, again = restored(self.model)
            assert again == data


Typing.TestCase.settings = settings(max_examples=40, stateful_step_count=12, deadline=None)
TestTyping = Typing.TestCase


@pytest.mark.parametrize("message", ["the room is 12' wide", "11' 11'", "my pin is '482913'", *PIECES])
def test_a_model_of_any_message_is_restored(message: str) -> None:
    model = PersonalModel.new(VOCABULARY)
    for _ in range(3):
        model.learn(message, None)

    data, again = restored(model)

    assert again == data


def test_long_messages_leave_evidence_that_is_restored() -> None:
    prior = GainPrior()
    gate = Gate(prior)
    for _ in range(200):
        gate.observe(99_991, (33_333, 0), (0, 77_777))

        assert Gate.from_state(gate.to_state(), prior).to_state()["is_proved"] == list(gate.is_proved)


def test_the_largest_model_that_typing_makes_can_be_stored() -> None:
    rng = np.random.default_rng(0)
    vocabulary = build_vocabulary([f"w{n}x" for n in range(9_000)], [1e-4] * 9_000, oov=0.1, eos=0.1)
    model = PersonalModel.new(vocabulary)
    for _ in range(1_200):
        model.history.observe(rng.integers(4, 9_000, 12).tolist())
    han = [chr(code) for code in range(0x4E00, 0x9000)]
    for _ in range(60):
        words = ["".join(rng.choice(han, 40)) for _ in range(8)]
        model.learn(" ".join([*words, *words[:4]]), None)

    data = encode_state(model.to_state())

    again = PersonalModel.from_state(decode_state(data), vocabulary, width=WIDTH)
    assert encode_state(again.to_state()) == data


@pytest.fixture(scope="module")
def english() -> Vocabulary:
    return public_vocabulary("en")


@pytest.mark.fault("F2")
@pytest.mark.skipif(not DATA.is_dir(), reason="the shared corpora are not on this machine (KEYFLOCK_DATA)")
@pytest.mark.parametrize(("corpus", "every"), [("nus_sms_en", 40), ("ubuntu_irc", 400)])
def test_models_of_real_users_are_restored_and_offer_no_secret(
    english: Vocabulary, corpus: str, every: int
) -> None:
    figures = Figures()
    for seed, messages in enumerate(read_users(corpus, every)):
        observe_user(messages, english, seed, figures)

    assert figures.users >= 8
    assert figures.own_words > 0
    assert (figures.not_restored, figures.offered, figures.letterless_own_words) == (0, 0, 0)
    assert figures.share_kept_out >= 0.99
