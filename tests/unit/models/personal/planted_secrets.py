"""A generator of secrets of twelve kinds, as people write them; none of them is anybody's."""

import base64
import json
import random
import string
import uuid
from collections.abc import Callable, Iterator
from typing import Final

WORDS: Final = (
    "hunter",
    "summer",
    "dragon",
    "monkey",
    "pass",
    "secret",
    "winter",
    "tiger",
    "office",
    "family",
)
NAMES: Final = ("ann", "bob.smith", "j_doe", "maria-luz", "info", "oli.o'neil", "x.y")
HOSTS: Final = ("example.com", "mail.example.co.uk", "xn--bcher-kva.example.org", "sub.test.net", "kvpqr.io")
CARRIERS: Final = (
    "{}",
    "my code is {}",
    "it is '{}' ok",
    "use {}, thanks",
    "({})",
    'the "{}" one',
    "\u201c{}\u201d !",
)

UPPER: Final = string.ascii_uppercase + string.digits
ANY: Final = string.ascii_letters + string.digits


def _string(rng: random.Random, letters: str, size: int) -> str:
    """Random characters with a digit and a letter among them at least."""
    while True:
        found = "".join(rng.choices(letters, k=size))
        if any(map(str.isdigit, found)) and any(map(str.isalpha, found)):
            return found


def _in_groups(text: str, size: int, separator: str) -> str:
    return separator.join(text[at : at + size] for at in range(0, len(text), size))


def iban(rng: random.Random) -> str:
    """A bank account, with and without blanks and dashes, some with the bank's letters."""
    country = rng.choice(("DE", "FR", "GB", "NL", "ES", "MT", "LC"))
    bank = rng.choice(("", "".join(rng.choices(string.ascii_uppercase, k=4))))
    text = country + "".join(rng.choices(string.digits, k=2)) + bank
    text += "".join(rng.choices(string.digits, k=rng.randint(12, 18)))
    text = rng.choice((text, _in_groups(text, 4, " "), _in_groups(text, 4, "-")))
    return rng.choice((text, text, text.lower()))


def card(rng: random.Random) -> str:
    """A payment card."""
    text = "".join(rng.choices(string.digits, k=rng.choice((13, 15, 16, 19))))
    return rng.choice((text, _in_groups(text, 4, " "), _in_groups(text, 4, "-"), _in_groups(text, 4, ".")))


def api_key(rng: random.Random) -> str:
    """A key of a service, with the service's prefix."""
    prefix, letters, size = rng.choice(
        (
            ("sk_live_", ANY, 24),
            ("pk-test-", ANY, 32),
            ("ghp_", ANY, 36),
            ("AKIA", string.ascii_uppercase + "234567", 16),
            ("AIza", ANY + "-_", 35),
            ("xoxb-", ANY, 24),
            ("SG.", ANY, 22),
        )
    )
    return prefix + _string(rng, letters, size)


def base64_text(rng: random.Random) -> str:
    """Random bytes in base64 of either alphabet."""
    data = rng.randbytes(rng.randint(12, 48))
    return rng.choice((base64.b64encode, base64.urlsafe_b64encode))(data).decode()


def hexadecimal(rng: random.Random) -> str:
    """Random bytes as hexadecimal digits, or a UUID."""
    data = rng.randbytes(rng.choice((8, 16, 20, 32))).hex()
    text = rng.choice((data, str(uuid.UUID(int=rng.getrandbits(128), version=4)), _in_groups(data, 2, ":")))
    return rng.choice((text, text.upper()))


def json_web_token(rng: random.Random) -> str:
    """A signed token."""
    parts = [json.dumps({"alg": "HS256"}).encode(), json.dumps({"sub": rng.getrandbits(40)}).encode()]
    encoded = [base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (*parts, rng.randbytes(32))]
    return ".".join(encoded)


def password(rng: random.Random) -> str:
    """Words with figures between and behind them, or random characters."""
    one, other = (rng.choice(WORDS).capitalize() for _ in range(2))
    figures = "".join(rng.choices(string.digits, k=rng.randint(2, 4)))
    return rng.choice(
        (
            f"{one}{rng.randint(1, 9)}{other}{figures}",
            f"{one}{other}{figures}{rng.randint(100, 999)}",
            f"{one}{rng.randint(1, 9)}{rng.choice('!@#$%&*-_.')}{other}{figures}",
            f"{one}{rng.randint(1000, 9999)}!",
            _string(rng, ANY, rng.randint(10, 16)),
            _string(rng, ANY + "!@#$%^&*", 14),
        )
    )


def e_mail(rng: random.Random) -> str:
    """An e-mail address."""
    return f"{rng.choice(NAMES)}{rng.choice(('', str(rng.randint(1, 99)), '+news'))}@{rng.choice(HOSTS)}"


def url(rng: random.Random) -> str:
    """An address on the web, with and without its scheme."""
    path = rng.choice(("", "/", f"/login?u={_string(rng, ANY, 8)}", "/reset/ann#top", ":8080/a/b"))
    scheme = rng.choice(("https://", "http://", "ftp://", "myapp://", "www.", ""))
    return scheme + rng.choice(HOSTS) + path


def phone(rng: random.Random) -> str:
    """A telephone number."""
    figures = "".join(rng.choices(string.digits, k=9))
    return rng.choice(
        (
            f"+49 {figures[:3]} {figures[3:]}",
            f"+1 ({figures[:3]}) {figures[3:6]}-{figures[5:]}",
            f"0{figures}",
            f"0{figures[:3]}/{figures[3:]}",
            f"+1.{figures[:3]}.{figures[3:6]}.{figures[5:]}x{figures[:3]}",
            f"tel:+65-{figures[:4]}-{figures[4:]}",
        )
    )


def licence_key(rng: random.Random) -> str:
    """Groups of capitals and figures."""
    groups, size = rng.choice(((5, 5), (4, 4), (4, 5), (3, 6), (4, 6)))
    return _in_groups(_string(rng, UPPER, groups * size), size, rng.choice(("-", "-", " ")))


def one_time_code(rng: random.Random) -> str:
    """A code of six to eight figures, or of capitals and figures."""
    figures = "".join(rng.choices(string.digits, k=rng.choice((4, 6, 6, 8))))
    code = _string(rng, UPPER, rng.choice((6, 7, 8)))
    return rng.choice(
        (figures, f"{figures[:3]} {figures[3:]}", f"G-{figures}", f"'{figures}'", f"{figures}'", code, code)
    )


KINDS: Final[dict[str, Callable[[random.Random], str]]] = {
    one.__name__: one
    for one in (
        iban,
        card,
        api_key,
        base64_text,
        hexadecimal,
        json_web_token,
        password,
        e_mail,
        url,
        phone,
        licence_key,
        one_time_code,
    )
}


def planted_secrets(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yield so many messages with a secret in each, and its kind; every kind in turn."""
    rng = random.Random(seed)
    for at in range(count):
        kind = list(KINDS)[at % len(KINDS)]
        yield kind, rng.choice(CARRIERS).format(KINDS[kind](rng))
