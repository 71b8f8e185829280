"""Secrets that are planted in requests, and the search for them in whatever form they may come out again.

All secrets of a run share a mark, drawn anew for each run, and go on with a number; so one search finds each.
"""

import base64
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

_LETTERS: Final = "bcdfghjkmnpqrstvwxz"
#: Bytes that a text form must escape; ``repr``, JSON and percent-encoding each do it in their own way.
_AWKWARD: Final = b"\xff'\"\\\n"


class Planted:
    """The secrets of one run.

    Args:
        rng: Draws the mark.
    """

    def __init__(self, rng: random.Random) -> None:
        self.mark = "".join(rng.choice(_LETTERS) for _ in range(12))
        self._search = re.compile(b"|".join(re.escape(form) for form in self.forms()), re.IGNORECASE)

    def secret(self, number: int) -> str:
        """The secret of one request: what a token, a word or an id may look like."""
        return f"{self.mark}{number:032x}"

    def forms(self) -> set[bytes]:
        """What the mark may look like when it comes out: as it is, and in each encoding that is in use."""
        plain = self.mark.encode()
        forms = {
            plain,
            plain.hex().encode(),
            "".join(f"%{byte:02x}" for byte in plain).encode(),
            "".join(f"\\x{byte:02x}" for byte in plain).encode(),
            "".join(f"\\u{byte:04x}" for byte in plain).encode(),
            "".join(f"&#{byte};" for byte in plain).encode(),
            ", ".join(str(byte) for byte in plain).encode(),
            self.mark.encode("utf-16-le"),
            self.mark.encode("utf-16-be"),
            quote(self.mark).encode(),
        }
        # Wherever in a longer text the mark stands, two of three bytes begin in the middle of a group.
        for shift in range(3):
            encoded = base64.b64encode(bytes(shift) + plain)
            forms.add(encoded[4 if shift else 0 : len(encoded) - 4])
        return {form for form in forms if len(form) >= 8}

    def found_in(self, data: bytes) -> list[str]:
        """What of the secrets is in the data, with a few characters around it."""
        return [
            repr(data[max(0, match.start() - 40) : match.end() + 40]) for match in self._search.finditer(data)
        ]

    def found_under(self, folder: Path) -> Iterator[str]:
        """What of the secrets is in the files of a folder, and in which."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                for found in self.found_in(path.read_bytes()):
                    yield f"{path.relative_to(folder)}: {found}"
