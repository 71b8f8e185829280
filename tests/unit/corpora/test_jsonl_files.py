"""A file of users is read whole, or refused with the line that is wrong and nothing of what stands in it."""

import gzip
from pathlib import Path

import pytest

from keyflock_client_sim.corpora.jsonl import read_jsonl
from keyflock_client_sim.corpora.sources import read_corpus
from keyflock_client_sim.corpora.text import CorpusError, UserText

GOOD = '{"user": "ann", "messages": ["hello there", "bye"]}\n\n{"user": "bo", "messages": [], "age": 3}\n'


def test_a_plain_file_is_read_in_order_and_blank_lines_and_unknown_fields_are_passed_over(
    tmp_path: Path,
) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text(GOOD, encoding="utf-8")

    users = read_jsonl(path)

    assert users == (UserText("ann", ("hello there", "bye")), UserText("bo", ()))


@pytest.mark.fault("F7")
def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text(GOOD, encoding="utf-8-sig")
    (tmp_path / "packed").write_bytes(gzip.compress(GOOD.encode("utf-8-sig")))

    assert [user.user for user in read_jsonl(tmp_path / "plain")] == ["ann", "bo"]
    assert [user.user for user in read_jsonl(tmp_path / "packed")] == ["ann", "bo"]


def test_a_gzip_file_is_recognised_by_its_bytes_and_not_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "chat.txt"
    path.write_bytes(gzip.compress(GOOD.encode()))

    corpus = read_corpus(path)

    assert corpus.name == "chat.txt"
    assert corpus.words == 3


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            b'{"user": "secret-word", "messages": [1]}',
            r"Expected `str`, got `int` - at `\$\.messages\[\d*\.*\]`",
        ),
        (b'{"user": "secret-word"}', "missing required field `messages`"),
        (b'{"user": "", "messages": ["secret-word"]}', r"length >= 1 - at `\$\.user`"),
        (b'["secret-word"]', "Expected `object`, got `array`"),
        (b'{"user": "secret-word", "messages": ["un', "JSON is malformed"),
        (b'{"user": "b", "messages": ["secret-word \xff"]}', "not UTF-8"),
        (b'{"user": "ann", "messages": ["secret-word"]}', "a user of this name came before"),
    ],
)
def test_a_bad_line_is_named_by_file_number_and_reason_and_not_quoted(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_bytes(GOOD.encode() + line + b"\n")

    with pytest.raises(CorpusError, match=reason) as refused:
        read_jsonl(path)

    assert str(refused.value).startswith(f"{path}:4: ")
    assert "secret-word" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_broken_gzip_file_a_missing_one_and_an_empty_one_are_one_line_each(tmp_path: Path) -> None:
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(GOOD.encode())[:-20])
    empty = tmp_path / "empty.jsonl"
    empty.touch()

    with pytest.raises(CorpusError, match="not a whole gzip file"):
        read_jsonl(cut)
    with pytest.raises(CorpusError, match="No such file"):
        read_jsonl(tmp_path / "missing.jsonl")
    with pytest.raises(CorpusError, match="no users in it"):
        read_jsonl(empty)
