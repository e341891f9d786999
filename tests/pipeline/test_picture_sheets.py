"""Picture sheets: everything at its place, texts inside the picture, the same bytes on every run."""

import numpy as np
import pytest
from PIL import Image

from pipeline.picture_sheets import (
    INK,
    RED,
    UNLABELLED,
    Cell,
    in_rows,
    name_places,
    painted,
    picture_sheet,
    png,
    write_names,
)

GREEN = (20, 200, 40)


def plain(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), GREEN)


def boxes_of(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a colour."""
    rows, columns = np.nonzero((np.asarray(sheet) == colour).all(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_a_picture_keeps_its_shape_and_each_row_is_as_high_as_its_highest():
    one = picture_sheet([[Cell((plain(80, 40),))]], title="t", picture_px=60)
    left, top, right, bottom = boxes_of(one, GREEN)
    assert (right - left, bottom - top) == (60, 30)
    two = picture_sheet([[Cell((plain(80, 40),)), Cell((plain(10, 90),))]], title="t", picture_px=60)
    assert two.height == one.height + 30
    assert two.width > 2 * 60


def test_titles_break_and_texts_stay_inside():
    """Whatever their length; nothing is written over the sheet's edge, or into the next cell."""
    long = "a class with a name that is longer than its place 0.75"
    cell = Cell((plain(9, 9),), long, "12.3%  0.281", ink=RED)
    narrow = picture_sheet([[cell, cell]], title="a title of many words " * 4, heads=("picture " * 9,), picture_px=100)
    assert narrow.height > picture_sheet([[cell, cell]], title="short", picture_px=100).height + 3 * 17
    pixels = np.asarray(narrow).astype(int)
    paper = (pixels == 255).all(axis=2)
    assert paper[:, :8].all()
    assert paper[:, -9:].all()
    assert paper[-8:].all()
    assert paper[-140:, 111:119].all(), "between the cells, from their heads to their captions"


def test_a_caption_is_cut_in_its_middle_so_that_its_end_can_be_read():
    """The last letters look as they do in a caption that fits."""
    ends = []
    for caption in ("0.75", "a class with a name that is longer than its place 0.75"):
        sheet = picture_sheet([[Cell((plain(9, 9),), caption, ink=RED)]], title="t", picture_px=120)
        _, top, right, bottom = boxes_of(sheet, RED)
        assert right <= 130
        ends.append(np.asarray(sheet)[top:bottom, right - 8 : right])
    shown, height = ends[0], ends[0].shape[0]
    assert any(np.array_equal(ends[1][row : row + height], shown) for row in range(ends[1].shape[0] - height + 1))


def test_pictures_of_a_cell_are_side_by_side_and_captions_below_break():
    cell = Cell((plain(9, 9), plain(9, 9)), "word " * 14)
    two_lines = picture_sheet([[cell]], title="t", picture_px=100, caption_lines=2)
    left, _, right, _ = boxes_of(two_lines, GREEN)
    assert right - left > 200
    assert two_lines.height == picture_sheet([[cell]], title="t", picture_px=100).height + 17


def test_a_sheet_of_nothing_has_its_title():
    sheet = picture_sheet([], title="no pairs", picture_px=100)
    assert len(sheet.getcolors(2**16)) > 2


def test_cells_break_into_rows():
    cells = [Cell((plain(1, 1),), str(number)) for number in range(5)]
    assert [len(row) for row in in_rows(cells, 2)] == [2, 2, 1]


def test_label_maps_are_painted_and_what_is_no_class_is_grey():
    labels = np.array([[0, 1], [255, 7]], np.uint16)
    colours = np.array([[10, 20, 30], [200, 100, 50]], np.uint8)
    assert painted(labels, colours).tolist() == [[[10, 20, 30], [200, 100, 50]], [list(UNLABELLED)] * 2]
    over = np.full((2, 2, 3), 100, np.uint8)
    assert painted(labels, colours, over).tolist() == [[[37, 44, 51], [170, 100, 65]], [[100] * 3] * 2]


@pytest.mark.parametrize(("side", "always", "written"), [(60, False, True), (3, False, False), (3, True, True)])
def test_names_are_written_where_they_have_room(side, always, written):
    region = np.zeros((100, 100), np.bool_)
    region[:side, :side] = True
    picture = plain(100, 100)
    write_names(picture, [("sea", region)], always=always)
    assert (len(picture.getcolors(2**16)) > 1) == written


def test_names_are_inside_their_regions_and_none_is_over_another():
    """Four quarters and a middle that is thickest where the quarters meet; two names fit no region."""
    labels = np.zeros((80, 80), np.int64)
    labels[40:, :40], labels[:40, 40:], labels[40:, 40:] = 1, 2, 3
    labels[25:55, 25:55], labels[0, 0] = 4, 5
    names = ["grass", "water", "tree", "sky", "house", "speck"]
    regions = [(name, labels == index) for index, name in enumerate(names)]
    places = name_places(regions, (300, 300), font_px=17)
    assert {place.name for place in places} == set(names[:5])
    for place in places:
        assert labels[int(place.y * 80 / 300), int(place.x * 80 / 300)] == names.index(place.name)
        others = [other for other in places if other is not place]
        assert all(abs(place.y - other.y) > 17 or abs(place.x - other.x) > 30 for other in others)
    assert not name_places([("a name that is much wider than its picture", labels >= 0)], (60, 60))


def test_a_name_moves_out_of_the_way_of_another_or_is_left_out():
    tall = np.zeros((100, 100), np.bool_)
    tall[:, 40:60] = True
    long = "a broad name across"
    first, second = name_places([(long, ~tall | tall), ("pole", tall)], (200, 200))
    assert abs(first.y - second.y) > 13
    low = [(name, region[:10]) for name, region in ((long, ~tall | tall), ("pole", tall))]
    assert len(name_places(low, (200, 20))) == 1


def test_equal_sheets_are_equal_files():
    def sheet() -> Image.Image:
        return picture_sheet([[Cell((plain(5, 7),), "a \x1b b", ink=INK)]], title="t", picture_px=40, framed=True)

    assert png(sheet()) == png(sheet())
    assert png(sheet(), colours=16)[:4] == b"\x89PNG"
