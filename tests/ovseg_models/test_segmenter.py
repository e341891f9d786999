"""The segmenter against a naive twin of the reference's steps, and its identities."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from ovseg_models.encoding import Regions
from ovseg_models.one_pass import OnePass
from ovseg_models.proposal_presets import build_proposal_net
from ovseg_models.segmenter import Segmenter
from ovseg_models.word_tokenizer import WordTokenizer
from tests.tiny_segmenter import CLASS_NAMES, PROPOSAL_NET, picture, tiny_segmenter

CLIP_MEAN = 255 * torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
CLIP_STD = 255 * torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]


class Twin:
    """Steps 1 to 13 in loops, one crop at a time and one class at a time, without any of the segmenter's parts."""

    def __init__(self, segmenter: Segmenter, image: np.ndarray, class_names):
        self.segmenter, self.settings = segmenter, segmenter.settings
        self.own_size = image.shape[:2]
        self.pixels = self.resized(image)
        self.text = self.text_rows(class_names)
        self.masks = self.propose()
        self.crops, self.patch_mask, self.clip_logits = [], [], []
        self.valid = torch.stack([(mask > self.settings.mask_threshold).any() for mask in self.masks])
        for mask in self.masks[self.valid]:
            self.see(mask > self.settings.mask_threshold)

    def resized(self, image):
        height, width = image.shape[:2]
        scale = self.settings.short_side_px / min(height, width)
        new = [side * scale for side in (height, width)]
        if max(new) > self.settings.max_side_px:
            new = [side * self.settings.max_side_px / max(new) for side in new]
        new_height, new_width = (int(side + 0.5) for side in new)
        pil = Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(pil)).permute(2, 0, 1).float()

    def text_rows(self, class_names):
        rows = []
        for name in class_names:
            sentences = [template.format(name) for template in self.settings.prompt_templates]
            each = self.segmenter.clip.clip.encode_text(self.segmenter.tokenizer(sentences))
            rows.append(functional.normalize(functional.normalize(each, dim=1).mean(dim=0), dim=0))
        return torch.stack(rows)

    def propose(self):
        net = self.segmenter.proposal_net
        mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
        std = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
        _, height, width = self.pixels.shape
        padded = torch.zeros(1, 3, math.ceil(height / 32) * 32, math.ceil(width / 32) * 32)
        padded[0, :, :height, :width] = (self.pixels - mean) / std
        output = net(padded)
        self.mask_logits = output.mask_logits[0]
        no_object = net.no_object_embedding / net.no_object_embedding.norm()
        self.proposal_logits = 100 * output.proposal_embeddings[0] @ torch.cat([self.text, no_object]).T
        upsampled = functional.interpolate(
            self.mask_logits[None], size=padded.shape[2:], mode="bilinear", align_corners=False
        )
        return upsampled[0, :, :height, :width].sigmoid()

    def see(self, mask):
        rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        window = (..., slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        fill = 255 * torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
        region = self.pixels[window] * mask[window] + (~mask[window]) * fill
        region = (region - CLIP_MEAN) / CLIP_STD
        clip = self.segmenter.clip
        side, patch = clip.crop_px, clip.patch_px
        crop = functional.interpolate(region[None], size=(side, side), mode="bicubic", align_corners=False)
        seen = functional.interpolate(mask[window][None, None].float(), size=(side, side), mode="nearest")
        patches = functional.avg_pool2d(seen, patch).ceil().flatten()
        feature = self.vision_transformer(crop, patches if self.settings.use_mask_prompts else None)
        self.crops.append(crop[0])
        self.patch_mask.append(patches.bool())
        self.clip_logits.append(100 * functional.normalize(feature, dim=0) @ self.text.T)

    def vision_transformer(self, crop, patches):
        visual, prompts = self.segmenter.clip.clip.visual, self.segmenter.clip.mask_prompts
        if patches is None or prompts is None:
            return visual(crop)[0]
        tokens = visual.conv1(crop).flatten(2)[0].T
        for index in range(len(tokens)):
            tokens[index] = tokens[index] * patches[index] + prompts[0, index] * (1 - patches[index])
        tokens = torch.cat([visual.class_embedding[None], tokens]) + visual.positional_embedding
        tokens = visual.ln_pre(tokens)[None]
        for depth, block in enumerate(visual.transformer.resblocks):
            if 1 <= depth < len(prompts):
                for index in range(len(patches)):
                    if not patches[index]:
                        tokens[0, 1 + index] = prompts[depth, index]
            tokens = block(tokens)
        return (visual.ln_post(tokens[:, 0]) @ visual.proj)[0]

    def query_scores(self):
        weight = self.settings.ensemble_weight
        scores = self.proposal_logits.softmax(dim=1)[:, :-1] ** (1 - weight)
        row = 0
        for query in range(len(scores)):
            if self.valid[query]:
                scores[query] *= self.clip_logits[row].softmax(dim=0) ** weight
                row += 1
            elif weight == 1:
                scores[query] = 0
        return scores

    def fused(self):
        fused = torch.einsum("qc,qhw->chw", self.query_scores(), self.masks)
        return functional.interpolate(fused[None], size=self.own_size, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({}, (50, 70)),
        ({"ensemble_weight": 0}, (50, 70)),
        ({"ensemble_weight": 1.0, "mask_threshold": 0.9999}, (33, 100)),
        ({"use_mask_prompts": False, "short_side_px": 40}, (128, 64)),
        ({"prompt_depth": 0, "mask_threshold": 0.8}, (64, 64)),
        ({"short_side_px": 64, "max_side_px": 70}, (10, 90)),
    ],
)
@torch.no_grad()
def test_branches_scores_and_labels_equal_the_twins(settings, size):
    segmenter = tiny_segmenter(**settings)
    image = picture(*size)
    twin = Twin(segmenter, image, CLASS_NAMES)
    branches = segmenter.branches(image, CLASS_NAMES)
    assert torch.equal(branches.valid, twin.valid)
    assert branches.valid.any()
    expected = {
        "proposal_logits": twin.proposal_logits,
        "mask_logits": twin.mask_logits,
        "crops": torch.stack(twin.crops),
        "patch_mask": torch.stack(twin.patch_mask),
        "clip_logits": torch.stack(twin.clip_logits),
    }
    torch.testing.assert_close({name: branches[name] for name in expected}, expected, atol=1e-4, rtol=1e-4)
    scores = segmenter.scores(image, CLASS_NAMES)
    torch.testing.assert_close(scores, twin.fused(), atol=1e-5, rtol=1e-4)
    segmentation = segmenter.segment(image, CLASS_NAMES)
    best = twin.fused().topk(2, dim=0)
    clear = best.values[0] - best.values[1] > 1e-4
    assert clear.float().mean() > 0.8
    assert torch.equal(segmentation.label_map[clear], best.indices[0][clear])


def test_the_tiny_nets_find_something_to_tell_apart():
    """Else the tests here would compare constants."""
    segmenter = tiny_segmenter(mask_threshold=0.99995)
    branches = segmenter.branches(picture(), CLASS_NAMES)
    assert 1 < int(branches.valid.sum()) < 9
    assert 0.05 < tiny_segmenter().branches(picture(), CLASS_NAMES).patch_mask.float().mean() < 0.99
    assert branches.clip_logits.std(dim=0).min() > 0.1


def test_branches_can_be_named_like_a_dict():
    branches = tiny_segmenter().branches(picture(), CLASS_NAMES)
    assert list(dict(branches)) == ["proposal_logits", "mask_logits", "valid", "crops", "patch_mask", "clip_logits"]
    assert branches["valid"] is branches.valid


def close_all_masks(segmenter, but_rows=()):
    """Have the net's mask logits say "no pixel" for each query but some."""
    forward = segmenter.proposal_net.forward

    def closed(images, **options):
        output = forward(images, **options)
        for row in range(output.mask_logits.shape[1]):
            output.mask_logits[:, row] = -20.0
            if row in but_rows:
                output.mask_logits[:, row, 2:5, 3:6] = 20.0
        return output

    segmenter.proposal_net.forward = closed
    return segmenter


@pytest.mark.parametrize("weight", [0.0, 0.7, 1.0])
@torch.no_grad()
def test_without_a_valid_mask_the_proposal_net_decides(weight):
    segmenter = close_all_masks(tiny_segmenter(ensemble_weight=weight))
    twin = Twin(segmenter, picture(), CLASS_NAMES)
    assert segmenter.branches(picture(), CLASS_NAMES).clip_logits.shape == (0, 5)
    torch.testing.assert_close(segmenter.scores(picture(), CLASS_NAMES), twin.fused())
    segmentation = segmenter.segment(picture(), CLASS_NAMES)
    assert all(row.clip_prob is None and row.area_px == 0 for row in segmentation.masks)
    assert segmenter.find(picture(), CLASS_NAMES).label_map.unique().tolist() == [-1]


@torch.no_grad()
def test_one_valid_mask_is_like_any_other():
    segmenter = close_all_masks(tiny_segmenter(), but_rows=(4,))
    twin = Twin(segmenter, picture(), CLASS_NAMES)
    torch.testing.assert_close(segmenter.scores(picture(), CLASS_NAMES), twin.fused())
    rows = segmenter.segment(picture(), CLASS_NAMES).masks
    assert [row.query for row in rows if row.clip_prob is not None] == [4]


def test_a_batch_equals_its_images_alone_whatever_their_sizes():
    segmenter = tiny_segmenter()
    images = [picture(50, 70, 1), picture(64, 64, 2), picture(50, 70, 3), picture(48, 66, 4)]
    for together, image in zip(segmenter.segment(images, CLASS_NAMES), images, strict=True):
        alone = segmenter.segment(image, CLASS_NAMES)
        torch.testing.assert_close(together.query_scores, alone.query_scores, atol=1e-5, rtol=1e-4)
        assert (together.label_map == alone.label_map).float().mean() > 0.999


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_the_chunk_of_crops_changes_no_result(chunk):
    expected = tiny_segmenter().scores(picture(), CLASS_NAMES)
    torch.testing.assert_close(tiny_segmenter(clip_chunk=chunk).scores(picture(), CLASS_NAMES), expected)


def test_scores_are_what_the_labels_are_the_best_of():
    segmenter = tiny_segmenter()
    with_scores = segmenter.segment(picture(), CLASS_NAMES, return_scores=True)
    assert with_scores.scores.shape == (5, 50, 70)
    assert torch.equal(with_scores.scores.argmax(dim=0), with_scores.label_map)
    without = segmenter.segment(picture(), CLASS_NAMES)
    assert without.scores is None
    assert torch.equal(without.label_map, with_scores.label_map)


def test_other_names_reuse_what_was_encoded(monkeypatch):
    segmenter = tiny_segmenter()
    encoded = segmenter.encode(picture())
    expected = segmenter.segment(picture(), ["boat", "sky"])

    def fail(*_, **__):
        raise AssertionError("a net was run again")

    monkeypatch.setattr(segmenter.proposal_net, "forward", fail)
    monkeypatch.setattr(segmenter.clip, "encode_image", fail)
    assert torch.equal(segmenter.classify(encoded, ["boat", "sky"]).label_map, expected.label_map)
    assert torch.equal(segmenter.segment(encoded, ["boat", "sky"]).label_map, expected.label_map)
    assert segmenter.find(encoded, ["boat"]).class_names == ("boat", "others")


def test_at_weight_0_clip_does_not_run_before_it_is_asked(monkeypatch):
    segmenter, runs = tiny_segmenter(ensemble_weight=0.0), []
    encode_image = segmenter.clip.encode_image
    monkeypatch.setattr(
        segmenter.clip, "encode_image", lambda *given, **how: runs.append(given) or encode_image(*given, **how)
    )
    found = segmenter.segment(picture(), CLASS_NAMES)
    segmenter.find(found.encoded, ["boat"])
    assert not runs
    as_ensemble = tiny_segmenter().segment(picture(), CLASS_NAMES)
    assert torch.equal(found.clip_probs, as_ensemble.clip_probs)
    assert runs
    assert sum(row.clip_prob is not None for row in found.masks) == len(found.clip_probs) > 0


@pytest.mark.parametrize(("weight", "warnings"), [(0.7, 0), (1.0, 1)])
def test_without_any_valid_mask_the_net_decides_alone_and_clip_alone_says_that_it_cannot(weight, warnings, caplog):
    segmenter = tiny_segmenter(ensemble_weight=weight)
    encoded = segmenter.encode(picture())
    none = Regions(encoded.image_embeddings[:0], torch.zeros_like(encoded.valid))
    nothing = replace(encoded, embed=lambda _: none)
    assert not nothing.regions.valid.any()
    labels = segmenter.classify(nothing, CLASS_NAMES).label_map
    found = [record.getMessage() for record in caplog.records if "CLIP sees nothing" in record.getMessage()]
    assert len(found) == warnings
    assert all("mask_threshold 0.5 and ensemble_weight is 1" in message for message in found)
    scores = segmenter.classify(nothing, CLASS_NAMES).proposal_probs ** (1 - weight) * (weight < 1)
    expected = torch.einsum("qc,qhw->chw", scores, encoded.mask_probs())
    resized = functional.interpolate(expected[None], encoded.size, mode="bilinear")[0]
    assert torch.equal(labels, resized.argmax(dim=0))
    assert (len(labels.unique()) == 1) == (weight == 1)


def test_the_table_of_masks_agrees_with_masks_and_branches():
    segmenter = tiny_segmenter(mask_threshold=0.99995)
    segmentation = segmenter.segment(picture(), CLASS_NAMES)
    branches = segmenter.branches(picture(), CLASS_NAMES)
    masks = segmentation.hard_masks()
    assert masks.shape == (9, 50, 70)
    clip_probs = iter(branches.clip_logits.softmax(dim=1))
    proposal_probs_of_rows = branches.proposal_logits.softmax(dim=1)
    for row, mask, proposal_probs in zip(segmentation.masks, masks, proposal_probs_of_rows, strict=True):
        assert row.area_px == int(mask.sum())
        if row.area_px:
            left, top, right, bottom = row.box_xyxy
            assert mask[top:bottom, left:right].sum() == mask.sum()
            assert mask[top, :].any()
            assert mask[bottom - 1, :].any()
            assert mask[:, left].any()
            assert mask[:, right - 1].any()
        assert row.class_name == CLASS_NAMES[row.class_index]
        assert row.proposal_prob == pytest.approx(float(proposal_probs[row.class_index]), abs=1e-5)
        if branches.valid[row.query]:
            clip_prob = float(next(clip_probs)[row.class_index])
            assert row.clip_prob == pytest.approx(clip_prob, abs=1e-5)
            assert row.score == pytest.approx(row.proposal_prob**0.3 * clip_prob**0.7, rel=1e-3)
        else:
            assert row.clip_prob is None
            assert row.score == pytest.approx(row.proposal_prob**0.3, rel=1e-3)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_query_mode_takes_any_weight_and_any_number_of_names(weight):
    segmenter = tiny_segmenter(ensemble_weight=weight, mask_threshold=0.99995)
    for names in (["cat"], ["cat", "dog"], CLASS_NAMES):
        found = segmenter.find(picture(), names)
        labels = found.label_map
        assert labels.shape == (50, 70)
        assert -1 in labels
        for index, query in enumerate(found.found_queries.tolist()):
            assert (query == -1) == (found.class_names[index] == "others")
            covered = found.hard_masks()[query]
            assert query == -1 or (covered | (labels != index)).float().mean() > 0.97
    assert segmenter.find(picture(), ["cat"], min_score=1.01).label_map.unique().tolist() == [-1]


def test_every_kind_of_image_is_taken(tmp_path):
    segmenter = tiny_segmenter()
    array = picture()
    Image.fromarray(array).save(tmp_path / "image.png")
    expected = segmenter.scores(array, CLASS_NAMES)
    for image in (Image.fromarray(array), tmp_path / "image.png", str(tmp_path / "image.png")):
        assert torch.equal(segmenter.scores(image, CLASS_NAMES), expected)
    for mode in ("L", "CMYK", "RGBA"):
        assert segmenter.segment(Image.fromarray(array).convert(mode), CLASS_NAMES).label_map.shape == (50, 70)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 2)])
def test_the_smallest_and_longest_images_work(size):
    assert tiny_segmenter().segment(picture(*size), ["cat"]).label_map.shape == size


def test_the_overlay_shows_the_image_with_a_legend():
    overlay = tiny_segmenter().segment(picture(200, 300), CLASS_NAMES).overlay()
    assert overlay.width == 300
    assert overlay.height > 200


def test_one_class_labels_everything():
    assert tiny_segmenter().segment(picture(), ["cat"]).label_map.unique().tolist() == [0]


def test_without_a_word_list_open_clips_tokenizer_is_used():
    segmenter = tiny_segmenter()
    assert isinstance(segmenter.tokenizer, WordTokenizer)
    segmenter.clip.clip.token_embedding = torch.nn.Embedding(49408, 8)
    plain = Segmenter(segmenter.proposal_net, segmenter.clip)
    assert plain.text_embeddings(["ukulele"]).shape == (1, 16)


@pytest.mark.usefixtures("without_shape_checks")
def test_one_string_of_names_no_name_and_one_name_twice_are_refused():
    with pytest.raises(TypeError, match=r"found one string 'cat', a list is expected; write \['cat'\]"):
        tiny_segmenter().segment(picture(), "cat")
    with pytest.raises(ValueError, match="there are no class names"):
        tiny_segmenter().segment(picture(), [])
    for method in (tiny_segmenter().segment, tiny_segmenter().find, tiny_segmenter().scores):
        with pytest.raises(ValueError, match="found 'cat' 2 times, each name once is expected"):
            method(picture(), ["cat", "cat "])


@pytest.mark.parametrize("length", ["equal", "other"])
def test_a_net_of_another_space_proposes_and_clip_alone_names(length, tmp_path, caplog):
    own = tiny_segmenter(ensemble_weight=1.0)
    parts = {"clip": own.clip, "tokenizer": own.tokenizer}
    net = own.proposal_net
    if length == "other":
        net = build_proposal_net(**{**PROPOSAL_NET, "embedding_dim": 12}).eval()
        kept = {name: tensor for name, tensor in own.proposal_net.state_dict().items() if "embedding" not in name}
        net.load_state_dict(kept, strict=False)
    settings = replace(own.settings, ensemble_weight=0.7)
    foreign = Segmenter(net, **parts, settings=settings, same_space=False)
    assert "trained with another CLIP" in caplog.text
    assert "1 in place of 0.7" in caplog.text
    foreign.save(tmp_path / "foreign")
    for segmenter in (foreign, Segmenter.load(tmp_path / "foreign", ensemble_weight=0.3)):
        assert not segmenter.same_space
        assert segmenter.settings.ensemble_weight == 1
        found, expected = (each.segment(picture(), CLASS_NAMES, return_scores=True) for each in (segmenter, own))
        assert torch.equal(found.scores, expected.scores)  # the masks are the same, and so is CLIP
        assert torch.equal(found.proposal_probs, torch.full_like(found.proposal_probs, 1 / len(CLASS_NAMES)))
        branches = segmenter.branches(picture(), CLASS_NAMES)
        assert branches.proposal_logits.shape == (9, len(CLASS_NAMES) + 1)
        assert not branches.proposal_logits.any()


def test_the_api_refuses_a_name_without_a_known_word_everywhere():
    segmenter = tiny_segmenter()
    for use in (segmenter.segment, segmenter.find, segmenter.scores, segmenter.branches):
        with pytest.raises(ValueError, match=r"knows no word of \['excavator'\]"):
            use(picture(), ["cat", "excavator"])
    assert segmenter.find(picture(), ["cat"]).class_names == ("cat", "others")


@torch.no_grad()
def test_one_pass_embeds_the_proposals_as_by_hand_and_any_masks_later(monkeypatch):
    segmenter = tiny_segmenter(namer="one-pass", mask_threshold=0.4)
    passes, original = [], OnePass.features
    monkeypatch.setattr(OnePass, "features", lambda *given: passes.append(1) or original(*given))
    encoded = segmenter.encode(picture())
    one_pass = OnePass(segmenter.clip)
    pixels = segmenter._net_pixels(Image.fromarray(picture()))
    masks = encoded.hard_masks()
    features = original(one_pass, one_pass.resized(pixels)[None])
    expected = one_pass.embed(features, one_pass.filled(masks[masks.flatten(1).any(1)])[None])[0]
    torch.testing.assert_close(encoded.image_embeddings, expected, atol=1e-6, rtol=0)
    crops = tiny_segmenter(mask_threshold=0.4)
    assert torch.equal(encoded.valid, crops.encode(picture()).valid)  # both leave out the masks without a pixel
    own = torch.zeros(3, *encoded.net_size, dtype=torch.bool)
    own[0], own[2, 5:9, 5:9] = True, True
    found = encoded.embed(own)
    assert found.valid.tolist() == [True, False, True]
    torch.testing.assert_close(found.embeddings[:1], one_pass.picture_embeddings(features), atol=1e-5, rtol=0)
    assert segmenter.segment(encoded, CLASS_NAMES).label_map.shape == (50, 70)
    assert segmenter.find(encoded, ["cat"]).label_map.shape == (50, 70)
    assert len(passes) == 1  # whatever masks and names there were
    branches = segmenter.branches(picture(), CLASS_NAMES)
    clip_logits = segmenter.clip.class_logits(expected, segmenter.text_embeddings(CLASS_NAMES))
    torch.testing.assert_close(branches.clip_logits, clip_logits, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_folder_remembers_its_namer_and_one_of_crops_says_nothing_of_it(tmp_path):
    sizes = {"picture_side_px": 32, "window_stride_px": 8}
    tiny_segmenter(namer="one-pass", **sizes).save(tmp_path / "one-pass")
    tiny_segmenter().save(tmp_path / "crops")
    loaded = Segmenter.load(tmp_path / "one-pass")
    assert (loaded.settings.namer, loaded.settings.picture_side_px) == ("one-pass", 32)
    assert (loaded.namer.side_px, loaded.namer.grid) == (32, (8, 8))
    written = json.loads((tmp_path / "crops" / "segmenter.json").read_text())["settings"]
    assert not {"namer", "picture_side_px", "window_stride_px"} & written.keys()
    chosen = Segmenter.load(tmp_path / "crops", namer="one-pass")
    first, second = (model.segment(picture(), CLASS_NAMES).label_map for model in (chosen, tiny_segmenter()))
    assert first.shape == second.shape
    with pytest.raises(ValueError, match="namer"):
        Segmenter.load(tmp_path / "crops", namer="masks")
    with pytest.raises(ValueError, match="side is 30 px, a multiple of its patches' 4 px"):
        Segmenter.load(tmp_path / "crops", namer="one-pass", picture_side_px=30)
