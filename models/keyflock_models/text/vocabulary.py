"""The vocabulary: the words that a model knows, with their ids and their public frequencies."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from keyflock_models.arrays import F32, Bool
from keyflock_models.text.special_tokens import OOV, SPECIAL_TOKENS
from keyflock_models.text.tokenizer import has_letter

#: Letters that stand for another one: capitals have no accent in Greek, and their I is i or the dotless ı in
#: Turkish, and ß is SS in German; old keyboards write the Romanian comma as a cedilla. Only a language's
#: words tell which is meant.
_SUBSTITUTES: Final = str.maketrans(dict(zip("άέήίόύώΐΰıșțß", (*"αεηιουωϊϋişţ", "ss"), strict=True)))


class VocabularyError(ValueError):
    """Words or bytes are no vocabulary; the message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """An ordered list of words; a word's id is its index.

    Guarantees:
        The special tokens come first and no word appears twice. Vocabularies with the same digest give every
        text the same ids. `from_bytes(v.to_bytes())` is v.
    Raises:
        VocabularyError: the words or frequencies cannot be a vocabulary.
    """

    words: tuple[str, ...]
    #: Natural logarithm of each entry's probability as a target. Shape (V,), float32.
    log_frequencies: F32
    #: Identity of the words and their order, 64 hexadecimal digits.
    digest: str = field(init=False)
    #: Which ids may be suggested to a user: all words with a letter in them. Shape (V,).
    is_displayable: Bool = field(init=False, repr=False)
    _ids: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.words[: len(SPECIAL_TOKENS)] != SPECIAL_TOKENS or len(self.words) <= len(SPECIAL_TOKENS):
            msg = f"a vocabulary begins with {' '.join(SPECIAL_TOKENS)} and goes on with words"
            raise VocabularyError(msg)
        if any(not word or "\n" in word for word in self.words):
            msg = "a word is empty or has a line break in it"
            raise VocabularyError(msg)
        frequencies = np.array(self.log_frequencies, np.float32)
        if frequencies.shape != (len(self.words),) or not np.isfinite(frequencies).all():
            msg = (
                f"{len(self.words)} words need as many finite log-frequencies, got shape {frequencies.shape}"
            )
            raise VocabularyError(msg)
        frequencies.flags.writeable = False
        ids = {word: i for i, word in enumerate(self.words)}
        if len(ids) != len(self.words):
            msg = f"{len(self.words) - len(ids)} words appear twice"
            raise VocabularyError(msg)
        for i, word in enumerate(self.words):
            for substitute in _substitutes(word):
                ids.setdefault(substitute, i)
        object.__setattr__(self, "log_frequencies", frequencies)
        object.__setattr__(self, "digest", hashlib.sha256("\n".join(self.words).encode()).hexdigest())
        is_displayable = np.array(list(map(has_letter, self.words)))
        is_displayable[: len(SPECIAL_TOKENS)] = False
        is_displayable.flags.writeable = False
        object.__setattr__(self, "is_displayable", is_displayable)
        object.__setattr__(self, "_ids", ids)

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Return the ids of tokens; OOV for a token that is no word of the vocabulary or a special token.

        A token that is no word takes the id of the word that it stands for: "isparta", which is what ISPARTA
        becomes, that of "ısparta".
        """
        specials = len(SPECIAL_TOKENS)
        return [i if (i := self._ids.get(token, OOV)) >= specials else OOV for token in tokens]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the words of ids."""
        return [self.words[i] for i in ids]

    def to_tensors(self) -> dict[str, np.ndarray]:
        """Return the two tensors for a checkpoint: the words as UTF-8 lines, and their log-frequencies."""
        words = np.frombuffer("\n".join(self.words).encode(), np.uint8)
        return {"vocabulary.words": words, "vocabulary.log_frequencies": self.log_frequencies}

    @classmethod
    def from_tensors(cls, tensors: "dict[str, np.ndarray]") -> "Vocabulary":
        """Restore what `to_tensors` returned.

        Raises:
            VocabularyError: a tensor is missing, of another type, not UTF-8, or the words are no vocabulary.
        """
        words, frequencies = (tensors.get(f"vocabulary.{name}") for name in ("words", "log_frequencies"))
        if words is None or words.dtype != np.uint8 or frequencies is None or frequencies.dtype != np.float32:
            msg = "the tensors vocabulary.words (uint8) and vocabulary.log_frequencies (float32) are needed"
            raise VocabularyError(msg)
        try:
            text = words.tobytes().decode()
        except UnicodeDecodeError as error:
            msg = f"the words are not UTF-8: {error.reason} at byte {error.start}"
            raise VocabularyError(msg) from error
        return cls(tuple(text.split("\n")), frequencies)

    def to_bytes(self) -> bytes:
        """Return the vocabulary as a safetensors document."""
        return bytes(save(self.to_tensors()))

    @classmethod
    def from_bytes(cls, document: bytes) -> "Vocabulary":
        """Restore what `to_bytes` returned.

        Raises:
            VocabularyError: the bytes are no vocabulary; the message says why.
        """
        try:
            tensors = load(document)
        except (SafetensorError, KeyError, ValueError) as error:
            msg = f"not a safetensors document: {error}"
            raise VocabularyError(msg) from error
        return cls.from_tensors(tensors)


def build_vocabulary(
    words: Sequence[str], probabilities: Sequence[float], *, oov: float, eos: float
) -> Vocabulary:
    """Build the vocabulary of these words with their probabilities; the special tokens are put in front.

    Args:
        words: Ordinary words, most frequent first.
        probabilities: Probability of each word among all words; their sum is at most 1.
        oov: Probability that a word is none of these.
        eos: Probability that a target is the end of the message.
    Guarantees:
        The probabilities behind `log_frequencies` add up to 1 (PAD and BOS, which are no targets, get 1e-9
        each).
    """
    inside = np.asarray(probabilities, np.float64)
    shares = np.concatenate(
        [[1e-9, 1e-9, eos, (1 - eos) * oov], inside * ((1 - eos) * (1 - oov) / inside.sum())]
    )
    return Vocabulary((*SPECIAL_TOKENS, *words), np.log(shares / shares.sum()).astype(np.float32))


def _substitutes(word: str) -> set[str]:
    """Return the other spellings by which the word is recognised."""
    if word.isascii():
        return set()
    # A capital may also begin the word alone.
    return {word.translate(_SUBSTITUTES), word[0].translate(_SUBSTITUTES) + word[1:]}
