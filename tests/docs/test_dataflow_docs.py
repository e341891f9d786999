"""The picture of the dataflow on the pages is that of the code."""

import pytest

from tools.seed_results import between_marks
from tools.write_dataflow_docs import PAGES, picture


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_picture_is_current(page):
    assert between_marks(page, name="dataflow") == f"\n{picture()}\n", "run 'make docs'"


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
