"""What README.md shows of the demo: made of the numbers that lie in docs."""

import json

from PIL import Image

from pipeline.adaptations import ADAPTATIONS, AdaptationTable
from tools.seed_results import between_marks
from tools.write_demo_results import PICTURE, README, RESULTS, shown


def test_the_front_page_shows_the_demo():
    stored = AdaptationTable.of_json(json.loads(RESULTS.read_text()))
    assert list(stored.rows) == [row.title for row in ADAPTATIONS]
    assert between_marks(README, name="demo") == shown(stored)
    with Image.open(PICTURE) as picture:
        assert picture.width < picture.height
