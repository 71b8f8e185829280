"""``make vocabulary``: the table of docs/vocabulary.md, measured over each language's whole public list.

``test_vocabulary_page`` compares the languages and a sample of the rows with the page.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from keyflock_models.text.languages import SUPPORTED
from keyflock_models.text.public_vocabulary import public_vocabulary
from keyflock_models.text.special_tokens import OOV
from keyflock_models.text.tokenizer import tokenize
from keyflock_models.text.word_list import WordList

PAGE: Final = Path(__file__).parents[2] / "docs" / "vocabulary.md"
SIZE: Final = 10_000
#: The law of a supported language: the maximum share of its list's words that are not in its vocabulary, ...
MAX_OOV_RATIO: Final = 0.25
#: ... and the minimum share of the list's words that the tokenizer gives back as one word.
MIN_WHOLE_RATIO: Final = 0.985

_BEGIN: Final = "<!-- written by `make vocabulary` -->\n"
_END: Final = "<!-- end of what `make vocabulary` writes -->\n"
_HEAD: Final = (
    "| language | words in the list | kept as one word | OOV at 10,000 | round trip | displayable words |\n"
    "|---|---|---|---|---|---|\n"
)


@dataclass(frozen=True, slots=True)
class LanguageRow:
    """What was measured of one language."""

    language: str
    listed: int
    whole_ratio: float
    oov_ratio: float
    #: The share of the vocabulary's words that the tokenizer gives back unchanged.
    round_trip_ratio: float
    displayable: int

    @classmethod
    def measure(cls, language: str) -> Self:
        """Measure a language over its whole list."""
        whole, vocabulary = WordList(language), public_vocabulary(language, SIZE)
        total = sum(whole.frequencies.values())
        ids = vocabulary.encode(whole.frequencies)
        unknown = sum(share for share, one in zip(whole.frequencies.values(), ids, strict=True) if one == OOV)
        words = vocabulary.words[4:]
        unchanged = sum(tokenize(word) == [word] for word in words)
        return cls(
            language,
            len(whole.frequencies),
            whole.whole_ratio,
            unknown / total,
            unchanged / len(words),
            int(vocabulary.is_displayable.sum()),
        )

    @property
    def is_lawful(self) -> bool:
        """Return whether the language may be supported."""
        is_reachable = self.round_trip_ratio == 1.0 and self.whole_ratio >= MIN_WHOLE_RATIO
        return is_reachable and self.oov_ratio <= MAX_OOV_RATIO

    def __str__(self) -> str:
        """Return the row of the table."""
        return (
            f"| {self.language} | {self.listed:,} | {self.whole_ratio:.2%} | {self.oov_ratio:.1%} "
            f"| {self.round_trip_ratio:.0%} | {self.displayable:,} |"
        )


def rows_of_page() -> dict[str, str]:
    """Return the page's rows by language."""
    table = PAGE.read_text(encoding="utf-8").split(_BEGIN)[1].split(_END)[0]
    return {line.split("|")[1].strip(): line for line in table.removeprefix(_HEAD).splitlines()}


def main() -> int:
    """Measure every language and write the table; fail where one breaks the law."""
    rows = []
    for language in SUPPORTED:
        rows.append(LanguageRow.measure(language))
        sys.stdout.write(f"{rows[-1]}\n")
        sys.stdout.flush()
    before, rest = PAGE.read_text(encoding="utf-8").split(_BEGIN)
    after = rest.split(_END)[1]
    PAGE.write_text(before + _BEGIN + _HEAD + "".join(f"{row}\n" for row in rows) + _END + after, "utf-8")
    unlawful = [row.language for row in rows if not row.is_lawful]
    if unlawful:
        sys.stdout.write(f"not to be supported: {', '.join(unlawful)}\n")
    return 1 if unlawful else 0


if __name__ == "__main__":
    sys.exit(main())
