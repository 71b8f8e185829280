"""Golden vectors on the disk: bytes with their meaning; an existing file is never overwritten."""

import tomllib
from pathlib import Path


def write_vector(folder: Path, name: str, data: bytes, meaning: str) -> None:
    """Write the pair, each file only where there is none yet.

    Args:
        folder: Made if it is not there.
        name: Of both files, without their endings.
        data: The bytes.
        meaning: TOML.
    """
    tomllib.loads(meaning)
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in ((folder / f"{name}.bin", data), (folder / f"{name}.toml", meaning.encode())):
        if not path.exists():
            path.write_bytes(content)


def write_malformed(folder: Path, name: str, data: bytes, code: str, what: str) -> None:
    """Write bytes that are refused: with which code, and what is wrong with them."""
    write_vector(folder, f"malformed_{name}", data, f'error = "{code}"\nwhat = "{what}"\n')
