"""Tables as plain text, for terminals, pipes and text files."""

import io
from collections.abc import Collection, Iterable, Sequence

_NO_LIMIT = 10_000  # characters of a line: a path or a number that is cut or wrapped is of no use in a pipe


def text_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, words: Collection[str] = ()) -> str:
    """Return a table with headings, one line a row: words to the left, numbers to the right.

    Args:
        columns: Headings, in order.
        rows: A cell for each column; cells have no line ends.
        words: Columns of words; all others hold numbers.
    """
    from rich.console import Console  # imports half of rich, which commands without a table need not wait for
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for column in columns:
        table.add_column(column, justify="left" if column in words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    # Without markup, since names may hold brackets, and without colours, which are noise in pipes and files.
    console = Console(
        file=io.StringIO(), width=_NO_LIMIT, color_system=None, markup=False, highlight=False, emoji=False
    )
    with console.capture() as captured:
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())
