"""Words that are never suggested, from the operator's file of blocked words."""

from pathlib import Path

from keyflock_models.serving.vocabulary_index import MayShow
from keyflock_models.text.tokenizer import folded
from keyflock_server.settings import SettingsError


def may_show_from(path: Path | None) -> MayShow:
    """Return a predicate for words that may be shown, from a file with one blocked word a line, in any case.

    Raises:
        SettingsError: the file cannot be read.
    """
    if path is None:
        return lambda _word: True
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--blocked-words: {path} cannot be read: {error}.") from None
    # Other spellings of the same characters (a curly apostrophe, a separate accent) are the same word.
    blocked = frozenset(folded(line.strip()).casefold() for line in lines if line.strip())
    return lambda word: word.casefold() not in blocked
