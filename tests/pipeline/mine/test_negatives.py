"""Nouns that pictures do not show: never named, no synonym, far from every mask; and truly absent from drawn scenes."""

import numpy as np
import pytest

from pipeline.errors import PipelineError
from pipeline.mine.negatives import NegativeRule, make_negatives
from pipeline.mine.pair_origins import origins_of
from pipeline.stages import run
from storage_schemas.embeddings import read_embeddings
from storage_schemas.negatives import read_negatives
from storage_schemas.scenes import ScenesAttributes, SceneShard
from tests.pipeline.mine.mining_world import files_of, mining_settings, pair_rows, with_net


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
    return run("mine", with_net(mining_settings(tmp_path_factory.mktemp("negatives"), scenes=12))).artifact


def rows_of(artifact):
    return [row for unit in artifact.description.units for row in read_negatives(artifact, unit).to_pylist()]


def test_a_negative_is_named_nowhere_and_far_from_every_mask(mined):
    rule = NegativeRule(per_picture=3, alike_above=0.7)
    negatives = make_negatives(mined, rule).artifact
    origins = origins_of(mined, mined.directory.parents[1])
    embeddings, captions = {}, {}
    for unit in mined.description.units:
        embeddings.update({scene.key: scene for scene in read_embeddings(origins.embeddings, unit)})
        captions.update(origins.caption_nouns.of_captions(origins.scenes, unit))
    nearest = {
        noun: {key: (scene.embeddings.astype(np.float64) @ vector).max() for key, scene in embeddings.items()}
        for noun, vector in origins.vectors.items()
    }
    rows = rows_of(negatives)
    assert {row["key"] for row in rows} == {row["key"] for row in pair_rows(mined)}
    found = [row for row in rows if row["status"] == "ok"]
    assert len(found) > len(embeddings)
    for row in found:
        named = set().union(*captions[row["key"]])
        assert row["noun"] not in named
        assert max(origins.vectors[row["noun"]] @ origins.vectors[noun] for noun in named & nearest.keys()) < 0.7
        scene = embeddings[row["key"]]
        scores = scene.embeddings.astype(np.float64) @ origins.vectors[row["noun"]]
        assert row["score"] == pytest.approx(scores.max(), abs=1e-5)
        assert scene.regions.tolist()[scores.argmax()] == row["region"]
        unnamed = [
            score for key, score in nearest[row["noun"]].items() if row["noun"] not in set().union(*captions[key])
        ]
        assert row["usual_score"] == pytest.approx(np.quantile(unnamed, 0.5), abs=1e-4)
        assert row["score"] <= row["usual_score"]
        assert row["captions"] == len(captions[row["key"]])
    assert max(sum(row["key"] == key for row in found) for key in embeddings) == 3


def test_drawn_scenes_do_not_show_what_is_said_to_be_absent(drawn_pairs):
    origins = origins_of(drawn_pairs, drawn_pairs.directory.parents[1])
    names = ScenesAttributes.of(origins.scenes).class_names
    shown = {
        key: {names[label] for label in labels}
        for unit in origins.scenes.description.units
        for key, labels in zip(
            *(SceneShard(origins.scenes, unit).index[column].to_pylist() for column in ("key", "classes")), strict=True
        )
    }
    found = [row for row in rows_of(make_negatives(drawn_pairs).artifact) if row["status"] == "ok"]
    assert sum(row["noun"] not in shown[row["key"]] for row in found) >= 0.98 * len(found) > 10


def test_the_same_rule_is_no_work_and_another_one_another_artifact(mined):
    first = make_negatives(mined, NegativeRule(per_picture=2))
    before = files_of(first.artifact.directory)
    again = make_negatives(mined, NegativeRule(per_picture=2))
    assert (again.units_done, files_of(again.artifact.directory)) == (0, before)
    assert make_negatives(mined, NegativeRule(per_picture=1)).artifact.directory != first.artifact.directory


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"per_picture": 0}, "per_picture is 0, at least 1 is expected"),
        ({"max_quantile": 0.0}, r"max_quantile is 0.0, above 0 and up to 1 is expected"),
        ({"alike_above": 1.5}, r"alike_above is 1.5, above 0 and up to 1 is expected"),
    ],
)
def test_rules_without_meaning_are_refused(rule, message):
    with pytest.raises(PipelineError, match=message):
        NegativeRule(**rule)
