"""What is there at the start is no work for the collector later."""

import gc

from keyflock_server.settled_objects import leave_settled_objects_alone


class Ring:
    def __init__(self) -> None:
        self.myself = self


def test_a_full_collection_looks_at_what_came_later_alone() -> None:
    before = len(gc.get_objects())
    try:
        leave_settled_objects_alone()
        Ring()

        assert gc.get_freeze_count() > before / 2
        assert len(gc.get_objects()) < before / 2
        assert gc.collect() >= 1
    finally:
        gc.unfreeze()
