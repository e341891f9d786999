"""What can be wrong with a scene: one slug per fault, which becomes the ``status`` of the scene's row."""

FAULTS = {
    "image_missing": "the image file that a list or an annotation names is not there",
    "image_unreadable": "no picture of a known format, one whose structure is broken, or no regular file",
    "image_truncated": "the image file ends too early",
    "image_mode_unsupported": "a picture that 8-bit RGB cannot hold (16-bit grey, 12-bit), or several in one file",
    "image_too_large": "more pixels than max_image_px",
    "path_impossible": "a path that no file can have: too long, or with characters that are no text",
    "path_outside_root": "the path leaves the data set's root: absolute, with '..', or by a link",
    "duplicate_key": "two image files differ in nothing but their ending",
    "duplicate_image_id": "an image id is of two files, or has two annotations where one is allowed",
    "image_id_unknown": "an annotation names an image id that no image has",
    "duplicate_caption_id": "a caption id occurs twice",
    "caption_not_utf8": "a caption's bytes are not UTF-8",
    "caption_malformed": "a caption is no text, or its line does not have the columns of the header",
    "label_missing": "the data set promises a label for each image, this one has none",
    "label_unreadable": "the label file is broken",
    "label_mode_unsupported": "the label is not of the kind that the data set uses (an RGB picture, where indices are)",
    "label_size_mismatch": "image and label differ in size",
    "label_outside_vocabulary": "the label holds a value that is no class",
}
"""Slug of each fault to its meaning."""


class SceneFault(Exception):  # noqa: N818 - a fault of the data, which becomes a row and stops nothing
    """Something is wrong with one scene.

    Attributes:
        slug: A key of ``FAULTS``.
        reason: What was found and where, with the value.
    """

    def __init__(self, slug: str, reason: str) -> None:
        super().__init__(f"{slug}: {reason}")
        self.slug = slug
        self.reason = reason
