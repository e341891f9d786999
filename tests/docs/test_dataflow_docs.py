"""The picture of the dataflow on the pages is that of the code."""

import pytest

from tools.write_dataflow_docs import PAGES, picture, with_picture


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_picture_is_current(page):
    text = page.read_text(encoding="utf-8")
    assert with_picture(text) == text, "run 'make docs'"


def test_the_picture_has_a_line_for_each_kind_in_the_order_of_the_dataflow():
    kinds = [line.rpartition("► ")[2] for line in picture().splitlines()[1:-1]]
    assert kinds == [
        "scenes",
        "proposal_net",
        "proposals",
        "embeddings",
        "pairs",
        "adapted_clip",
        "scores",
        "reports",
    ]


def test_a_page_without_marks_is_refused():
    with pytest.raises(ValueError, match="lacks '<!-- the dataflow"):
        with_picture("# A page")
