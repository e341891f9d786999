"""A picture of what adapting CLIP changes: images beside their label maps and the predictions before and after it.

Reads ``scores`` and the ``scenes`` that they are of.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg_models.overlay import palette
from pipeline.evaluate.report.pictures import PictureBook, spread
from pipeline.picture_sheets import Cell, fitted, painted, picture_sheet, write_names

PICTURE_PX = 224


def side_by_side(books: Mapping[str, PictureBook], class_names: Sequence[str], *, images: int) -> Image.Image:
    """Draw a few images in rows: the image, its label map, and one prediction per evaluation.

    The images are spread evenly over the data set, so that nobody has chosen them. Pixels without a class are grey in
    all maps. A class is named where it is thickest, if there is room.

    Args:
        books: Evaluations on the same scenes, by the headings of their columns.
        class_names: By class index.
        images: Rows at most.
    """
    shared = set.intersection(*({image.key for image in book.images} for book in books.values()))
    rows = []
    for key in spread(sorted(shared), images):
        found = [book.maps(key) for book in books.values()]
        scene = found[0][0]
        unlabelled = scene.labels >= len(class_names)
        maps = [scene.labels, *(np.where(unlabelled, scene.labels, predicted) for _, predicted in found)]
        rows.append([Cell((scene.image,)), *(Cell((named_map(labels, class_names),)) for labels in maps)])
    return picture_sheet(
        rows,
        title="Images, their label maps, and what was predicted; grey: not labelled",
        heads=("image", "label map", *books),
        picture_px=PICTURE_PX,
        smooth=False,
    )


def named_map(labels: npt.NDArray[np.integer], class_names: Sequence[str]) -> Image.Image:
    """Paint a label map in its classes' colours and write the names of classes where they have room.

    Args:
        labels: Class indices [height width]; those without a name are painted grey.
        class_names: By class index.
    """
    shown = fitted(painted(labels, palette(len(class_names))), PICTURE_PX, smooth=False)
    found = np.unique(labels[labels < len(class_names)]).tolist()
    write_names(shown, [(class_names[label], labels == label) for label in found])
    return shown
