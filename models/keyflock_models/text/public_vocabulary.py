"""The vocabulary from a public word list, so that no phone's words are ever collected to build one."""

from keyflock_models.text.special_tokens import SPECIAL_TOKENS
from keyflock_models.text.vocabulary import Vocabulary, VocabularyError, build_vocabulary
from keyflock_models.text.word_list import WordList

#: Share of the targets that end a message; a message has nine words and its end.
_EOS_SHARE = 0.1
#: How many entries of the list are read. Larger vocabularies read more; up to here, a smaller vocabulary is
#: the beginning of a larger one.
_MIN_ENTRIES = 30_000


def public_vocabulary(language: str = "en", size: int = 10_000) -> Vocabulary:
    """Return the most frequent words of a language, exactly `size` entries with the special tokens.

    Words with the same frequency are in their own order.

    Args:
        language: A tag of `languages.SUPPORTED`, with a region or without.
        size: The number of entries.
    Guarantees:
        Every word is what the tokenizer makes of it. The same release of wordfreq gives the same list in the
        same order.
    Raises:
        VocabularyError: the language is not supported, or has too few words.
    """
    wanted = size - len(SPECIAL_TOKENS)
    frequencies = WordList(language, max(_MIN_ENTRIES, 2 * size)).frequencies
    words = sorted(frequencies, key=lambda word: (-frequencies[word], word))[: max(wanted, 0)]
    if not words or len(words) < wanted:
        offered = len(frequencies) + len(SPECIAL_TOKENS)
        msg = (
            f"a vocabulary of {size} entries was asked for; "
            f"{language!r} has between {len(SPECIAL_TOKENS) + 1} and {offered} to offer"
        )
        raise VocabularyError(msg)
    probabilities = [frequencies[word] for word in words]
    return build_vocabulary(words, probabilities, oov=max(1e-4, 1 - sum(probabilities)), eos=_EOS_SHARE)
