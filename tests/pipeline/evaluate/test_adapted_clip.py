"""Evaluating with an adapted CLIP: its prompts are used, its absence is reported, other modes are compared."""

import numpy as np
import pytest
import torch

from ovseg_models import encoding
from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.prompt_templates import VILD
from ovseg_models.segmenter import Segmenter
from ovseg_models.segmenter_settings import SegmenterSettings
from pipeline.bundle import bundle
from pipeline.clip_loading import load_clip
from pipeline.dataflow import dataflow
from pipeline.errors import PipelineError
from pipeline.evaluate.score import class_names_of, net_sources
from pipeline.graph import MissingInputError
from pipeline.settings import Settings
from pipeline.stages import run
from pipeline.text_side import TemplateWeights, TextPrompts
from pipeline.trained_nets import (
    load_adapted_clip,
    load_proposal_net,
    new_mask_adapted_clip,
    stock_mask_adapted_clip,
    write_adapted_clip,
)
from storage_schemas.reports import read_numbers
from tests.pipeline.evaluate.small_world import scores_on, settings_of, small_net, write_net
from tests.pipeline.evaluate.test_jobs import images_of, predictions_of
from tests.pipeline.evaluate.test_weight_choice import mined
from tests.pipeline.planned import artifact_of, prepare_scenes


def adapted_settings(runs, mode: str = "mpt", *, clip: str = "adapted", **evaluate_settings) -> Settings:
    """Settings whose pairs are there, and whose proposal net is random."""
    settings = settings_of(runs, clip=clip, **evaluate_settings)
    prepare_scenes(settings, ["drawn"])
    net = artifact_of(settings, "proposal_net")
    if not net.status().finished:
        write_net(net, small_net())
    pairs, _ = mined(runs)
    section = settings.finetune.model_copy(update={"mode": mode, "pairs_dir": str(pairs.directory), "prompt_depth": 2})
    return settings.model_copy(update={"finetune": section})


def write_adapted(settings: Settings, seed: int) -> MaskAdaptedClip:
    """Write random prompts, and for FT a shifted image tower, as the adapted CLIP of the settings."""
    base = load_clip(settings.clip)
    adapted = new_mask_adapted_clip(base, prompt_depth=2 if "mpt" in settings.finetune.mode else 0, prompt_seed=seed)
    if adapted.mask_prompts is not None:
        adapted.mask_prompts.data.mul_(60)
    if "ft" in settings.finetune.mode:
        adapted.clip.visual.ln_post.weight.data.mul_(-1)
    artifact = artifact_of(settings, "adapted_clip")
    with artifact.writing():
        others = {}
        for unit in set(artifact.description.units) - {"image_tower", "mask_prompts"}:
            with artifact.write_unit(unit) as writer:
                writer.file("md").write(b"none")
                others[unit] = writer.commit(rows=0, counts={})
        write_adapted_clip(artifact, adapted, base, {}, written=others)
    return load_adapted_clip(artifact, base)


def test_predictions_are_those_of_a_segmenter_with_that_clip(tmp_path, monkeypatch):
    cut, calls = encoding.masked_crops_of_pictures, []
    monkeypatch.setattr(
        encoding, "masked_crops_of_pictures", lambda *given, **how: calls.append(1) or cut(*given, **how)
    )
    settings = adapted_settings(tmp_path)
    adapted = write_adapted(settings, seed=1)
    report = run("evaluate", settings)
    measured = len(calls)
    assert measured > 0  # evaluation embeds regions by the segmenter's own code
    scores = scores_on(report, "drawn")
    net = load_proposal_net(artifact_of(settings, "proposal_net"))
    segmenter = Segmenter(
        net,
        adapted,
        tokenizer=load_clip(settings.clip).words,
        settings=SegmenterSettings(short_side_px=64, max_side_px=128),
    )
    predictions = predictions_of(scores)
    names = scores.description.attributes["class_names"]
    (scenes,) = (tmp_path / "scenes").iterdir()
    for scene in images_of(scores.open(scenes)):
        assert np.array_equal(predictions[scene.key], segmenter.segment(scene.image, names).label_map.numpy())
    assert len(calls) == 2 * measured
    original = settings.evaluate.model_copy(update={"clip": "original"})
    baseline = run("evaluate", settings.model_copy(update={"evaluate": original}))
    others = predictions_of(scores_on(baseline, "drawn"))
    assert any(not np.array_equal(others[key], predictions[key]) for key in predictions)
    assert baseline.artifact.directory != report.artifact.directory


def test_the_ablation_compares_modes_and_switches_prompts_off(tmp_path):
    sweep = {"ensemble_weights": [0.7], "mask_thresholds": [0.5], "finetune_modes": ["ft"]}
    settings = adapted_settings(tmp_path, sweep=sweep)
    write_adapted(settings, seed=1)
    with pytest.raises(MissingInputError, match=r"run 'ovseg finetune --set finetune\.mode=ft' first"):
        run("evaluate", settings, ablate=True)
    write_adapted(adapted_settings(tmp_path, mode="ft"), seed=2)
    report = run("evaluate", settings, ablate=True)
    (drawn,) = read_numbers(report.artifact)["datasets"]
    miou = {variant["name"]: variant["metrics"]["miou"] for variant in drawn["variants"]}
    assert miou["ensemble"] == miou["adapted-ensemble"] != miou["no-mask-prompts"]
    assert len({miou[f"{clip}-clip-only"] for clip in ("adapted", "ft", "original")}) == 3
    assert miou["no-mask-prompts"] == miou["original-ensemble"]  # MPT leaves CLIP's own weights as they are
    assert {"scenes", "proposal_net", "adapted", "ft", "clip", "scores"} == set(drawn["digests"])


def test_a_clip_that_is_not_adapted_yet_is_reported(tmp_path):
    with pytest.raises(MissingInputError, match="is not finished; run 'ovseg finetune' first"):
        run("evaluate", adapted_settings(tmp_path))


@pytest.mark.parametrize("mode", ["psm", "text"])
def test_what_was_trained_of_the_text_side_names_the_classes(tmp_path, mode):
    settings = adapted_settings(tmp_path, mode=mode)
    base = load_clip(settings.clip)
    rng = np.random.default_rng(0)
    if mode == "psm":
        scale = float(base.clip.logit_scale.detach().exp())
        text_side = TemplateWeights(VILD, rng.uniform(0.5, 2, len(VILD)).astype(np.float32), scale)
    else:
        width = base.clip.token_embedding.embedding_dim
        text_side = TextPrompts(rng.normal(size=(2, width)).astype(np.float32))
    artifact = artifact_of(settings, "adapted_clip")
    with artifact.writing():
        with artifact.write_unit("report") as writer:
            writer.file("md").write(b"none")
            written = {"report": writer.commit(rows=0, counts={})}
        write_adapted_clip(artifact, stock_mask_adapted_clip(base), base, {}, text_side=text_side, written=written)
    node = dataflow(settings).of_kind("scores")[0]
    nets = net_sources(node, settings.evaluate, settings.compute, class_names_of(node)).open()
    names, cpu = class_names_of(node), nets.device
    if mode == "psm":
        expected = text_side.class_vectors(base, names, VILD, cpu) * (text_side.scale / 100)
    else:
        expected = text_side.class_vectors(base, names, cpu)
    found = nets.class_vectors("adapted")
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-6)
    assert not np.allclose(found.numpy(), nets.text_embeddings.numpy(), atol=1e-2)
    np.testing.assert_allclose(nets.vectors_of("adapted", names[1:3]).numpy(), expected[1:3].numpy(), atol=1e-6)
    np.testing.assert_array_equal(nets.class_vectors("original").numpy(), nets.text_embeddings.numpy())
    if mode == "text":
        with pytest.raises(PipelineError, match=r"lower finetune\.text\.length, or shorten names such as 'boat boat"):
            nets.vectors_of("adapted", [names[0], "boat " * base.clip.context_length])
    run("evaluate", settings)
    with pytest.raises(PipelineError, match=rf"bundle: .* has {text_side.unit} of \d+ rows, .* no place"):
        bundle(settings, tmp_path / "folder")


def test_the_temperature_can_be_the_models_own(tmp_path):
    settings = adapted_settings(tmp_path, temperature="model")
    base = load_clip(settings.clip)
    own = float(base.clip.logit_scale.detach().exp())
    found = {}
    for choice in ("auto", "published", "model"):
        node = dataflow(adapted_settings(tmp_path, temperature=choice, clip="original")).of_kind("scores")[0]
        names = class_names_of(node)
        evaluate = adapted_settings(tmp_path, temperature=choice, clip="original").evaluate
        nets = net_sources(node, evaluate, settings.compute, names).open()
        found[choice] = nets.clip("original").class_logits(nets.text_embeddings[:1], nets.text_embeddings)
        found[choice, "digest"] = node.step.fingerprint(node)["options"]
    torch.testing.assert_close(found["auto"], found["published"])
    torch.testing.assert_close(found["model"], found["published"] * own / 100)
    assert abs(own - 100) > 10
    assert "temperature" not in found["auto", "digest"]  # evaluations from before it was a choice stay
    assert found["model", "digest"]["temperature"] == "model"


def test_a_bundle_names_at_the_temperature_of_the_evaluation(tmp_path):
    settings = adapted_settings(tmp_path, temperature="model")
    write_adapted(settings, seed=1)
    bundle(settings, tmp_path / "folder")
    assert Segmenter.load(tmp_path / "folder").clip.temperature == "model"
    bundle(adapted_settings(tmp_path), tmp_path / "plain")
    assert Segmenter.load(tmp_path / "plain").clip.temperature == "published"
