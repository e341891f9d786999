"""``ovseg memory``: masks of files and of pairs come in, go out, and are used by ``ovseg segment``."""

import numpy as np
import pytest
from PIL import Image

from flows.memory_commands import masks_of_pairs, memory_add, memory_remove, memory_show
from flows.segment_command import segment
from ovseg_models.memory import Memory
from ovseg_models.segmenter import Segmenter
from pipeline.errors import PipelineError
from pipeline.stages import run
from storage_schemas.rle import decode_masks
from tests.pipeline.mine.mining_world import mining_settings, pair_rows
from tests.tiny_segmenter import CLASS_NAMES, picture, tiny_segmenter


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "segmenter"
    tiny_segmenter().save(folder)
    return folder


@pytest.fixture
def files(tmp_path):
    """A photograph, and its left half as a mask of colours."""
    Image.fromarray(picture(seed=4)).save(tmp_path / "photo.png")
    mask = np.zeros((50, 70, 3), np.uint8)
    mask[:, :35] = (0, 0, 9)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path / "photo.png", tmp_path / "mask.png"


def test_masks_of_files_are_remembered_listed_used_and_removed(model, files, tmp_path, capsys):
    image, mask = files
    memory = tmp_path / "m.safetensors"
    memory_add("boat", model=model, memory=memory, images=(image,), masks=(mask,))
    (key,) = capsys.readouterr().out.split()
    expected = Segmenter.load(model)
    inside = np.zeros((50, 70), bool)
    inside[:, :35] = True
    assert expected.remember("boat", image, inside) == key
    memory_show(memory=memory)
    assert capsys.readouterr().out == f"{key}  boat  photo.png\n"
    segment((image,), classes=tuple(CLASS_NAMES), model=model, out=tmp_path / "out", memory=memory)
    labels = np.asarray(Image.open(tmp_path / "out" / "photo.labels.png"))
    assert np.array_equal(labels, expected.segment(image, CLASS_NAMES).label_map.numpy())
    before = memory.read_bytes()
    memory_add("cat", model=model, memory=memory, images=(tmp_path / "photo.png",), masks=(mask,))
    assert len(Memory.load(memory).masks) == 2
    memory_remove(("cat",), memory=memory)
    assert memory.read_bytes() == before
    memory_remove((key,), memory=memory)
    assert Memory.load(memory).masks == ()


def test_pairs_are_remembered_on_their_scenes_pictures(tmp_path):
    drawn_pairs = run("mine", mining_settings(tmp_path, "mine.source=masks-1-caption", scenes=3)).artifact
    rows = [row for row in pair_rows(drawn_pairs) if row["status"] == "ok"]
    noun = rows[0]["noun"]
    best = sorted((row for row in rows if row["noun"] == noun), key=lambda row: (-row["score"], row["pair"]))[:2]
    found = list(masks_of_pairs(drawn_pairs, noun, 2, None))
    assert [pair for pair, _, _ in found] == [row["pair"] for row in best]
    for row, (_, image, mask) in zip(best, found, strict=True):
        assert mask.shape == (image.height, image.width)
        if image.size == (row["width_px"], row["height_px"]):
            assert np.array_equal(mask, decode_masks([row["mask_counts"]], *mask.shape)[0])
    with pytest.raises(PipelineError, match="no pair of the noun 'ukulele'"):
        list(masks_of_pairs(drawn_pairs, "ukulele", 2, None))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, "0 images, 0 masks and no pairs"),
        ({"images": ("a.png", "b.png"), "masks": ("a.png",)}, "2 images, 1 masks"),
    ],
)
def test_what_does_not_go_together_is_refused(options, found, model, tmp_path):
    with pytest.raises(PipelineError, match=found):
        memory_add("boat", model=model, memory=tmp_path / "m", **options)


def test_another_models_memory_and_missing_files_are_refused(model, files, tmp_path):
    image, mask = files
    memory = tmp_path / "m.safetensors"
    memory_add("boat", model=model, memory=memory, images=(image,), masks=(mask,))
    tiny_segmenter(seed=1).save(tmp_path / "other")
    with pytest.raises(PipelineError, match="remember the masks again"):
        segment((image,), classes=("boat",), model=tmp_path / "other", out=tmp_path / "out", memory=memory)
    with pytest.raises(PipelineError, match="remember the masks again"):
        memory_add("cat", model=tmp_path / "other", memory=memory, images=(image,), masks=(mask,))
    with pytest.raises(PipelineError, match=r"absent\.safetensors: there is no such file"):
        memory_show(memory=tmp_path / "absent.safetensors")
    with pytest.raises(PipelineError, match="no mask or class 'ship'"):
        memory_remove(("ship",), memory=memory)
