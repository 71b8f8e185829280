"""What phones know of a report, from its first byte to its receipt."""

from keyflock_load_tests.receipts import Receipts


def test_a_second_receipt_that_does_not_say_duplicate_is_remembered_as_a_double_count() -> None:
    receipts = Receipts()

    receipts.ack("a", is_duplicate=False)
    receipts.ack("a", is_duplicate=True)
    receipts.ack("b", is_duplicate=True)
    assert receipts.acked_twice == set()
    receipts.ack("a", is_duplicate=False)

    assert receipts == Receipts(acked={"a", "b"}, acked_twice={"a"})


def test_a_report_is_unsettled_from_its_sending_to_its_receipt_or_refusal() -> None:
    receipts = Receipts()

    for assignment in ("a", "b", "c"):
        receipts.send(assignment)
    receipts.ack("a", is_duplicate=False)
    receipts.refuse("b")
    receipts.send("a")  # a report that is known to be counted stays so, however often it is sent

    assert receipts == Receipts(acked={"a"}, unsettled={"c"})


def test_what_several_phones_know_adds_up() -> None:
    receipts = Receipts(acked={"a"}, unsettled={"b"})

    receipts.add(Receipts(acked={"c"}, unsettled={"d"}, acked_twice={"c"}))

    assert receipts == Receipts(acked={"a", "c"}, unsettled={"b", "d"}, acked_twice={"c"})
