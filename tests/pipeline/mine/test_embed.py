"""Step 2: embeddings equal one crop at a time through stock CLIP; batches are full; what fails says why."""

import io
import logging
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.masked_crops import masked_crops, patch_mask
from ovseg_models.one_pass import OnePass
from pipeline.clip_loading import load_clip
from pipeline.errors import StageError
from pipeline.mine import embedder
from pipeline.mine.embedder import Embedder, OutOfMemoryBackOff, in_full_batches
from pipeline.mine.regions import NetSize, SceneAndRegions, SceneRegions
from pipeline.settings import ClipSettings, EmbedSettings
from storage_schemas.rle import areas_px, boxes_xyxy, decode_masks, encode_masks
from storage_schemas.scenes import Scene

SIZE = NetSize(48, 96)


@pytest.fixture(scope="module")
def clip():
    loaded = load_clip(ClipSettings(architecture="drawn-world-small", pretrained="shipped"))
    return MaskAdaptedClip(loaded.clip, prompt_depth=0).eval()


def scene_with_regions(key: str, regions: int, *, empty: int | None = None) -> SceneAndRegions:
    rng = np.random.default_rng(len(key) + regions)
    pixels = rng.integers(0, 256, (48, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    masks = np.zeros((regions, 48, 64), bool)
    for number, mask in enumerate(masks):
        if number != empty:
            top, left = rng.integers(0, 30, 2)
            mask[top : top + 10 + number, left : left + 16] = rng.random((10 + number, 16)) > 0.3
    counts = encode_masks(masks)
    return SceneAndRegions(
        Scene(key=key, image_id="1", image=buffer.getvalue(), image_suffix="png", width_px=64, height_px=48),
        SceneRegions(
            indices=np.arange(regions, dtype=np.int32) * 2,
            height_px=48,
            width_px=64,
            mask_counts=counts,
            areas_px=areas_px(counts, 48, 64),
            boxes_xyxy=boxes_xyxy(counts, 48, 64),
        ),
    )


@torch.no_grad()
def one_at_a_time(clip: MaskAdaptedClip, of: SceneAndRegions) -> np.ndarray:
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(of.scene.image)))).permute(2, 0, 1)
    vectors = []
    for mask in decode_masks(of.regions.mask_counts, 48, 64):
        crop = masked_crops(pixels, torch.from_numpy(mask)[None], crop_px=clip.crop_px).crops
        vectors.append(torch.nn.functional.normalize(clip.clip.encode_image(crop), dim=-1)[0].numpy())
    return np.stack(vectors)


@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("batch", [1, 4, 256])
def test_embeddings_equal_one_crop_at_a_time(clip, batch, together):
    scenes = [scene_with_regions("a", 3), scene_with_regions("bb", 1), scene_with_regions("ccc", 5)]
    embedder = Embedder(clip, EmbedSettings(batch_crops=batch), SIZE, pictures_together=together)
    found = list(embedder.embeddings(iter(scenes)))
    assert [one.key for one in found] == ["a", "bb", "ccc"]
    for one, of in zip(found, scenes, strict=True):
        assert one.regions.tolist() == of.regions.indices.tolist()
        assert set(one.statuses) == {"ok"}
        assert one.embeddings.dtype == np.float16
        np.testing.assert_allclose(one.embeddings, one_at_a_time(clip, of), atol=6e-4)  # half precision


@pytest.fixture
def batch_sizes(clip, monkeypatch):
    """Note how many crops go through CLIP at once."""
    sizes, original = [], clip.encode_image
    monkeypatch.setattr(
        clip, "encode_image", lambda crops, *rest, **how: sizes.append(len(crops)) or original(crops, *rest)
    )
    return sizes


def test_forward_passes_are_full_across_images(clip, batch_sizes):
    scenes = [scene_with_regions("a" * (1 + number), 3) for number in range(4)]
    assert len(list(Embedder(clip, EmbedSettings(batch_crops=5), SIZE).embeddings(iter(scenes)))) == 4
    assert batch_sizes == [5, 5, 2]


def test_equal_masks_go_through_clip_once(clip, batch_sizes):
    of = scene_with_regions("a", 4)
    first, *others = of.regions.mask_counts
    doubled = of._replace(regions=replace(of.regions, mask_counts=[first, others[0], first, first]))
    (found,) = Embedder(clip, EmbedSettings(), SIZE).embeddings(iter([doubled]))
    assert batch_sizes == [2]
    assert set(found.statuses) == {"ok"}
    assert np.array_equal(found.embeddings[0], found.embeddings[2])
    np.testing.assert_allclose(found.embeddings, one_at_a_time(clip, doubled), atol=6e-4)


def test_masks_that_overlap_share_the_embedding_of_the_first(clip, batch_sizes):
    of = scene_with_regions("a", 4)
    masks = decode_masks(of.regions.mask_counts, 48, 64)
    masks[2] = masks[0]
    masks[2][tuple(np.argwhere(masks[0])[0])] = False  # a pixel less
    alike = of._replace(regions=replace(of.regions, mask_counts=encode_masks(masks)))
    exact, shared = (
        next(Embedder(clip, EmbedSettings(share_above_iou=iou), SIZE).embeddings(iter([alike]))) for iou in (1.0, 0.9)
    )
    assert batch_sizes == [4, 3]
    assert not np.array_equal(exact.embeddings[0], exact.embeddings[2])
    assert np.array_equal(shared.embeddings[0], shared.embeddings[2])
    np.testing.assert_allclose(shared.embeddings[[0, 1, 3]], exact.embeddings[[0, 1, 3]], atol=6e-4)


@torch.no_grad()
def test_a_clip_that_drops_blank_patches_gets_the_masks(monkeypatch):
    settings = EmbedSettings(blank_patches="dropped", batch_crops=4)
    shipped = ClipSettings(architecture="drawn-world-small", pretrained="shipped")
    embedder = Embedder.loaded(shipped, settings, SIZE, torch.device("cpu"))
    scenes = [with_corners(scene_with_regions(key, 3)) for key in ("a", "bb", "ccc")]
    found = list(embedder.embeddings(iter(scenes)))
    dropping = MaskAdaptedClip(load_clip(shipped).clip, prompt_depth=0, blank_patches="dropped").eval()
    for one, of in zip(found, scenes, strict=True):
        pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(of.scene.image)))).permute(2, 0, 1)
        cut = masked_crops(pixels, torch.from_numpy(decode_masks(of.regions.mask_counts, 48, 64)), crop_px=64)
        patches = patch_mask(cut.crop_masks, 8)
        assert not patches.all()
        expected = dropping.encode_image(cut.crops, patches).numpy()
        embedded = one.embeddings[np.array(one.statuses) == "ok"]
        np.testing.assert_allclose(embedded, expected, atol=6e-4)
        assert np.abs(embedded - dropping.encode_image(cut.crops).numpy()).max() > 1e-2


def with_corners(of: SceneAndRegions) -> SceneAndRegions:
    """Give a scene masks that fill the left and the lower edge of their boxes alone; the first one has no pixel."""
    masks = np.zeros((len(of.regions.mask_counts), 48, 64), bool)
    for number, mask in enumerate(masks[1:], start=4):
        mask[4:40, 4 : 4 + number] = mask[40 - number : 40, 4:60] = True
    return of._replace(regions=replace(of.regions, mask_counts=encode_masks(masks)))


@pytest.mark.parametrize("at_once", [None, 2, 4])
@torch.no_grad()
def test_one_pass_embeds_each_picture_as_by_hand_whatever_goes_together(clip, at_once):
    scenes = [scene_with_regions("a", 3), scene_with_regions("bb", 1), scene_with_regions("ccc", 5, empty=2)]
    damaged = scene_with_regions("dddd", 2)
    scenes.insert(1, damaged._replace(scene=Scene(**{**vars_of(damaged.scene), "image": b"\x89PNG"})))
    scenes.append(damaged._replace(regions=SceneRegions.none("no_proposals", "none")))
    one_pass = OnePass(clip)
    found = list(
        Embedder(one_pass, EmbedSettings(namer="one-pass", batch_images=at_once), SIZE).embeddings(iter(scenes))
    )
    assert [one.scene_status for one in found] == ["ok", "image_undecodable", "ok", "ok", "no_proposals"]
    assert found[3].statuses == ("ok", "ok", "empty_mask", "ok", "ok")  # as of crops
    for one, of in zip(found, scenes, strict=True):
        if one.scene_status == "ok":
            pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(of.scene.image)))).permute(2, 0, 1)
            masks = torch.from_numpy(decode_masks(of.regions.mask_counts, 48, 64))
            seen = one_pass.features(one_pass.resized(pixels)[None])
            expected = one_pass.embed(seen, one_pass.filled(masks)[None])[0].numpy()
            embedded = np.array(one.statuses) == "ok"
            np.testing.assert_allclose(one.embeddings[embedded], expected[embedded], atol=6e-4)
            assert not one.embeddings[~embedded].any()


@torch.no_grad()
def test_the_order_of_masks_only_orders_their_embeddings(clip):
    of = scene_with_regions("a", 5)
    order = [3, 0, 4, 2, 1]
    turned = of._replace(regions=replace(of.regions, mask_counts=[of.regions.mask_counts[place] for place in order]))
    embedder = Embedder(OnePass(clip), EmbedSettings(namer="one-pass"), SIZE)
    first, second = embedder.embeddings(iter([of, turned]))
    np.testing.assert_allclose(second.embeddings, first.embeddings[order], atol=6e-4)


def test_fewer_pictures_go_together_when_memory_runs_out(clip, monkeypatch, caplog):
    sizes, original = [], OnePass.features

    def short_of_memory(one_pass, pictures):
        sizes.append(len(pictures))
        if len(pictures) > 2:
            raise torch.OutOfMemoryError("no more")
        return original(one_pass, pictures)

    scenes = [scene_with_regions("a" * (1 + number), 3) for number in range(5)]
    monkeypatch.setattr(OnePass, "features", short_of_memory)
    embedder = Embedder(OnePass(clip), EmbedSettings(namer="one-pass", batch_images=4), SIZE)
    assert [set(one.statuses) for one in embedder.embeddings(iter(scenes))] == [{"ok"}] * 5
    assert sizes == [4, 2, 2, 1]
    assert "embed: memory does not suffice for 4 pictures, 2 go on" in caplog.text


def test_pictures_are_cut_one_by_one_when_memory_does_not_suffice_for_several(clip, monkeypatch):
    """Only a GPU cuts several at once."""
    embed = Embedder(clip, EmbedSettings(), SIZE, pictures_together=2).embeddings
    scenes = [scene_with_regions(name, 3) for name in ("a", "bb")]
    together, at_once, cut = list(embed(iter(scenes))), [], embedder.cut_regions_of_pictures

    def short_of_memory(pictures, *rest, **options):
        at_once.append(len(pictures))
        if len(pictures) > 1:
            raise torch.OutOfMemoryError("no more")
        return cut(pictures, *rest, **options)

    monkeypatch.setattr(embedder, "cut_regions_of_pictures", short_of_memory)
    alone = list(embed(iter(scenes)))
    assert at_once == [2, 1, 1]
    for found, expected in zip(alone, together, strict=True):
        assert np.array_equal(found.embeddings, expected.embeddings)
    monkeypatch.setattr(embedder, "cut_regions_of_pictures", lambda *_, **__: short_of_memory([1, 2]))
    with pytest.raises(torch.OutOfMemoryError):
        list(embed(iter(scenes)))


def test_the_batch_is_halved_when_memory_runs_out(clip, monkeypatch):
    sizes = []
    original = clip.encode_image

    def short_of_memory(crops, *rest, **_):
        sizes.append(len(crops))
        if len(crops) > 3:
            raise torch.OutOfMemoryError("no more")
        return original(crops, *rest)

    scenes = [scene_with_regions("a", 4), scene_with_regions("bb", 4)]
    (expected,) = ([one.embeddings for one in Embedder(clip, EmbedSettings(), SIZE).embeddings(iter(scenes))],)
    monkeypatch.setattr(clip, "encode_image", short_of_memory)
    found = [one.embeddings for one in Embedder(clip, EmbedSettings(batch_crops=8), SIZE).embeddings(iter(scenes))]
    assert sizes == [8, 4, 2, 2, 2, 2]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=6e-4)


def test_what_cannot_be_embedded_says_why(clip, monkeypatch):
    damaged = scene_with_regions("a", 2)
    damaged = damaged._replace(scene=Scene(**{**vars_of(damaged.scene), "image": b"\x89PNG"}))
    without = damaged._replace(regions=SceneRegions.none("no_proposals", "none"))
    hollow = scene_with_regions("ccc", 3, empty=1)
    found = list(
        Embedder(clip, EmbedSettings(), SIZE, pictures_together=4).embeddings(iter([damaged, without, hollow]))
    )
    assert [one.scene_status for one in found] == ["image_undecodable", "no_proposals", "ok"]
    assert found[2].statuses == ("ok", "empty_mask", "ok")
    monkeypatch.setattr(clip, "encode_image", lambda crops, *_, **__: torch.full((len(crops), 96), torch.nan))
    (broken,) = Embedder(clip, EmbedSettings(), SIZE).embeddings(iter([hollow]))
    assert broken.statuses == ("embedding_not_finite", "empty_mask", "embedding_not_finite")
    assert not broken.embeddings.any()


def vars_of(scene: Scene) -> dict:
    return {name: getattr(scene, name) for name in Scene.__dataclass_fields__}


@given(st.lists(st.integers(0, 7), max_size=8), st.integers(1, 6))
def test_every_row_comes_back_to_its_item_and_batches_are_full(counts, size):
    rows = torch.arange(2.0 * sum(counts)).view(-1, 2)
    seen: list[int] = []

    def forward(batch, next_to_it):
        seen.append(len(batch))
        assert torch.equal(next_to_it, batch + 1)
        return batch.sum(dim=1, keepdim=True)

    parts = rows.split(counts) if counts else ()
    groups = [(item, (part, part + 1)) for item, part in zip("abcdefgh", parts, strict=False)]
    found = list(in_full_batches(groups, forward, size=size))
    assert [item for item, _ in found] == [item for item, _ in groups]
    for (_, result), (_, (group, _)) in zip(found, groups, strict=True):
        torch.testing.assert_close(result, group.sum(dim=1, keepdim=True)) if len(group) else None
        assert len(result) == len(group)
    assert all(count == size for count in seen[:-1])
    assert sum(seen) == sum(counts)


def test_items_come_as_soon_as_their_rows_are_done():
    read: list[str] = []

    def groups():
        for item in "abcd":
            read.append(item)
            yield item, (torch.zeros(2, 1),)

    results = in_full_batches(groups(), lambda rows: rows, size=3)
    assert next(results)[0] == "a"
    assert read == ["a", "b"]


class ShortOfMemory:
    """A model for which more than a few rows are too many."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.asked: list[int] = []

    def __call__(self, rows):
        self.asked.append(len(rows))
        if len(rows) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return 2 * rows


def test_batches_are_halved_until_memory_suffices_and_stay_so(caplog):
    model = ShortOfMemory(3)
    back_off = OutOfMemoryBackOff(model, where="embed")
    rows = torch.arange(13.0)[:, None]
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(back_off(rows), 2 * rows)
        torch.testing.assert_close(back_off(rows[:4]), 2 * rows[:4])
    assert model.asked == [13, 6, 3, 3, 3, 3, 1, 3, 1]
    assert "embed: memory does not suffice for 13 crops, 6 go on" in caplog.text


def test_memory_for_not_even_one_row_is_an_error():
    back_off = OutOfMemoryBackOff(ShortOfMemory(0), where="embed")
    message = "embed: memory does not suffice for one crop (CUDA out of memory"
    with pytest.raises(StageError, match=re.escape(message)):
        back_off(torch.zeros(5, 1))


def test_other_errors_pass_through():
    def broken(rows):
        raise ValueError("shapes differ")

    with pytest.raises(ValueError, match="shapes differ"):
        OutOfMemoryBackOff(broken, where="embed")(torch.zeros(2, 1))
