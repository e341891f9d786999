"""The metric of stage 3: every labelled region counts once, as one masked crop."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from ovseg_models.masked_crops import masked_crops, patch_mask
from ovseg_models.preprocessing import CropFormat
from pipeline.drawn_world.words import NOUNS
from pipeline.errors import StageError
from pipeline.finetune import validation as module
from pipeline.finetune.task import ImageSide, accuracies
from pipeline.finetune.validation import Validation, seen_groups
from pipeline.trained_nets import new_mask_adapted_clip
from pipeline.training.processes import Processes
from storage_schemas.scene_collection import SceneCollection
from storage_schemas.scenes import Scene
from tests.pipeline.finetune.finetune_run import small_settings
from tests.pipeline.planned import prepare_scenes, scenes_of
from tests.tiny_clip import tiny_loaded_clip

SIDE, PATCH = 16, 4


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> Validation:
    runs = tmp_path_factory.mktemp("runs")
    settings = small_settings(runs, runs)
    prepare_scenes(settings, ["scenes"])
    texts = functional.normalize(torch.randn(len(NOUNS), 16, generator=torch.Generator().manual_seed(0)), dim=1)
    scenes = SceneCollection(scenes_of(settings, "scenes"), labelled=True)
    return Validation(scenes, texts, {"seen": (0, 1), "unseen": (2,)}, CropFormat(SIDE, PATCH))


@pytest.fixture(scope="module")
def image_side() -> ImageSide:
    adapted = new_mask_adapted_clip(tiny_loaded_clip(), prompt_depth=2, prompt_seed=0)
    return ImageSide(adapted, uses_prompts=True).eval()


@torch.no_grad()
def naive(validation: Validation, image_side: ImageSide) -> dict[int, list[bool]]:
    """Name one region at a time; return by class which ones were named rightly."""
    named: dict[int, list[bool]] = {}
    for number in range(len(validation.scenes)):
        scene = validation.scenes.read(number)
        pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(scene.image)))).permute(2, 0, 1)
        label_map = np.asarray(Image.open(io.BytesIO(scene.label_png)))
        for label in np.unique(label_map[label_map != 255]).tolist():
            cut = masked_crops(pixels, torch.from_numpy(label_map == label)[None], crop_px=SIDE)
            (embedding,) = image_side(cut.crops, patch_mask(cut.crop_masks, PATCH))
            named.setdefault(label, []).append(int((validation.text_embeddings @ embedding).argmax()) == label)
    return named


@pytest.mark.parametrize("at_once", [1, 3, 256])
def test_counts_equal_one_region_at_a_time(
    validation: Validation, image_side: ImageSide, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(module, "_CROPS_PER_FORWARD", at_once)
    expected = naive(validation, image_side)
    counts = validation.counts(image_side, range(len(validation.scenes)))
    assert sum(map(len, expected.values())) > 8
    for label in range(len(NOUNS)):
        assert counts.crops[label] == len(expected.get(label, []))
        assert counts.top1[label] == sum(expected.get(label, []))


def test_processes_that_share_the_scenes_count_each_once(validation: Validation, image_side: ImageSide) -> None:
    every = range(len(validation.scenes))
    parts = [validation.counts(image_side, every[rank::3]).stacked() for rank in range(3)]
    torch.testing.assert_close(sum(parts), validation.counts(image_side, every).stacked(), rtol=0, atol=0)
    figures = accuracies(validation, image_side, Processes(0, 1, torch.device("cpu")))
    assert set(figures) == {"top1", "top5", "macro", "macro_seen", "macro_unseen"}


def test_groups_are_those_of_the_marks_where_both_occur() -> None:
    assert seen_groups(["seen", "uncertain", "unseen", "seen"]) == {"seen": (0, 3), "unseen": (2,)}
    assert seen_groups(["seen", "seen"]) == seen_groups([]) == {}


@pytest.mark.parametrize("part", ["image", "label_png"])
def test_a_scene_that_cannot_be_decoded_is_named(validation: Validation, image_side: ImageSide, part: str) -> None:
    class Damaged:
        def read(self, number: int) -> Scene:
            return dataclasses.replace(validation.scenes.read(number), **{part: b"\x89PNG\r\n\x1a\nno more"})

        def place(self, number: int) -> tuple[str, str]:
            return validation.scenes.place(number)

    damaged = dataclasses.replace(validation, scenes=Damaged())
    key = validation.scenes.place(1)[1]
    with pytest.raises(StageError, match=rf"scene {key} cannot be decoded: .*; run 'ovseg prepare' again"):
        damaged.counts(image_side, [1])
