"""Recipes of stage 3 beside FT and MPT: what each trains and pays for, how it is cut, stopped and stored."""

import dataclasses
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ovseg_models.contrastive_loss import contrastive_loss, sigmoid_loss
from ovseg_models.masked_crops import normalised
from ovseg_models.prompt_templates import VILD, prompt_templates
from pipeline.clip_loading import load_clip
from pipeline.dataflow import dataflow
from pipeline.errors import PipelineError
from pipeline.finetune.average import averaged
from pipeline.finetune.hard_negatives import HardNouns
from pipeline.finetune.phases import phases_of
from pipeline.finetune.samples import PairBatch, PairSamples
from pipeline.finetune.task import FinetuneTask
from pipeline.settings import FinetuneSettings, Settings, SettingsError, load_settings
from pipeline.stages import run
from pipeline.text_side import TemplateWeights, TextPrompts, sentence_embeddings, text_side_of
from pipeline.trained_nets import load_adapted_clip, new_mask_adapted_clip, stock_mask_adapted_clip
from pipeline.training.data_order import Draw
from pipeline.training.loop import StepContext
from pipeline.training.processes import Processes
from storage_schemas.artifact import Artifact
from storage_schemas.checkpoints import read_weights
from storage_schemas.pair_collection import PairCollection
from tests import forked
from tests.pipeline.finetune.finetune_run import finetune, small_settings
from tests.pipeline.finetune.made_pairs import made_pairs
from tests.pipeline.finetune.test_finetune import files_of, read_metrics_of
from tests.pipeline.planned import artifact_of
from tests.tiny_clip import tiny_loaded_clip

ALONE = Processes(0, 1, torch.device("cpu"))
BATCH = 12
PSM = {"epochs": 2, "batch_pairs": 8, "learning_rate": 1e-2, "warmup_steps": 2}
RECIPES: dict[str, dict[str, Any]] = {
    "sigmoid": {"mode": "ft", "loss": "sigmoid"},
    "hard negatives": {"mode": "ft", "hard_negatives": {"count": 3, "max_cosine": 1.0}},
    "similarities": {"mode": "ft", "holding": {"form": "similarities", "weight": 10.0}},
    "embeddings": {"mode": "ft", "holding": {"form": "embeddings", "weight": 1.0}},
    "psm": {"mode": "psm", "psm": PSM, "prompt_templates": "vild"},
    "ft+psm": {"mode": "ft+psm", "psm": PSM},
    "text": {"mode": "text", "text": {**PSM, "length": 4}},
    "all": {
        "mode": "ft+psm",
        "psm": PSM,
        "loss": "sigmoid",
        "hard_negatives": {"count": 3, "max_cosine": 1.0},
        "holding": {"form": "similarities", "weight": 10.0},
    },
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return made_pairs(tmp_path_factory.mktemp("pairs"), scenes=6)


def task_of(pairs: Artifact, recipe: str) -> FinetuneTask:
    settings = FinetuneSettings.model_validate({"ft": {"batch_pairs": BATCH}, **RECIPES[recipe]})
    base, collection = tiny_loaded_clip(), PairCollection(pairs)
    adapted = new_mask_adapted_clip(base, prompt_depth=0).train()
    with torch.no_grad():  # as if some training had moved the tower
        adapted.clip.visual.ln_post.weight.mul_(torch.linspace(0.5, 1.5, len(adapted.clip.visual.ln_post.weight)))
    sentences = prompt_templates(settings.prompt_templates)
    texts = torch.from_numpy(sentence_embeddings(base, collection.nouns, sentences, ALONE.device))
    vectors = functional.normalize(texts.sum(dim=1), dim=1)
    hard = None
    if settings.hard_negatives.count:
        hard = HardNouns.of(collection, vectors.numpy(), **settings.hard_negatives.model_dump())
    held = settings.holding.form != "none"
    return FinetuneTask(
        adapted=adapted,
        phase=phases_of(settings)[0],
        samples=PairSamples(collection, 0.9, 4 / 3, 0, adapted.crop, with_unmasked=held, hard_nouns=hard),
        noun_tokens=base.tokenize(list(collection.nouns)),
        noun_embeddings=texts if "psm" in settings.mode else vectors,
        loss=settings.loss,
        holding=settings.holding if held else None,
        original=stock_mask_adapted_clip(base) if held else None,
        train_logit_scale=True,
        validation=None,
        processes=ALONE,
    )


def batch_of(task: FinetuneTask) -> PairBatch:
    return task.samples.batch([Draw(*divmod(number, 8)) for number in range(BATCH)])  # some nouns twice


def gradients(task: FinetuneTask, parts: int = 1) -> tuple[dict[str, float], dict[str, Tensor]]:
    step = StepContext(ALONE, parts, torch.amp.GradScaler("cpu", enabled=False), None)
    terms = task.backward(task.model, batch_of(task), step)
    named = task.model.named_parameters()
    found = {name: value.grad.clone() for name, value in named if value.grad is not None}
    task.model.zero_grad(set_to_none=True)
    return {name: term.item() for name, term in terms.items()}, found


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_batch_in_parts_has_the_loss_and_gradients_of_the_whole(pairs: Artifact, recipe: str) -> None:
    task = task_of(pairs, recipe)
    trained = {id(value) for group in task.optimizer().param_groups for value in group["params"]}
    terms, whole = gradients(task)
    cut_terms, cut = gradients(task, parts=5)
    assert cut_terms == pytest.approx(terms, rel=1e-5)
    assert cut.keys() == whole.keys()
    for name, value in task.model.named_parameters():
        assert (name in whole) == (id(value) in trained) == value.requires_grad, name
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, rtol=1e-4, atol=2e-6, msg=name)


def test_weights_of_sentences_change_nothing_at_first_and_train_alone(pairs: Artifact) -> None:
    task = task_of(pairs, "psm")
    assert task.noun_embeddings.shape[1] == len(VILD)
    optimizer, batch = task.optimizer(), batch_of(task)
    terms, found = gradients(task)
    assert found.keys() == {"template_weights"}
    with torch.no_grad():
        images = task.adapted.encode_image(normalised(batch.crops))
    texts = task.noun_embeddings[batch.nouns].mean(dim=1)
    expected = contrastive_loss(images, texts, task.adapted.logit_scale.exp())
    assert terms["loss"] == pytest.approx(expected.item(), rel=1e-5)
    before = {name: tensor.clone() for name, tensor in task.adapted.state_dict().items()}
    task.backward(task.model, batch, StepContext(ALONE, 1, torch.amp.GradScaler("cpu", enabled=False), None))
    optimizer.step()
    task.after_step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.adapted.state_dict().items())
    assert not torch.equal(task.model.template_weights, torch.full((len(VILD),), 1 / len(VILD)))


def test_the_sigmoid_loss_begins_where_a_pair_is_as_likely_as_chance(pairs: Artifact) -> None:
    task = task_of(pairs, "sigmoid")
    task.optimizer()
    terms, found = gradients(task)
    assert {"bias", "adapted.clip.logit_scale"} < found.keys()
    batch = batch_of(task)
    with torch.no_grad():
        images = task.adapted.encode_image(normalised(batch.crops))
        texts, scale = task.noun_embeddings[batch.nouns], task.adapted.logit_scale.exp()
        expected = sigmoid_loss(images, texts, scale, task.model.bias, batch.nouns)
        with_minus_ten = sigmoid_loss(images, texts, scale, torch.tensor(-10.0), batch.nouns)
    assert terms["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert terms["loss"] < with_minus_ten


def test_what_holds_is_a_term_of_the_loss_and_of_ft_alone(pairs: Artifact) -> None:
    task = task_of(pairs, "embeddings")
    task.optimizer()
    terms, found = gradients(task)
    batch = batch_of(task)
    with torch.no_grad():
        tuned = task.adapted.encode_image(normalised(batch.crops))
        original = task.original.encode_image(normalised(batch.unmasked))
    assert terms["holding"] == pytest.approx((1 - (tuned * original).sum(dim=1)).mean().item(), abs=1e-6)
    assert terms["holding"] > 1e-3
    free, without = gradients(dataclasses.replace(task, holding=None))
    assert "holding" not in free
    assert terms["loss"] == pytest.approx(free["loss"] + terms["holding"], rel=1e-5)
    assert not torch.equal(found["adapted.clip.visual.proj"], without["adapted.clip.visual.proj"])
    mpt = phases_of(FinetuneSettings(mode="mpt"))[0]
    assert dataclasses.replace(task, phase=mpt)._holding is None


@pytest.fixture(scope="module")
def undisturbed(pairs: Artifact, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    settings = small_settings(tmp_path_factory.mktemp("undisturbed"), pairs.directory, **RECIPES["all"])
    return files_of(run("finetune", settings).artifact)


def test_a_kill_changes_no_byte(pairs: Artifact, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    settings = small_settings(tmp_path, pairs.directory, **RECIPES["all"])
    path = artifact_of(settings, "adapted_clip").local_directory / "ft+psm" / "metrics.jsonl"
    process = forked.start(partial(finetune, pause_s=0.05, **RECIPES["all"]), tmp_path, pairs.directory)
    while not (path.exists() and len(path.read_text().splitlines()) >= 5):
        assert process.exitcode is None, "the run ended before the kill"
        time.sleep(0.001)
    forked.kill([process])
    assert files_of(run("finetune", settings).artifact) == undisturbed


def test_two_processes_equal_one(pairs: Artifact, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    forked.finish(forked.start_group(2, partial(finetune, **RECIPES["all"]), tmp_path, pairs.directory))
    artifact = artifact_of(small_settings(tmp_path, pairs.directory, **RECIPES["all"]), "adapted_clip")
    (tmp_path / "template_weights.safetensors").write_bytes(undisturbed["template_weights.safetensors"])
    expected = read_weights(Artifact(tmp_path, artifact.description), "template_weights")["template_weights"]
    found = read_weights(artifact, "template_weights")["template_weights"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert abs(found - 1).max() > 1e-3
    losses = [line["loss"] for line in read_metrics_of(artifact, "ft+psm")]
    alone = [json.loads(line)["loss"] for line in undisturbed["_local/ft+psm/metrics.jsonl"].splitlines()]
    np.testing.assert_allclose(losses, alone, rtol=1e-4)
    assert len(losses) > 3


@pytest.mark.parametrize("sentences", ["bare", "vild"])
def test_stored_weights_give_the_similarities_of_training(pairs: Artifact, tmp_path: Path, sentences: str) -> None:
    changes = {"mode": "psm", "psm": PSM, "prompt_templates": sentences}
    settings = small_settings(tmp_path, pairs.directory, **changes)
    artifact = run("finetune", settings).artifact
    assert artifact.description.units == ("template_weights", "report")
    base = load_clip(settings.clip)
    adapted, before = load_adapted_clip(artifact, base), base.clip.state_dict()
    changed = {name for name, tensor in adapted.clip.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == ({"logit_scale"} if sentences == "bare" else set())
    weights = TemplateWeights.of(artifact)
    assert weights is not None
    assert abs(weights.weights * len(weights.weights) - 1).max() > 1e-3
    names, templates = ["boat", "tree"], prompt_templates(sentences)
    alone = torch.from_numpy(sentence_embeddings(base, names, templates, ALONE.device))  # [name sentence dim]
    crops = functional.normalize(torch.randn(3, alone.shape[2], generator=torch.Generator().manual_seed(0)), dim=1)
    scale = base.clip.logit_scale.exp()
    expected = scale * torch.einsum("cd,nsd,s->cn", crops, alone, torch.from_numpy(weights.weights))
    if sentences == "bare":
        found = adapted.class_logits(crops, alone[:, 0])
    else:
        found = weights.scale * crops @ weights.class_vectors(base, names, templates, ALONE.device).T
        with pytest.raises(PipelineError, match=r"evaluate.prompt_templates: .* 14 sentences, .* by 1 others; set it"):
            weights.class_vectors(base, names, prompt_templates("bare"), ALONE.device)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_text_prompts_are_trained_alone_and_name_classes(pairs: Artifact, tmp_path: Path) -> None:
    settings = small_settings(tmp_path, pairs.directory, **RECIPES["text"])
    artifact = run("finetune", settings).artifact
    assert artifact.description.units == ("text_prompts", "report")
    base, found = load_clip(settings.clip), text_side_of(artifact)
    before = base.clip.state_dict()
    after = load_adapted_clip(artifact, base).clip.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert isinstance(found, TextPrompts)
    assert found.weights.shape == (4, base.clip.token_embedding.embedding_dim)
    words = [name for name in PairCollection(pairs).nouns if len(name.split()) == 1][:3]
    vectors = found.class_vectors(base, words, ALONE.device)
    # the plain way, one name at a time: start, prompts, word, end
    for name, vector in zip(words, vectors, strict=True):
        tokens = base.tokenize([name])[0]
        end = int(tokens.argmax())
        embedded = base.clip.token_embedding(tokens)
        parts = [embedded[:1], torch.from_numpy(found.weights), embedded[1 : end + 1]]
        states = torch.cat(parts) + base.clip.positional_embedding[: end + 5]
        states = base.clip.transformer(states[None], attn_mask=base.clip.attn_mask[: end + 5, : end + 5])
        expected = functional.normalize(base.clip.ln_final(states)[0, -1] @ base.clip.text_projection, dim=0)
        torch.testing.assert_close(vector, expected, rtol=1e-4, atol=1e-5)


def test_text_prompts_that_do_not_fit_the_context_are_refused(pairs: Artifact, tmp_path: Path) -> None:
    recipe = {"mode": "text", "text": {**PSM, "length": 64}}
    with pytest.raises(SettingsError, match=r"finetune.text.length: 64 tokens leave no place for a name in .*tiny"):
        run("finetune", small_settings(tmp_path, pairs.directory, **recipe))


def test_the_average_is_between_and_trains_nothing_again(
    pairs: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = run("finetune", small_settings(tmp_path, pairs.directory, mode="ft")).artifact
    monkeypatch.setattr(FinetuneTask, "backward", None)
    settings = small_settings(tmp_path, pairs.directory, mode="ft", tuned_share=0.25)
    report = run("finetune", settings)
    assert report.units_done == 1
    assert run("finetune", settings).units_done == 0
    assert artifact_of(settings, "adapted_clip") == report.artifact != tuned
    base = load_clip(settings.clip)
    before, after = base.clip.state_dict(), load_adapted_clip(tuned, base).clip.state_dict()
    mean = load_adapted_clip(report.artifact, base).clip.state_dict()
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, 0.75 * before[name] + 0.25 * after[name], rtol=1e-6, atol=1e-7, msg=name)
    assert not torch.equal(mean["visual.proj"], before["visual.proj"])


def test_the_ends_of_the_average_are_the_weights_themselves() -> None:
    tuned = {"a": np.array([0.1, 0.7], np.float32), "b": np.array(3.0, np.float32), "n": np.array(7)}
    original = {"a": np.array([0.2, -0.7], np.float32), "b": np.array(1.0, np.float32), "n": np.array(5)}
    assert {name: array.tolist() for name, array in averaged(original, tuned, 1.0).items()} == {
        name: array.tolist() for name, array in tuned.items()
    }
    start = averaged(original, tuned, 0.0)
    assert (start["a"].tolist(), start["b"].tolist()) == (original["a"].tolist(), original["b"].tolist())
    assert averaged(original, tuned, 0.5)["b"] == 2.0
    assert averaged(original, tuned, 0.5)["n"] == 7


def test_an_average_needs_mode_ft() -> None:
    with pytest.raises(SettingsError, match=r"finetune.*tuned_share 0.5 should be 1 in mode 'ft-then-mpt'"):
        load_settings(None, ["finetune.tuned_share=0.5"])


MINED = ["runs_dir=nowhere", "datasets.drawn={ dataset = 'drawn-world', split = 'train' }", "mine.dataset=drawn"]


@pytest.mark.parametrize(
    ("source", "kinds"),
    [
        ("mined", ["proposals", "embeddings", "pairs"]),
        ("ground-truth", ["embeddings", "pairs"]),
        ("both", ["proposals", "embeddings", "pairs", "embeddings", "pairs"]),
    ],
)
def test_mining_makes_what_is_trained_on(source: str, kinds: list[str]) -> None:
    graph = dataflow(load_settings(None, [*MINED, f"finetune.pair_source={source}"]))
    assert [node.step.kind for node in graph.of_stage("mine")] == kinds
    assert ("ground_truth" in graph.only("adapted_clip")) == (source == "both")


def test_the_same_pairs_twice_are_refused() -> None:
    graph = dataflow(load_settings(None, [*MINED, "finetune.pair_source=both", "mine.source=masks-classes"]))
    with pytest.raises(SettingsError, match=r"finetune.pair_source: is 'both', .*masks-classes.* choose 'mined'"):
        _ = graph.only("adapted_clip")["ground_truth"].artifact


def test_ground_truth_and_both_are_trained_on_without_held_out_classes(tmp_path: Path) -> None:
    def settings(source: str, *more: str) -> Settings:
        base = small_settings(tmp_path, Path(), pairs_dir="", mode="ft", pair_source=source)
        mine = base.mine.model_copy(update={"dataset": "scenes", "source": "masks-1-caption"})
        net = base.proposal_net.model_copy(update={"held_out_classes": more})
        return base.model_copy(update={"mine": mine, "proposal_net": net})

    counts, digests = {}, set()
    for source, held_out in (("mined", ()), ("ground-truth", ()), ("both", ()), ("both", ("grass", "sky", "boat"))):
        run("mine", settings(source, *held_out))
        report = run("finetune", settings(source, *held_out))
        counts[source, bool(held_out)] = report.manifest.units[-1].facts["pairs"]["pairs"]
        digests.add(report.artifact.identity.digest())
    assert counts["both", False] == counts["mined", False] + counts["ground-truth", False]
    ground_truth = PairCollection(dataflow(settings("ground-truth")).only("pairs").artifact)
    nouns = [ground_truth.nouns[number] for number in ground_truth.noun_numbers]
    left_out = sum(noun in {"grass", "sky", "boat"} for noun in nouns)
    assert left_out
    assert counts["both", True] == counts["both", False] - left_out
    assert len(digests) == 4
    assert run("finetune", settings("mined", "grass")).units_done == 0  # mined pairs are all taken


def test_settings_at_their_defaults_are_no_part_of_the_identity(pairs: Artifact, tmp_path: Path) -> None:
    def options(**changes: Any) -> dict[str, Any]:
        artifact = artifact_of(small_settings(tmp_path, pairs.directory, **changes), "adapted_clip")
        return artifact.identity.settings["options"]

    assert options().keys() == {
        *("mode", "seed", "prompt_depth", "train_logit_scale", "loss", "prompt_templates", "ft", "mpt"),
        *("augmentation", "precision"),
    }
    assert options(psm={"epochs": 9}) == options()
    assert options(mode="psm", psm={"epochs": 9}) != options(mode="psm")
    assert "holding" in options(holding={"weight": 0.5})
