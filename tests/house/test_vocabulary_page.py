"""The table of languages says what the code says. `make vocabulary` measures all of it; here is a sample."""

import pytest
from tests.house.vocabulary_page import LanguageRow, rows_of_page

from keyflock_models.text.languages import SUPPORTED


@pytest.mark.fault("F5")
def test_the_page_lists_the_languages_that_are_supported() -> None:
    assert tuple(rows_of_page()) == SUPPORTED


@pytest.mark.fault("F5")
@pytest.mark.parametrize("language", ["el", "tr", "ur", "vi"])
def test_a_row_of_the_page_is_what_is_measured(language: str) -> None:
    row = LanguageRow.measure(language)

    assert rows_of_page()[language] == str(row), "the words have changed: run `make vocabulary`"
    assert row.is_lawful


@pytest.mark.fault("F5")
def test_every_row_of_the_page_keeps_the_law() -> None:
    for language, row in rows_of_page().items():
        whole, oov, round_trip = (float(cell.strip(" %")) for cell in row.split("|")[3:6])

        assert (whole >= 98.5, oov <= 25.0, round_trip) == (True, True, 100.0), language
