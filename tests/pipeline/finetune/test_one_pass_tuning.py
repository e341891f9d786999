"""Stage 3 in one pass: what it trains and pays for, pictures that pairs share, kill and resume, and what is stored."""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from ovseg_models.checkpoint_keys.clip import to_ovseg
from ovseg_models.contrastive_loss import contrastive_loss
from ovseg_models.holding_loss import similarity_holding_loss
from ovseg_models.mask_adapted_clip import select_trainable
from ovseg_models.masked_crops import normalised
from ovseg_models.one_pass import OnePass, filled_shares
from ovseg_models.pretrained_clip import build_mask_adapted_clip
from pipeline.clip_loading import load_clip
from pipeline.dataflow import dataflow
from pipeline.errors import PipelineError
from pipeline.finetune.phases import phases_of
from pipeline.finetune.picture_samples import PictureBatch, PictureSamples
from pipeline.finetune.samples import PairSamples
from pipeline.finetune.task import FinetuneTask
from pipeline.settings import FinetuneSettings, Settings
from pipeline.stages import run
from pipeline.trained_nets import load_adapted_clip, new_mask_adapted_clip, stock_mask_adapted_clip
from pipeline.training.data_order import Draw
from pipeline.training.loop import StepContext
from pipeline.training.processes import Processes
from storage_schemas.checkpoints import read_weights
from storage_schemas.pair_collection import PairCollection
from storage_schemas.rle import decode_masks
from storage_schemas.scene_collection import SceneCollection
from tests import forked
from tests.pipeline.finetune.finetune_run import small_settings
from tests.pipeline.finetune.test_finetune import files_of, read_metrics_of
from tests.pipeline.planned import artifact_of
from tests.tiny_clip import tiny_loaded_clip
from tests.tiny_clips import FAMILIES

ALONE = Processes(0, 1, torch.device("cpu"))
BATCH = 12
QUERY = {"epochs": 2, "batch_pairs": 8, "learning_rate": 1e-2, "warmup_steps": 2}


def one_pass_settings(runs: Path, mode: str = "ft", loader_workers: int = 0, **changes: Any) -> Settings:
    """Return settings of a short tuning on pairs of ground-truth masks, whose scenes are prepared and mined here."""
    settings = small_settings(runs, Path(), pairs_dir="", mode=mode, namer="one-pass", query=QUERY, **changes)
    document = settings.model_dump(mode="json")
    document["datasets"]["scenes"] = {"dataset": "drawn-world", "split": "val", "drawn_world": {"scenes": 8}}
    document["mine"] |= {"dataset": "scenes", "source": "masks-classes"}
    document["compute"]["loader_workers"] = loader_workers
    return Settings.model_validate_json(json.dumps(document))


def finetune(runs: Path, *, pause_s: float = 0.0, **changes: Any) -> None:
    """Run stage 3 in a process of its own."""
    if pause_s:
        after_step = FinetuneTask.after_step

        def slowly(task: FinetuneTask) -> None:
            after_step(task)
            time.sleep(pause_s)

        FinetuneTask.after_step = slowly  # type: ignore[method-assign]
    run("finetune", one_pass_settings(runs, **changes))


@pytest.fixture(scope="module")
def mined(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = one_pass_settings(tmp_path_factory.mktemp("mined"))
    run("mine", settings)
    return settings


def task_of(mined: Settings, mode: str, **changes: Any) -> FinetuneTask:
    graph = dataflow(mined)
    settings = FinetuneSettings.model_validate({"mode": mode, "namer": "one-pass", "query": QUERY, **changes})
    base, collection = tiny_loaded_clip(), PairCollection(graph.only("pairs").artifact)
    adapted = new_mask_adapted_clip(base, prompt_depth=0, mask_queries=mode == "query").train()
    one_pass, form = OnePass(adapted), settings.holding.form
    original = stock_mask_adapted_clip(base) if form != "none" else None
    if original is not None:
        with torch.no_grad():  # as if some training had moved the tower
            adapted.clip.visual.ln_post.weight.mul_(torch.linspace(0.5, 1.5, len(adapted.clip.visual.ln_post.weight)))
    with torch.no_grad():
        texts = adapted.encode_text(base.tokenize(collection.nouns))
    return FinetuneTask(
        adapted=adapted,
        one_pass=one_pass,
        original=original,
        original_one_pass=None if original is None else OnePass(original),
        holding=settings.holding if original is not None else None,
        phase=phases_of(settings)[0],
        samples=PictureSamples(
            crops=PairSamples(collection, 0.9, 4 / 3, 0, adapted.crop, with_unmasked=form == "embeddings"),
            scenes=SceneCollection(graph.scenes("scenes").artifact),
            side_px=one_pass.side_px,
            grid=one_pass.grid,
        ),
        noun_embeddings=texts,
        loss="contrastive",
        train_logit_scale=True,
        validation=None,
        processes=ALONE,
    )


def batch_of(task: FinetuneTask, epoch: int = 0) -> PictureBatch:
    assert isinstance(task.samples, PictureSamples)
    return task.samples.batch([Draw(epoch, number) for number in range(BATCH)])


def gradients(task: FinetuneTask, parts: int = 1) -> tuple[dict[str, float], dict[str, Tensor]]:
    task.optimizer()  # chooses what is trained
    task.model.zero_grad(set_to_none=True)
    step = StepContext(ALONE, parts, torch.amp.GradScaler("cpu", enabled=False), None)
    terms = task.backward(task.model, batch_of(task), step)
    named = task.adapted.named_parameters()
    return (
        {name: term.item() for name, term in terms.items()},
        {name: value.grad for name, value in named if value.grad is not None},
    )


def test_a_picture_of_several_pairs_is_there_once_and_any_number_of_them_gives_the_same(mined: Settings) -> None:
    task = task_of(mined, "ft")
    batch, pairs = batch_of(task), task.samples.pairs
    keys = pairs.pictures[:BATCH]
    assert len(batch.pictures) == len(set(keys)) < BATCH
    for row, key in enumerate(keys):
        alone = task.samples.batch([Draw(0, row)])
        assert torch.equal(alone.pictures[0], batch.pictures[batch.picture_of[row]]), key
        assert torch.equal(alone.filled[0], batch.filled[row])
    assert torch.equal(batch.by_picture()[batch.picture_of, batch.place], batch.filled)
    part = batch.part(3, 7)
    assert part.numbers.tolist() == [3, 4, 5, 6]
    assert torch.equal(part.pictures[part.picture_of], batch.pictures[batch.picture_of[3:7]])


def test_without_augmentation_masks_and_pictures_are_those_of_the_scene(mined: Settings) -> None:
    task = task_of(mined, "ft")
    samples = task.samples
    whole = PictureSamples(
        crops=PairSamples(samples.pairs, 1.0, 1.0, 0, task.adapted.crop),
        scenes=samples.scenes,
        side_px=samples.side_px,
        grid=samples.grid,
    )
    batch, region = whole.batch([Draw(0, 5)]), samples.pairs.region(5)
    (mask,) = decode_masks([region.mask_counts], region.height_px, region.width_px)
    assert torch.equal(batch.filled, filled_shares(torch.from_numpy(mask)[None], samples.grid))
    assert region.key == samples.pairs.pictures[5]


@pytest.mark.parametrize("form", ["none", "similarities"])
def test_the_loss_is_that_of_a_naive_twin(mined: Settings, form: str) -> None:
    task = task_of(mined, "ft", holding={"form": form, "weight": 3.0})
    terms, _ = gradients(task)
    batch = batch_of(task)
    # Pair by pair, each with a picture of its own.
    own, whole, before = [], [], []
    for row in range(BATCH):
        picture = normalised(batch.pictures[batch.picture_of[row]])[None]
        features = task.one_pass.features(picture)
        own.append(task.one_pass.embed(features, batch.filled[row][None, None])[0, 0])
        whole.append(task.one_pass.picture_embeddings(features)[0])
        if task.original is not None:
            before.append(task.original.encode_image(picture)[0])
    images, texts = torch.stack(own), task.noun_embeddings[batch.nouns]
    expected = contrastive_loss(images, texts, task.adapted.logit_scale.exp())
    if form == "similarities":
        names = task.noun_embeddings[batch.nouns.unique()]
        held = 3.0 * similarity_holding_loss(torch.stack(whole), torch.stack(before), names)
        assert terms["holding"] == pytest.approx(held.item(), rel=1e-4)
        assert held.item() > 1e-12  # of a random CLIP
        expected = expected + held
    assert terms["loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("mode", "form"), [("ft", "none"), ("ft", "similarities"), ("ft", "embeddings"), ("query", "embeddings")]
)
def test_gradients_reach_what_is_trained_alone_and_parts_change_nothing(mined: Settings, mode: str, form: str) -> None:
    task = task_of(mined, mode, holding={"form": form, "weight": 3.0})
    terms, whole = gradients(task)
    cut_terms, cut = gradients(task, parts=5)
    assert cut_terms == pytest.approx(terms, rel=1e-5)
    trained = "mask_queries." if mode == "query" else "clip.visual."
    expected = {name for name, _ in task.adapted.named_parameters() if name.startswith((trained, "clip.logit_scale"))}
    assert whole.keys() == expected == cut.keys()
    for name, gradient in whole.items():
        assert gradient.abs().sum() > 0, name
        torch.testing.assert_close(cut[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("family", ["EVA02", "EVA01", "OpenAI"])
def test_queries_begin_as_those_of_the_tower(family: str) -> None:
    plain = build_mask_adapted_clip(FAMILIES[family], prompt_depth=0, seed=3)
    asking = build_mask_adapted_clip(FAMILIES[family], prompt_depth=0, seed=3, mask_queries=True)
    assert asking.arguments["mask_queries"] is True
    pictures = torch.randn(2, 3, plain.crop_px, plain.crop_px)
    filled = (torch.rand(2, 4, plain.crop.patches) > 0.5).float()
    embedded = []
    for model in (plain, asking):
        one_pass = OnePass(model)
        embedded.append(one_pass.embed(one_pass.features(pictures), filled))
    torch.testing.assert_close(*embedded, rtol=1e-5, atol=1e-6)


def test_a_tower_that_pools_has_no_queries() -> None:
    model = build_mask_adapted_clip(FAMILIES["SigLIP2"], prompt_depth=0, mask_queries=True)
    with pytest.raises(ValueError, match="pools its last tokens"):
        OnePass(model)
    with pytest.raises(ValueError, match="mask_queries"):
        select_trainable(build_mask_adapted_clip(FAMILIES["SigLIP2"], prompt_depth=0), "query")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"mode": "ft-then-mpt", "namer": "one-pass"}, "mode 'ft-then-mpt'"),
        ({"mode": "query"}, "set namer to 'one-pass'"),
        ({"mode": "ft", "namer": "one-pass", "blank_patches": "dropped"}, "blank_patches"),
        ({"mode": "query", "namer": "one-pass", "holding": {"form": "similarities"}}, "holding.form"),
    ],
)
def test_modes_without_a_meaning_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        FinetuneSettings.model_validate(changes)


def test_settings_of_one_pass_are_in_no_digest_of_crops() -> None:
    step_of = partial(small_settings, Path("runs"), Path("pairs"))
    plain = dataflow(step_of(mode="ft")).only("adapted_clip")
    sized = dataflow(step_of(mode="ft", picture_side_px=64, query={"epochs": 9})).only("adapted_clip")
    assert plain.step.fingerprint(plain) == sized.step.fingerprint(sized)
    assert "scenes" not in plain


@pytest.mark.parametrize("mode", ["ft", "query"])
def test_what_is_written_and_read_back(tmp_path: Path, mode: str) -> None:
    settings = one_pass_settings(tmp_path, mode, validation_dataset="scenes")
    run("mine", settings)
    artifact = run("finetune", settings).artifact
    base = load_clip(settings.clip)
    adapted = load_adapted_clip(artifact, base)
    changed = {
        name
        for name, tensor in adapted.clip.state_dict().items()
        if not torch.equal(tensor, base.clip.state_dict()[name])
    }
    if mode == "query":
        assert artifact.description.units == ("mask_queries", "report")
        assert changed == {"logit_scale"}
        stored = read_weights(artifact, "mask_queries")
        assert stored.keys() == {"mask_queries.weight", "mask_queries.bias", "clip.logit_scale"}
        own = new_mask_adapted_clip(base, prompt_depth=0, mask_queries=True).mask_queries.weight
        assert not torch.equal(adapted.mask_queries.weight, own)
    else:
        assert artifact.description.units == ("image_tower", "report")
        assert "visual.conv1.weight" in changed
        assert all(name.startswith(("visual.", "logit_scale")) for name in changed)
    (card,) = (unit.facts for unit in artifact.manifest().units if unit.unit == "report")
    assert card["options"]["namer"] == "one-pass"
    assert {"macro", "top1"} & card["before"].keys()
    assert len(card["phases"][0]["validation"]) == 2


def test_a_kill_and_workers_change_nothing_and_two_processes_equal_one(tmp_path: Path) -> None:
    settings = {name: one_pass_settings(tmp_path / name) for name in ("whole", "killed", "workers", "both")}
    for each in settings.values():
        run("mine", each)
    whole = run("finetune", settings["whole"]).artifact
    metrics = artifact_of(settings["killed"], "adapted_clip").local_directory / "ft" / "metrics.jsonl"
    process = forked.start(partial(finetune, pause_s=0.1), tmp_path / "killed")
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 4):
        assert process.exitcode is None, "the run ended before the kill"
        time.sleep(0.001)
    forked.kill([process])
    assert files_of(run("finetune", settings["killed"]).artifact) == files_of(whole)
    finetune(tmp_path / "workers", loader_workers=2)
    assert files_of(artifact_of(settings["workers"], "adapted_clip")) == files_of(whole)
    forked.finish(forked.start_group(2, finetune, tmp_path / "both"))
    both = artifact_of(settings["both"], "adapted_clip")
    losses = [[line["loss"] for line in read_metrics_of(artifact, "ft")] for artifact in (whole, both)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    for name, array in read_weights(whole, "image_tower").items():
        np.testing.assert_allclose(read_weights(both, "image_tower")[name], array, atol=2e-4, err_msg=name)


@pytest.mark.parametrize("mode", ["ft", "query"])
def test_a_published_clip_is_tuned_further(mined: Settings, tmp_path: Path, mode: str, caplog: Any) -> None:
    """A file in the published layout, prompts and all: one pass has no place for them, and its tower goes on."""
    adapted = load_clip(mined.clip).mask_adapted(prompt_depth=2, prompt_seed=1)
    with torch.no_grad():
        adapted.clip.visual.ln_post.weight.mul_(1.5)  # as if it had been tuned
    tensors = {**adapted.clip.state_dict(), "visual.mask_embedding": adapted.mask_prompts.detach()}
    save_file(
        {name: tensor.contiguous() for name, tensor in to_ovseg(tensors).items()}, tmp_path / "published.safetensors"
    )
    settings = one_pass_settings(tmp_path, mode=mode)
    clip = settings.clip.model_copy(update={"pretrained": str(tmp_path / "published.safetensors")})
    settings = settings.model_copy(update={"clip": clip})
    for stage in ("mine", "finetune"):
        artifact = run(stage, settings).artifact
    assert "its mask prompts are left out" in caplog.text
    base = load_clip(clip)
    assert torch.equal(base.clip.visual.ln_post.weight, adapted.clip.visual.ln_post.weight)
    tuned = load_adapted_clip(artifact, base)
    same = torch.equal(tuned.clip.visual.proj, base.clip.visual.proj)
    assert same == (mode == "query")
    assert OnePass(tuned).has_mask_tokens


def test_pairs_without_their_pictures_are_refused(mined: Settings, tmp_path: Path) -> None:
    pairs = dataflow(mined).only("pairs").artifact.directory
    settings = small_settings(tmp_path, pairs, mode="ft", namer="one-pass")
    with pytest.raises(PipelineError, match=r"mine\.dataset: a data set is expected, one of scenes"):
        run("finetune", settings)
    other = Settings.model_validate({**settings.model_dump(), "mine": {"dataset": "scenes"}})  # of half as many scenes
    with pytest.raises(PipelineError, match=r"set mine\.dataset to the data set that the pairs were mined from"):
        run("finetune", other)
