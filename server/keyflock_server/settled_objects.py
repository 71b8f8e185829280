"""What is there once a server is ready stays until it ends: the garbage collector need not look at it again.

Modules, compiled programs and tables are some 160,000 objects; a full collection walks through all of them,
0.1 s in which nobody is answered. Frozen, they are left out, and a full collection looks at what phones and
rounds have made since.

Source: the manual of ``gc.freeze``.
"""

import gc


def leave_settled_objects_alone() -> None:
    """Collect once, and take everything that is left for permanent. For a process that serves from now on."""
    gc.collect()
    gc.freeze()
