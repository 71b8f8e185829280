"""The vocabulary from a public word list, so that no phone's words are ever collected to build one.

This is the only module that reads wordfreq's package data.
"""

import wordfreq

from keyflock_models.text.special_tokens import SPECIAL_TOKENS
from keyflock_models.text.tokenizer import tokenize
from keyflock_models.text.vocabulary import Vocabulary, VocabularyError, build_vocabulary

#: Share of the targets that end a message; a message has nine words and its end.
_EOS_SHARE = 0.1


def public_vocabulary(language: str = "en", size: int = 10_000) -> Vocabulary:
    """Return the most frequent words of a language, exactly `size` entries with the special tokens.

    Only words that the tokenizer gives back unchanged are taken (the list also holds symbols and "u.s",
    which no text would ever be encoded to). Ties in frequency are put in the words' own order.

    Guarantees:
        The same release of wordfreq gives the same list in the same order.
    Raises:
        VocabularyError: wordfreq has no such language, or too few words of it.
    Source:
        Speer 2022, wordfreq 3, doi:10.5281/zenodo.7199437.
    """
    wanted = size - len(SPECIAL_TOKENS)
    try:
        # Half as many again, so that neither a dropped word nor a tie at the end changes which are taken.
        listed = wordfreq.top_n_list(language, size + size // 2 + 100)
    except LookupError as error:
        msg = f"wordfreq has no word list for the language {language!r}"
        raise VocabularyError(msg) from error
    frequency = {word: wordfreq.word_frequency(word, language) for word in listed if tokenize(word) == [word]}
    words = sorted(frequency, key=lambda word: (-frequency[word], word))[:wanted]
    if wanted < 1 or len(words) < wanted:
        msg = f"a vocabulary of {size} entries was asked for; {language!r} has {len(words)} words to offer"
        raise VocabularyError(msg)
    probabilities = [frequency[word] for word in words]
    return build_vocabulary(words, probabilities, oov=max(1e-4, 1 - sum(probabilities)), eos=_EOS_SHARE)
