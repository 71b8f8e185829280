"""Words that are never shown: a file of the operator's, or a rule of whoever embeds the server."""

from pathlib import Path

from keyflock_models.serving.vocabulary_index import MayShow
from keyflock_models.tokenizer import folded
from keyflock_server.settings import SettingsError


def may_show_from(path: Path | None) -> MayShow:
    """Whether a word may be shown, from a file with one blocked word a line; case does not count.

    Raises:
        SettingsError: the file cannot be read.
    """
    if path is None:
        return lambda _word: True
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--blocked-words: {path} cannot be read: {error}.") from None
    # Written in another hand (a curly apostrophe, a letter and its accent apart) it is the same word.
    blocked = frozenset(folded(line.strip()).casefold() for line in lines if line.strip())
    return lambda word: word.casefold() not in blocked
