"""The choice of an ensemble weight on mined pairs, against a loop over pairs."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg_models.masked_crops import crops_of_regions
from pipeline.errors import StageError
from pipeline.evaluate.nets import Nets
from pipeline.evaluate.weight_choice import ChooseWeight, choice_numbers
from pipeline.evaluate.weight_trial import mined_pairs
from pipeline.graph import Finished, MissingInputError, Node
from pipeline.settings import SettingsError
from pipeline.shard_runner import Execution
from pipeline.stages import run
from storage_schemas import pairs, proposals
from storage_schemas.artifact import Artifact
from storage_schemas.manifest import Description, Identity
from storage_schemas.reports import html_path, read_numbers
from storage_schemas.rle import encode_masks
from storage_schemas.weight_choices import read_weight_choice
from tests.pipeline.evaluate.small_world import DRAWN, scores_of, settings_of, small_net, write_net
from tests.pipeline.planned import artifact_of, prepare_scenes

UNITS, DIM, QUERIES = ("shard-00000", "shard-00001"), 96, 3
WEIGHTS = (0.0, 0.3, 0.7, 1.0)


def planned(runs, kind: str, version: int) -> Artifact:
    identity = Identity(kind=kind, name="mined", schema_version=version, producer_version=1, settings={})
    return Artifact.planned(runs, Description(identity=identity, units=UNITS))


def encoded(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def scene_proposals(key: str, generator: np.random.Generator) -> proposals.SceneProposals:
    vectors = generator.normal(size=(QUERIES, DIM)).astype(np.float32)
    return proposals.SceneProposals(
        key=key,
        height_px=6,
        width_px=5,
        queries=np.arange(QUERIES, dtype=np.int32) * 2,
        mask_counts=encode_masks(np.ones((QUERIES, 6, 5), bool)),
        areas_px=np.full(QUERIES, 30, np.int64),
        boxes_xyxy=np.tile(np.array([0, 0, 5, 6], np.int32), (QUERIES, 1)),
        objectness=np.ones(QUERIES, np.float32),
        embeddings=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
    )


def mined(runs, nouns: tuple[str, ...] = ("boat", "sky", "duck")) -> tuple[Artifact, Artifact]:
    """Write six pairs and a failed one, in two shards, and the proposals that they are of."""
    generator = np.random.default_rng(0)
    pair_artifact, proposal_artifact = planned(runs, pairs.KIND, pairs.SCHEMA_VERSION), planned(runs, proposals.KIND, 1)
    for artifact in (pair_artifact, proposal_artifact):
        with artifact.writing():
            sidecars = {}
            for number, unit in enumerate(UNITS):
                with artifact.write_unit(unit) as unit_writer:
                    write = _write_pairs if artifact is pair_artifact else _write_proposals
                    sidecars[unit] = write(unit_writer, number, nouns, generator)
            artifact.finish(artifact.manifest_of(sidecars))
    return pair_artifact, proposal_artifact


def _write_pairs(unit_writer, number, nouns, generator):
    writer = pairs.PairShardWriter(unit_writer)
    for place in range(3):
        mask = np.zeros((12, 9), np.uint8)
        mask[2:, : 3 + 3 * place] = 255
        writer.add(
            pairs.Pair(
                pair=f"s{number}-{place}",
                key=f"s{number}",
                image_id="0",
                noun=nouns[(place + number) % len(nouns)],
                region=2 * place,
                crop_suffix="png",
                crop=encoded(generator.integers(0, 256, (12, 9, 3), np.uint8)),
                crop_mask_png=encoded(mask),
            )
        )
    writer.add(pairs.Pair(pair=f"s{number}-9", key=f"s{number}", image_id="0", status="no_noun", reason="none"))
    return writer.commit()


def _write_proposals(unit_writer, number, nouns, generator):
    writer = proposals.ProposalShardWriter(unit_writer, embedding_dim=DIM)
    writer.add(scene_proposals(f"s{number}", generator))
    return writer.commit()


def choice_of(runs, limit: int = 100, **options) -> Node:
    sweep = {"ensemble_weights": list(WEIGHTS), "validation_pairs": limit}
    settings = settings_of(runs, sweep=sweep)
    net, (pair_artifact, proposal_artifact) = scores_of(settings)["proposal_net"], mined(runs, **options)
    sources = {
        "pairs": Node(Finished("pairs", str(pair_artifact.directory), ""), "a", runs, {}),
        "proposals": Node(Finished("proposals", str(proposal_artifact.directory), ""), "a", runs, {}),
        "proposal_net": net,
        "clip": net.clip,
    }
    step = ChooseWeight(settings=settings.evaluate, compute=settings.compute, mined_from="proposals-1-caption")
    return Node(step, "mined", runs, sources)


def chosen(node: Node) -> dict[str, Any]:
    return choice_numbers(read_weight_choice(node.make(Execution()).artifact).to_pylist())


def test_each_weight_counts_the_pairs_that_it_names_rightly(tmp_path):
    node = choice_of(tmp_path)
    numbers, job = chosen(node), node.step.job(node)
    nets = job.open()
    nouns = ["boat", "duck", "sky"]
    texts = nets.embedded_names(nouns)
    clip = nets.clip("original")
    correct = dict.fromkeys(WEIGHTS, 0)
    found = list(mined_pairs(job.pairs, job.proposals, DIM))
    assert [pair.noun for pair in found] == ["boat", "sky", "duck", "sky", "duck", "boat"]
    for pair in found:
        with torch.no_grad():
            region = (torch.from_numpy(pair.pixels).permute(2, 0, 1), torch.from_numpy(pair.mask))
            crop, _ = crops_of_regions([region], crop_px=clip.crop_px)
            by_clip = (100 * clip.encode_image(crop) @ texts.T).softmax(1)[0].double()
            embedding = torch.from_numpy(pair.proposal_embedding.copy())[None]
            by_net = nets.proposal_net.class_logits(embedding, texts).softmax(1)[0, :-1].double()
        for weight in WEIGHTS:
            score = by_net ** (1 - weight) * by_clip**weight
            correct[weight] += nouns[int(score.argmax())] == pair.noun
    assert {row["ensemble_weight"]: row["accuracy"] for row in numbers["rows"]} == pytest.approx(
        {weight: count / 6 for weight, count in correct.items()}
    )
    assert (numbers["pairs"], numbers["nouns"]) == (6, 3)
    assert node.make(Execution()).units_done == 0


def test_clip_compares_regions_with_what_was_trained_of_the_text_side(tmp_path, monkeypatch):
    def accuracy_of_clip(runs):
        return {row["ensemble_weight"]: row["accuracy"] for row in chosen(choice_of(runs))["rows"]}

    plain = accuracy_of_clip(tmp_path / "plain")
    monkeypatch.setattr(Nets, "vectors_of", lambda nets, name, texts: -nets.embedded_names(texts))
    turned = accuracy_of_clip(tmp_path / "turned")
    assert turned[0.0] == plain[0.0]  # the proposal net's own
    assert turned[1.0] != plain[1.0]


def test_the_first_pairs_are_enough(tmp_path):
    assert chosen(choice_of(tmp_path, limit=4))["pairs"] == 4


def test_one_noun_leaves_nothing_to_choose(tmp_path):
    with pytest.raises(StageError, match="holds 1 nouns, at least two to choose from are expected; mine more pictures"):
        chosen(choice_of(tmp_path, nouns=("boat",)))


@pytest.mark.parametrize(
    ("correct", "chosen"), [((4, 7, 7, 7, 6), 0.5), ((4, 7, 7, 6, 5), 0.3), ((4, 5, 6, 8, 7), 0.7), ((3,) * 5, 0.5)]
)
def test_of_equal_weights_the_middle_one_is_chosen(correct, chosen):
    weights = (0.0, 0.3, 0.5, 0.7, 1.0)
    rows = [
        {"ensemble_weight": weight, "pairs": 10, "nouns": 3, "correct": count}
        for weight, count in zip(weights, correct, strict=True)
    ]
    assert choice_numbers(rows)["chosen"] == chosen


def test_the_report_sets_the_choice_beside_the_best_on_the_test_set(tmp_path):
    drawn_val = DRAWN | {"split": "val"}
    sweep = {"ensemble_weights": [0.0, 0.5, 1.0], "mask_thresholds": [0.5], "validation_dataset": "val"}
    settings = settings_of(tmp_path, datasets={"drawn": DRAWN, "val": drawn_val}, sweep=sweep)
    section = settings.evaluate.model_copy(update={"datasets": settings.evaluate.datasets[:1]})
    propose = settings.mine.propose.model_copy(update={"short_side_px": 64, "max_side_px": 64})
    mining = settings.mine.model_copy(update={"dataset": "drawn", "propose": propose})
    settings = settings.model_copy(update={"evaluate": section, "mine": mining})
    prepare_scenes(settings, ["drawn", "val"])
    write_net(artifact_of(settings, "proposal_net"), small_net())
    with pytest.raises(MissingInputError, match=r"run 'ovseg mine --set mine\.dataset=val' first"):
        run("evaluate", settings, ablate=True)
    run("mine", settings.model_copy(update={"mine": mining.model_copy(update={"dataset": "val"})}))
    report = run("evaluate", settings, ablate=True)
    choice = read_numbers(report.artifact)["weight_choice"]
    assert [row["ensemble_weight"] for row in choice["rows"]] == [0.0, 0.5, 1.0]
    assert choice["pairs"] > 5
    accuracy = {row["ensemble_weight"]: row["accuracy"] for row in choice["rows"]}
    assert accuracy[choice["chosen"]] == max(accuracy.values())
    page = html_path(report.artifact).read_text(encoding="utf-8")
    assert f"Chosen on mined validation pairs, without any test label:\n{choice['chosen']}" in page
    assert f"The same on {choice['pairs']} mined validation pairs" in page
    whole_masks = settings.mine.model_copy(update={"source": "masks-classes"})
    with pytest.raises(SettingsError, match="pairs of proposals are expected"):
        run("evaluate", settings.model_copy(update={"mine": whole_masks}), ablate=True)
