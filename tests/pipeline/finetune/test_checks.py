"""What stage 3 refuses before anything is made: in the dry run, and when it begins."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.dataflow import dataflow
from pipeline.errors import PipelineError
from pipeline.finetune.phases import phases_of
from pipeline.finetune.training import loop_plan
from pipeline.settings import FinetuneSettings, SettingsError, load_settings
from storage_schemas.artifact import Artifact
from tests.pipeline.finetune.finetune_run import small_settings
from tests.pipeline.finetune.made_pairs import made_pairs
from tests.pipeline.finetune.test_recipes import PSM, task_of


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return made_pairs(tmp_path_factory.mktemp("pairs"), scenes=2)


@pytest.mark.parametrize(
    ("family", "changes", "found"),
    [
        ("", {"prompt_depth": 30}, r"finetune: prompt_depth is 30, expected 0 to \d+ .*image tower.s layers"),
        ("", {"mode": "mpt", "prompt_depth": 30}, r"prompt_depth is 30"),
        ("SigLIP2", {"blank_patches": "dropped"}, r"finetune: blank_patches is 'dropped' .* set blank_patches to"),
        ("ConvNeXt", {"mode": "ft", "blank_patches": "dropped"}, r"finetune: blank_patches is 'dropped'"),
        ("SigLIP2", {"mode": "text", "text": PSM}, r"finetune.mode: 'text' .* does not read from left to right"),
        ("", {"mode": "text", "text": {**PSM, "length": 64}}, r"finetune.text.length: 64 tokens leave no place"),
    ],
)
def test_what_has_no_place_in_clip_is_found_before_anything_is_made(
    pairs: Artifact, tmp_path: Path, family: str, changes: dict[str, Any], found: str
) -> None:
    node = dataflow(small_settings(tmp_path, pairs.directory, family=family, **changes)).only("adapted_clip")
    with pytest.raises(SettingsError, match=found):
        node.step.check(node)


@pytest.mark.parametrize(
    ("family", "mode"), [("ConvNeXt", "ft"), ("", "text"), ("PE-Core", "ft-then-mpt"), ("", "psm")]
)
def test_what_has_a_place_is_accepted(pairs: Artifact, tmp_path: Path, family: str, mode: str) -> None:
    depth = {"prompt_depth": 30} if mode in {"ft", "psm"} else {}  # of no matter where none are trained
    settings = small_settings(tmp_path, pairs.directory, family=family, mode=mode, text={"length": 4}, **depth)
    node = dataflow(settings).only("adapted_clip")
    node.step.check(node)


@pytest.mark.parametrize("mode", ["psm", "text", "mpt"])
def test_holding_needs_a_phase_that_trains_the_tower(mode: str) -> None:
    with pytest.raises(SettingsError, match=rf"holding should be 'none' in mode '{mode}'"):
        load_settings(None, [f"finetune.mode='{mode}'", "finetune.holding.form='embeddings'"])
    load_settings(None, ["finetune.mode='mpt-then-ft'", "finetune.holding.form='embeddings'"])


def test_holding_is_in_no_digest_where_it_does_nothing() -> None:
    held = FinetuneSettings.model_validate({"mode": "ft", "holding": {"form": "embeddings", "weight": 1.0}})
    assert held.in_mode("mpt").holding.form == "embeddings"  # an ablation's mode is not refused
    plain = load_settings(None, ["mine.dataset='drawn'", "datasets.drawn={dataset='drawn-world', split='val'}"])
    held_settings = plain.model_copy(update={"finetune": held.in_mode("mpt")})
    plain_settings = plain.model_copy(update={"finetune": plain.finetune.in_mode("mpt")})
    prints = []
    for settings in (held_settings, plain_settings):
        node = dataflow(settings).only("adapted_clip")
        prints.append(node.step.fingerprint(node))
    assert prints[0] == prints[1]


@pytest.mark.parametrize("mode", ["ft", "query"])
def test_holding_is_in_the_digest_where_it_acts(mode: str) -> None:
    given = ["mine.dataset='drawn'", "datasets.drawn={dataset='drawn-world', split='val'}", f"finetune.mode='{mode}'"]
    given.append("finetune.namer='one-pass'")
    prints = []
    for more in ([], ["finetune.holding.form='embeddings'"]):
        node = dataflow(load_settings(None, [*given, *more])).only("adapted_clip")
        prints.append(node.step.fingerprint(node))
    assert prints[0] != prints[1]


@pytest.mark.parametrize(("mode", "section"), [("ft", "ft"), ("mpt", "mpt"), ("psm", "psm"), ("ft+psm", "ft")])
def test_too_large_a_batch_is_reported_by_the_setting_that_is_read(pairs: Artifact, mode: str, section: str) -> None:
    settings = FinetuneSettings.model_validate(
        {"mode": mode, **{name: {"batch_pairs": 10_000} for name in ("ft", "mpt", "psm")}}
    )
    (phase,) = phases_of(settings)
    with pytest.raises(PipelineError, match=rf"finetune\.{section}\.batch_pairs: "):
        loop_plan(phase, task_of(pairs, "psm"), settings, load_settings(None, []).compute)


def test_other_sentences_than_the_weighted_ones_are_found_before_anything_is_made(tmp_path: Path) -> None:
    given = [
        f"runs_dir={tmp_path}",
        "datasets.drawn={dataset='drawn-world', split='val', drawn_world={scenes=5}}",
        "mine.dataset='drawn'",
        "evaluate.datasets=[{dataset='drawn'}]",
        "finetune.mode='psm'",
        "finetune.prompt_templates='vild'",
    ]
    node = dataflow(load_settings(None, [*given, "evaluate.prompt_templates='bare'"])).only("scores")
    with pytest.raises(SettingsError, match=r"evaluate\.prompt_templates: .* each of 14 sentences, .* by 1 others"):
        node.step.check(node)
    node = dataflow(load_settings(None, given)).only("scores")
    node.step.check(node)
