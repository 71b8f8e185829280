"""Names and files keep the rules of ``structure.py``."""

from tests.house import structure


def test_no_retired_identifier_is_defined_again() -> None:
    assert structure.retired_names_in_use() == []


def test_two_public_classes_never_share_a_name() -> None:
    assert structure.duplicate_class_names() == []


def test_no_docstring_or_field_comment_begins_with_of() -> None:
    assert structure.of_docstrings() == []


def test_no_product_file_is_longer_than_its_reader_can_hold() -> None:
    assert structure.files_over_400() == []


def test_no_module_imports_itself_through_others() -> None:
    assert structure.circles() == []
