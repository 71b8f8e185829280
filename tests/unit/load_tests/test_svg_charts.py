import pytest

from keyflock_load_tests.svg_charts import Axis, Chart, Series, short_number, y_axis


def test_labels_are_round_numbers_within_the_axis() -> None:
    assert Axis("s", 0.0, 60.0).labelled() == (
        *((0.0, "0"), (20.0, "20")),
        *((40.0, "40"), (60.0, "60")),
    )
    assert Axis("ms", 0.1, 100.0, is_log=True).labelled() == (
        *((0.1, "0.1"), (1.0, "1")),
        *((10.0, "10"), (100.0, "100")),
    )


@pytest.mark.parametrize(("value", "position"), [(1.0, 0.0), (10.0, 0.5), (100.0, 1.0), (1_000.0, 1.0)])
def test_equal_ratios_are_equally_long_on_a_logarithmic_axis(value: float, position: float) -> None:
    assert Axis("ms", 1.0, 100.0, is_log=True).position(value) == pytest.approx(position)


def test_an_axis_has_room_for_all_values() -> None:
    series = [Series("a", 0, [0.0, 1.0, 2.0], [3.0, None, 730.0])]

    assert (y_axis("ms", series).low, y_axis("ms", series).high) == (0.0, 800.0)
    assert (y_axis("ms", series, is_log=True).low, y_axis("ms", series, is_log=True).high) == (1.0, 1_000.0)
    assert y_axis("ms", []).high == 1.0


def test_a_missing_value_is_a_gap_and_a_lone_one_a_dot() -> None:
    series = Series("a", 0, [0.0, 1.0, 2.0, 3.0], [1.0, None, 1.0, 1.0])

    svg = Chart("t", Axis("s", 0.0, 3.0), Axis("n", 0.0, 2.0), [series]).to_svg()

    assert svg.count("<circle") == 1
    assert 'd="M' in svg
    assert svg.count("L") == 1


def test_names_are_text_and_never_markup() -> None:
    series = Series('<b>"x"</b>', 0, [0.0], [1.0])

    svg = Chart("t", Axis("s", 0.0, 1.0), Axis("n", 0.0, 1.0), [series], [(0.5, "<i>")]).to_svg()

    assert "<b>" not in svg
    assert "<i>" not in svg


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.25, "0.25"), (950.0, "950"), (20_000.0, "20k"), (3e6, "3M")]
)
def test_labels_are_short(value: float, text: str) -> None:
    assert short_number(value) == text
