"""Vectors of the model's size come from the system and go back to it, each on its own.

Decoding, summing and stepping make such vectors and drop them again, on several threads. Left to itself,
glibc maps the first of them, takes its end for a sign that as much will be wanted again, and has the next
ones lie in heaps, between small things that live longer. What is free there fits less and less: with the
full-size network a server held 575 MB where it used 370, and in a day that crept up. Mapping each costs
0.1 ms of CPU for 5.7 MB.
"""

import ctypes
import sys
from typing import Final

#: glibc's number for ``M_MMAP_THRESHOLD``. Setting it also ends its adjusting by itself.
_M_MMAP_THRESHOLD: Final = -3
#: Above everything that is made for a single small call, and below any vector of a model that is used.
THRESHOLD_BYTES: Final = 1 << 20


def keep_large_blocks_apart() -> bool:
    """From now on, in this whole process; False where the C library knows no such thing.

    Whoever owns the process decides that: a program, never a library.

    Source:
        mallopt(3), section on M_MMAP_THRESHOLD.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_THRESHOLD, THRESHOLD_BYTES))
