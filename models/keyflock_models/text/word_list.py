"""The public word list of a language, in the words of the tokenizer.

This is the only module that reads wordfreq's package data. The list counts words in a spelling of its own:
it folds ß to ss and the last sigma to any other, cuts words at short clitics, counts symbols and hides
numbers. Here each entry is spelt as it is written, and then given to the tokenizer: what comes out is what a
text is encoded with.

Source:
    Speer 2022, wordfreq 3, doi:10.5281/zenodo.7199437.
"""

import tomllib
import unicodedata
from collections import defaultdict
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import Final

import wordfreq

from keyflock_models.text.languages import supported_language
from keyflock_models.text.tokenizer import MASKED, NUMBER, tokenize

_DATA: Final = files("keyflock_models.text")
#: In Switzerland and Liechtenstein the letter ß is not used.
_WITHOUT_SHARP_S: Final = ("CH", "LI")
#: The list writes every run of digits as zeros: "00th" stands for all from "10th" on, and no text says it.
_HIDDEN_DIGITS: Final = "00"
_VOWELS: Final = frozenset("aeiouyœæ")
#: Part of a word's count that stays its own, however often clitics seem to stand before it.
_MIN_ALONE: Final = 0.1


class WordList:
    """How often each word of the tokenizer stands in the most frequent entries of a language's public list.

    Args:
        tag: The language, with a region or without.
        max_entries: How many of the list's entries are read, most frequent first; None: all.

    Attributes:
        frequencies: The share of each word among everything that the list counts, without the numbers.
        whole_ratio: The share of them whose entry the tokenizer gives back as one word.

    Raises:
        VocabularyError: the language is not supported.
    """

    def __init__(self, tag: str, max_entries: int | None = None) -> None:
        language, *region = supported_language(tag).split("-")
        listed = wordfreq.get_frequency_dict(language, "best")
        counts: dict[str, float] = defaultdict(float)
        whole = 0.0
        is_german = language == "de" and not set(region) & set(_WITHOUT_SHARP_S)
        for entry, frequency in islice(listed.items(), max_entries):
            if _HIDDEN_DIGITS in entry:
                continue
            for spelling, share in _german_spellings(entry) if is_german else ((entry, 1.0),):
                words = [word for word in tokenize(spelling) if word not in {MASKED, NUMBER}]
                for word in words:
                    counts[word] += frequency * share
                whole += frequency * share if len(words) == 1 else 0.0
        self.whole_ratio: float = whole / sum(counts.values())
        self.frequencies: dict[str, float] = _with_contractions(counts, _clitics().get(language, {}))


@cache
def _clitics() -> dict[str, dict[str, object]]:
    return tomllib.loads((_DATA / "clitics.toml").read_text(encoding="utf-8"))


@cache
def _sharp_s() -> dict[str, tuple[str, float]]:
    """Return the spelling with ß of words that the list has with ss, with its share of the count."""
    lines = (_DATA / "german_sharp_s.txt").read_text(encoding="utf-8").splitlines()
    entries = [line.split() for line in lines if not line.startswith("#")]
    return {word.replace("ß", "ss"): (word, float(share[0]) if share else 1.0) for word, *share in entries}


def _german_spellings(entry: str) -> tuple[tuple[str, float], ...]:
    if "ss" not in entry or entry not in _sharp_s():
        return ((entry, 1.0),)
    word, share = _sharp_s()[entry]
    return ((word, share), (entry, 1.0 - share)) if share < 1.0 else ((word, 1.0),)


def _with_contractions(counts: dict[str, float], clitics: dict[str, object]) -> dict[str, float]:
    """Return the counts with clitics and the words after them put together, as shares of all words.

    The list does not say which words follow a clitic. Its count is shared out over those that may, in
    proportion to their own counts, and taken from them.
    """
    muted = set(str(clitics.get("mute_h", "")).split())
    contractions: dict[str, float] = {}
    attached: dict[str, float] = defaultdict(float)
    for clitic, rule in clitics.items():
        if not isinstance(rule, dict) or clitic not in counts:
            continue
        if "before" in rule:
            hosts = [word for word in rule["before"].split() if word in counts]
        else:
            excepted, also = set(rule["except"].split()), set(rule.get("also", "").split())
            ends = tuple(rule.get("not_ending", "").split())
            hosts = [
                word
                for word in counts
                if _may_elide(word, muted)
                and word not in excepted
                and (word in also or not word.endswith(ends))
            ]
        count = counts[clitic] * rule.get("share", 1.0)
        total = sum(counts[host] for host in hosts)
        counts[clitic] -= count
        for host in hosts:
            contractions[f"{clitic}'{host}"] = part = count * counts[host] / total
            attached[host] += part
    for host, part in attached.items():
        counts[host] = max(counts[host] - part, _MIN_ALONE * counts[host])
    for word, part in contractions.items():
        counts[word] = counts.get(word, 0.0) + part
    # What were two words are one now, so all are a larger share of fewer words.
    words = 1.0 - sum(contractions.values())
    return {word: count / words for word, count in counts.items() if count > 0.0}


def _may_elide(word: str, mute_h: set[str]) -> bool:
    first = unicodedata.normalize("NFD", word)[0]
    return word in mute_h or (first in _VOWELS and len(word) > 1 and "'" not in word)
