"""Writes the golden vectors of stored bytes that are missing; never touches one that is there.

python -m tests.wire.stored.write_stored_vectors
"""

from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import load, save
from tests.wire.compression.vector_files import write_vector

from keyflock_compression import encode_state
from keyflock_models.arrays import F32
from keyflock_models.personal.head import PersonalHead
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_models.text.vocabulary import Vocabulary, build_vocabulary
from keyflock_server.aggregation.server_step import server_step
from keyflock_server.personal_models.encryption import encrypt
from keyflock_server.personal_models.key_ring import EncryptionKey
from keyflock_server.rounds.task import OPTIMIZER_DEFAULTS

VECTORS: Final = Path(__file__).resolve().parents[1] / "vectors" / "stored"
KEY: Final = EncryptionKey.of(bytes(range(32)))
#: The population and the owner, as the server binds them to a model.
ASSOCIATED_DATA: Final = "en-US\n" + "0123456789abcdef" * 2
WIDTH: Final = 6
WEIGHTS: Final = np.array([1.0, -2.0, 0.5], np.float32)
DELTA: Final = np.array([0.5, -0.001, 0.0], np.float32)


def vocabulary() -> Vocabulary:
    """Eight words; ids 4 to 11."""
    words = ["the", "to", "that", "tea", "team", "ten", "a", "zoo"]
    shares = np.array([8, 7, 6, 5, 4, 3, 2, 1]) / 40
    return build_vocabulary(words, list(shares), oov=0.1, eos=0.1)


def trunk_says(words: Vocabulary, rows: int) -> F32:
    """The public frequencies, whatever the context."""
    shares = np.exp(words.log_frequencies)
    return np.repeat((shares / shares.sum())[None], rows, axis=0).astype(np.float32)


def _personal_model() -> PersonalModel:
    model = PersonalModel.new(vocabulary())
    for _ in range(40):
        ids = model.encode("zoo xylo a zoo")
        model.learn("zoo xylo a zoo", model.judge(ids, trunk_says(model.vocabulary, len(ids))))
    flat = np.arange(2 * WIDTH, dtype=np.float32).reshape(WIDTH, 2) / np.float32(16)
    model.head = PersonalHead(
        "ab" * 16, flat, flat.T, np.array([5, 11], np.int32), np.array([1.0, -0.5], np.float32)
    )
    return model


def main() -> None:
    """Write what is missing."""
    for name in ("fedavgm", "fedadam", "fedadagrad"):
        state = server_step(WEIGHTS, None, DELTA, name, OPTIMIZER_DEFAULTS[name]).state
        meaning = f'optimizer = "{name}"\nsteps = 1\n'
        write_vector(VECTORS, f"optimizer_{name}", state, meaning)
        # Releases before schedules wrote the leaves alone.
        leaves = {key: leaf for key, leaf in load(state).items() if key.isdigit()}
        write_vector(VECTORS, f"optimizer_{name}_without_steps", save(leaves), meaning)
    sealed = encrypt(KEY, ASSOCIATED_DATA, encode_state(_personal_model().to_state()))
    write_vector(VECTORS, "personal_model", sealed, f'key_id = "{KEY.id}"\n')


if __name__ == "__main__":
    main()
