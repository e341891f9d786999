"""Tables as plain text: aligned, one line a row, nothing cut, no sign of a name taken for markup."""

from pipeline.text_tables import text_table


def test_words_go_to_the_left_and_numbers_to_the_right() -> None:
    rows = [("sky", "1.0"), ("a long name", "100.0")]
    assert text_table(("name", "IoU"), rows, words=("name",)).splitlines() == [
        "name           IoU",
        "sky            1.0",
        "a long name  100.0",
    ]


def test_long_cells_are_neither_cut_nor_wrapped_and_brackets_stay() -> None:
    path = "/data/" + 40 * "deep/" + "[bold]runs[/bold] :smile:"
    _, line = text_table(("path", "files"), [(path, "3")], words=("path",)).splitlines()
    assert line == f"{path}      3"


def test_a_table_without_rows_has_its_headings() -> None:
    assert text_table(("stage", "to do"), [], words=("stage",)) == "stage  to do\n"
