import sys

import numpy as np
from PIL import Image

from pipeline.drawn_world import contact_sheet
from pipeline.drawn_world.world import DrawnWorld


def test_sheet_grows_with_scenes_and_shows_them():
    world = DrawnWorld(0)
    scenes = [world.scene(index) for index in range(3)]
    two, three = (contact_sheet.scenes_sheet(scenes[:count], columns=2) for count in (2, 3))
    assert two.width == three.width
    assert two.height < three.height
    shown = np.asarray(three)[52 : 52 + 192 : 2, 10 : 10 + 192 : 2]  # below title and heads
    assert np.array_equal(shown, scenes[0].image)


def test_command_writes_a_picture(tmp_path, monkeypatch):
    out = tmp_path / "images" / "sheet.png"
    arguments = ["contact_sheet", "--out", str(out), "--scenes", "2", "--size-px", "64"]
    monkeypatch.setattr(sys, "argv", arguments)
    contact_sheet.main()
    with Image.open(out) as sheet:
        assert sheet.width > 1000
        assert len(sheet.convert("RGB").getcolors(maxcolors=2**24)) > 100
