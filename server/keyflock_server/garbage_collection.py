"""Keeps Python's cycle collector away from what lasts as long as the process: modules, and what they define.

The collector looks at objects again and again while imports create them: a fifth of the time that they take.
And each of its full passes stops all threads while it looks at every object that there is: the modules of a
server with JAX are 200,000, which takes tens of milliseconds or more.
"""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def lasting_objects() -> Iterator[None]:
    """Pause the collector; it never looks at what there is at the end of a block that succeeds.

    Only a program may call this, never a library, because it changes the whole process. What a block that
    failed has left is garbage.

    Source:
        https://docs.python.org/3/library/gc.html#gc.freeze
    """
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
