"""A memory of masks: a set to the bit, what it changes and what not, its file, and whose CLIP it is of."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save
from torch.nn import functional

from ovseg_models.memory import (
    Memory,
    RememberedMask,
    Similarities,
    embedding_space,
    picture_digest,
    remembered_scores,
)
from ovseg_models.segmenter import Segmenter
from tests.tiny_segmenter import CLASS_NAMES, picture, tiny_segmenter

IMAGE = picture(64, 96, 5)


def masks_of(count: int, *, names: tuple[str, ...] = ("cat", "dog", "sky"), seed: int = 0) -> list[RememberedMask]:
    draw = torch.Generator().manual_seed(seed)
    embeddings = functional.normalize(torch.randn(count, 8, generator=draw), dim=1)
    return [
        RememberedMask(
            class_name=names[number % len(names)], embedding=row, picture=f"{number}", source=f"photo {number}"
        )
        for number, row in enumerate(embeddings)
    ]


@given(st.permutations(range(7)), st.sets(st.integers(0, 6)))
def test_adding_and_removing_in_any_order_leaves_the_very_numbers(order, removed):
    masks, regions = (
        masks_of(7),
        functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(9)), dim=1),
    )
    memory = Memory("space")
    for place in order:
        memory = memory.with_masks([masks[place]])
    memory = memory.without([masks[place].key for place in sorted(removed)])
    memory = memory.with_masks([masks[place] for place in sorted(removed)])
    plain = Memory("space", tuple(masks))
    assert memory.digest() == plain.digest()
    assert torch.equal(memory.embeddings, plain.embeddings)
    found, expected = memory.similarities(regions, CLASS_NAMES), plain.similarities(regions, CLASS_NAMES)
    assert found.threshold == expected.threshold
    assert torch.equal(found.values, expected.values)


def test_the_nearest_mask_of_each_asked_class_counts():
    memory = Memory("space", tuple(masks_of(6)))
    regions = functional.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    found = memory.similarities(regions, ["boat", "sky", "cat"])
    assert found.classes.tolist() == [1, 2]
    for column, name in enumerate(("sky", "cat")):
        for row, region in enumerate(regions):
            nearest = max(float(mask.embedding @ region) for mask in memory.masks if mask.class_name == name)
            assert float(found.values[row, column]) == pytest.approx(nearest, abs=1e-6)
    assert memory.similarities(regions, ["boat"]) is None


def test_the_threshold_is_what_masks_of_different_classes_have():
    near, far = torch.eye(8)[0], functional.normalize(torch.eye(8)[0] + torch.eye(8)[1], dim=0)
    rows = [RememberedMask(class_name=name, embedding=each, picture=name) for name, each in (("a", near), ("b", far))]
    assert Memory("space", tuple(rows)).threshold == pytest.approx(0.5**0.5)
    assert Memory("space", tuple(rows[:1])).threshold == Memory("space", tuple(rows[1:])).threshold


def test_surroundings_tell_apart_what_embeddings_have_in_common():
    """Naive: centre and whiten by the regions of both pictures, drawn towards a sphere by as much as they are few."""
    draw = torch.Generator().manual_seed(3)
    around = functional.normalize(torch.randn(30, 8, generator=draw) * torch.tensor([5.0] + [1.0] * 7) + 3, dim=1)
    parts = {"1": around[:20], "2": around[20:]}
    masks = [
        RememberedMask(class_name=name, embedding=around[place], picture=picture, surroundings=parts[picture])
        for name, place, picture in (("cat", 3, "1"), ("dog", 4, "1"), ("sky", 22, "2"))
    ]
    memory, regions = Memory("space", tuple(masks)), around[10:15]
    found = memory.similarities(regions, ["cat", "dog", "sky"])
    numbers = around.double().numpy()
    covariance, drawn = np.cov(numbers.T, bias=True), 8 / 38
    covariance = (1 - drawn) * covariance + drawn * np.trace(covariance) / 8 * np.eye(8)

    def compared(rows):
        white = (rows.double().numpy() - numbers.mean(0)) @ np.linalg.inv(np.linalg.cholesky(covariance)).T
        return white / np.linalg.norm(white, axis=1, keepdims=True)

    expected = compared(regions) @ compared(torch.stack([mask.embedding for mask in masks])).T
    assert found.values.numpy() == pytest.approx(expected, abs=1e-4)
    alone = Memory("space", tuple(masks[:1]))
    assert -1 < alone.threshold < 1


def test_only_regions_that_are_known_change_and_no_more_is_given_than_one():
    scores, valid = torch.rand(4, 3) * 0.3, torch.tensor([True, False, True, True])
    logits = torch.tensor([[5.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 20.0]])
    nearest = torch.tensor([[0.97], [-1.0], [0.6]])
    fused = remembered_scores(scores, logits, valid, Similarities(torch.tensor([1]), nearest, 0.85))
    assert torch.equal(fused[1], scores[1])  # no crop
    assert torch.equal(fused[2], scores[2])  # nothing like it is remembered
    assert torch.allclose(fused[3], scores[3], atol=1e-5)
    assert int(fused[0].argmax()) == 1
    assert (fused >= 0).all()
    assert (fused.sum(dim=1) <= 1 + 1e-6).all()


def test_a_segmenter_without_memory_or_with_one_of_other_classes_gives_the_same_bits():
    segmenter = tiny_segmenter()
    encoded = segmenter.encode(IMAGE)
    plain = segmenter.segment(encoded, CLASS_NAMES)
    key = segmenter.remember("boat", encoded, 3)
    changed = segmenter.segment(encoded, CLASS_NAMES)
    assert not torch.equal(changed.query_scores, plain.query_scores)
    row = int(encoded.valid[:3].sum())
    assert bool(encoded.valid[3])
    nearest = segmenter.memory.similarities(encoded.image_embeddings, ["boat"])
    assert float(nearest.values[row, 0]) == pytest.approx(1, abs=1e-5)
    without = segmenter.segment(encoded, CLASS_NAMES[:4])
    assert torch.equal(without.query_scores, tiny_segmenter().segment(IMAGE, CLASS_NAMES[:4]).query_scores)
    segmenter.memory = segmenter.memory.without([key])
    assert torch.equal(segmenter.segment(encoded, CLASS_NAMES).query_scores, plain.query_scores)


@pytest.mark.parametrize("weight", [0.0, 0.7, 1.0])
def test_append_then_remove_gives_the_same_bits_at_any_weight(weight):
    segmenter = tiny_segmenter(ensemble_weight=weight)
    segmenter.remember("boat", IMAGE, 3)
    segmenter.remember("dog", picture(64, 96, 6), 1)
    before = segmenter.segment(IMAGE, CLASS_NAMES, return_scores=True)
    key = segmenter.remember("cat", picture(64, 96, 7), 2)
    segmenter.memory = segmenter.memory.without([key])
    after = segmenter.segment(IMAGE, CLASS_NAMES, return_scores=True)
    assert torch.equal(before.scores, after.scores)
    assert torch.equal(before.label_map, after.label_map)


def test_a_mask_of_the_images_size_is_the_proposal_that_it_was():
    segmenter = tiny_segmenter()
    encoded = segmenter.encode(IMAGE)
    first = segmenter.remember("boat", encoded, 3)
    (of_query,) = segmenter.memory.masks
    segmenter.memory = None
    again = segmenter.remember("boat", Image.fromarray(IMAGE), encoded.hard_masks()[3].numpy())
    assert encoded.size == encoded.net_size
    assert again == first
    assert torch.equal(segmenter.memory.masks[0].embedding, of_query.embedding)


def test_masks_that_cannot_be_remembered_are_refused():
    segmenter = tiny_segmenter()
    with pytest.raises(ValueError, match="96 x 64"):
        segmenter.remember("boat", IMAGE, np.ones((3, 4), bool))
    with pytest.raises(ValueError, match="'boat' has no pixel"):
        segmenter.remember("boat", IMAGE, np.zeros((64, 96), bool))
    with pytest.raises(ValueError, match="no proposal 99"):
        segmenter.remember("boat", IMAGE, 99)
    key = segmenter.remember("boat", IMAGE, 3)
    with pytest.raises(ValueError, match=f"{key} of 'boat' is remembered already"):
        segmenter.remember("boat", IMAGE, 3)
    with pytest.raises(ValueError, match="no mask or class 'ship'; it has boat"):
        segmenter.memory.without(["ship"])
    with pytest.raises(ValueError, match=r"lengths \[8, 16\]"):
        segmenter.memory.with_masks(masks_of(1))


def test_a_memory_of_another_clip_is_refused():
    segmenter = tiny_segmenter()
    segmenter.remember("boat", IMAGE, 3)
    with pytest.raises(ValueError, match="remember the masks again"):
        tiny_segmenter(seed=1).memory = segmenter.memory
    with pytest.raises(ValueError, match="remember the masks again"):
        tiny_segmenter(use_mask_prompts=False).memory = segmenter.memory
    clip = segmenter.clip
    assert embedding_space(clip) != embedding_space(clip, use_mask_prompts=False)
    spaces = [embedding_space(clip, one_pass=(namer, side, 0)) for namer in ("one-pass", "pooled") for side in (0, 16)]
    assert len({*spaces, embedding_space(clip, use_mask_prompts=False)}) == 5


def test_a_segmenters_folder_holds_its_memory(tmp_path):
    segmenter = tiny_segmenter()
    segmenter.remember("boat", IMAGE, 3, source="a click")
    segmenter.save(tmp_path / "model")
    loaded = Segmenter.load(tmp_path / "model")
    assert loaded.memory.digest() == segmenter.memory.digest()
    assert loaded.memory.masks[0].source == "a click"
    ours, theirs = (each.segment(IMAGE, CLASS_NAMES).query_scores for each in (segmenter, loaded))
    assert torch.equal(ours, theirs)
    tiny_segmenter().save(tmp_path / "plain")
    assert not (tmp_path / "plain" / "memory.safetensors").exists()


def test_a_file_is_read_as_it_was_written_and_a_broken_one_is_named(tmp_path):
    path, memory = tmp_path / "m.safetensors", Memory("space", tuple(masks_of(5)))
    memory.save(path)
    assert Memory.load(path).digest() == memory.digest()
    Memory("space").save(path)
    assert Memory.load(path).masks == ()
    with pytest.raises(FileNotFoundError, match="absent"):
        Memory.load(tmp_path / "absent")
    rows = [{"class_name": "cat", "picture": "1", "source": "", "surroundings": 1}]
    one, two = torch.eye(8)[:1], torch.eye(8)[:2]

    def file(embeddings=one, surroundings=one, **described):
        described = {"schema_version": 1, "space": "space", "masks": rows} | described
        tensors = {"embeddings": embeddings, "surroundings": surroundings.clone()}
        return save(tensors, metadata={"ovseg-memory": json.dumps(described)})

    for content, found in (
        (b"no tensors", "safetensors"),
        (save({"embeddings": one}, metadata={"another": "format"}), "is no memory"),
        (save({"embeddings": one}, metadata={"ovseg-memory": "{"}), "what its masks are"),
        (save({"others": one}, metadata={"ovseg-memory": json.dumps({"masks": []})}), "what its masks are"),
        (file(schema_version=2), "schema_version is 2"),
        (file(masks=[1]), "what its masks are"),
        (file(embeddings=two), r"\(2, 8\) and .* of 1 masks"),
        (file(surroundings=two), r"\(2, 8\) of 1 masks with 1 regions"),
        (file(embeddings=one * torch.nan), "NaN"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=found) as caught:
            Memory.load(path)
        assert str(path) in str(caught.value)


def test_a_picture_is_known_by_its_pixels(tmp_path):
    image = Image.fromarray(IMAGE)
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.bmp")
    with Image.open(tmp_path / "a.png") as first, Image.open(tmp_path / "b.bmp") as second:
        assert picture_digest(first) == picture_digest(second) == picture_digest(image)
    changed = IMAGE.copy()
    changed[0, 0, 0] ^= 1
    assert picture_digest(Image.fromarray(changed)) != picture_digest(image)
    assert picture_digest(Image.fromarray(IMAGE.reshape(96, 64, 3))) != picture_digest(image)
