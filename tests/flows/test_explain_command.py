"""``ovseg pairs index`` and ``ovseg explain``: a photograph, a pixel, and the pairs behind its label."""

import pytest
from PIL import Image

from flows.explain_command import explain, index_pairs
from ovseg_models.segmenter import Segmenter
from pipeline.errors import PipelineError
from pipeline.pair_index import PairIndex
from tests.pipeline.finetune.made_pairs import made_pairs
from tests.tiny_segmenter import CLASS_NAMES, picture, tiny_segmenter


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a folder with a photograph, a model, pairs and their index."""
    folder = tmp_path_factory.mktemp("world")
    Image.fromarray(picture(64, 96, 5)).save(folder / "photo.png")
    tiny_segmenter().save(folder / "model")
    pairs = made_pairs(folder / "runs", 3).directory
    index_pairs(pairs, model=folder / "model", out=folder / "index")
    return folder


def test_the_pairs_behind_a_pixels_label_are_printed_and_drawn(world, capsys):
    explain(
        world / "photo.png",
        classes=tuple(CLASS_NAMES),
        at=(40, 20),
        model=world / "model",
        index=world / "index",
        count=3,
        out=world / "sheet.png",
    )
    lines = capsys.readouterr().out.splitlines()
    segmenter = Segmenter.load(world / "model")
    found = segmenter.segment(world / "photo.png", CLASS_NAMES)
    query = found.mask_at(40, 20)
    assert lines[0] == f"{CLASS_NAMES[int(found.label_map[20, 40])]}: mask {query}"
    near = segmenter.explain(found, query, PairIndex.open(world / "index"), count=3)
    assert [line.split()[-1] for line in lines[1:]] == [pair.pair for pair in near]
    assert lines[1].startswith(f"{near[0].similarity:+.3f}  {near[0].noun} ")
    with Image.open(world / "sheet.png") as sheet:
        assert sheet.width > 300


def test_a_label_is_explained_by_the_mask_that_gives_it_most(world):
    found = Segmenter.load(world / "model").segment(world / "photo.png", CLASS_NAMES)
    probs, valid = found.encoded.mask_probs(), found.encoded.valid
    for x, y in ((0, 0), (95, 63), (50, 30)):
        label = int(found.label_map[y, x])
        given = [float(found.query_scores[query, label] * probs[query, y, x]) for query in range(len(probs))]
        assert found.mask_at(x, y) == max((q for q in range(len(probs)) if valid[q]), key=given.__getitem__)
    with pytest.raises(ValueError, match="pixel 96, 0 is outside the image of 96 x 64 px"):
        found.mask_at(96, 0)


def test_another_models_index_a_pixel_outside_and_no_count_are_refused(world, tmp_path):
    tiny_segmenter(seed=1).save(tmp_path / "other")
    options = {"classes": ("cat", "dog"), "index": world / "index"}
    with pytest.raises(PipelineError, match="'ovseg pairs index'"):
        explain(world / "photo.png", at=(1, 1), model=tmp_path / "other", **options)
    with pytest.raises(PipelineError, match="outside the image"):
        explain(world / "photo.png", at=(1, 99), model=world / "model", **options)
    with pytest.raises(PipelineError, match="--count: found 0"):
        explain(world / "photo.png", at=(1, 1), model=world / "model", count=0, **options)
    with pytest.raises(PipelineError, match="is there already"):
        index_pairs(next((world / "runs" / "pairs").iterdir()), model=world / "model", out=world / "index")
