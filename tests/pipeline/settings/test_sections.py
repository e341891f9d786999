"""What settings hold: defaults, digests, the shipped configurations, and what stages take from them."""

import json
from pathlib import Path
from typing import get_args

import pytest

from ovseg_models.prompt_templates import PROMPT_TEMPLATE_NAMES
from ovseg_models.proposal_presets import PRESETS, ProposalNetArguments
from ovseg_models.segmenter_settings import SegmenterSettings
from pipeline.executors import Compute
from pipeline.settings import (
    PromptTemplates,
    Settings,
    SettingsError,
    load_settings,
    result_settings,
    settings_toml,
)
from pipeline.shard_runner import Execution

CONFIGS = Path(__file__).parents[3] / "flows" / "configs"

# Written beside a result


@pytest.mark.parametrize("path", [None, *sorted(CONFIGS.glob("*.toml"))], ids=str)
def test_settings_written_as_toml_are_read_back_equal(path, tmp_path):
    settings = load_settings(path)
    copy = tmp_path / "resolved.toml"
    copy.write_text(settings_toml(settings), encoding="utf-8")
    assert load_settings(copy) == settings


def test_settings_written_as_json_hold_every_setting():
    settings = load_settings(None, ["net_input.short_side_px=96", "runs_dir=here", "mine.nouns.stop_words=['a']"])
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
    assert Settings.model_validate(json.loads(settings.model_dump_json())) == settings


# Digests


def test_how_the_work_is_done_does_not_change_the_digest():
    hurried = load_settings(
        None,
        [
            "compute.workers=8",
            "compute.device=cuda",
            "dask.address=tcp://10.0.0.1:8786",
            "flow.retries=0",
            "runs_dir=/elsewhere",
            "mine.embed.batch_crops=1",
            "mine.propose.batch_images=2",
            "evaluate.batch_crops=1",
            "finetune.gradient_checkpointing=true",
            "finetune.accumulation_steps=4",
            "finetune.checkpoints.keep_last=9",
            "proposal_net.training.accumulation_steps=4",
            "proposal_net.training.gradient_checkpointing=true",
            "compute.deterministic=true",
            "proposal_net.training.checkpoints.every_steps=1",
        ],
    )
    assert hurried != Settings()
    assert result_settings(hurried) == result_settings(Settings())


@pytest.mark.parametrize(
    "flag",
    [
        "proposal_net.training.batch_images=16",
        "proposal_net.architecture.backbone.freeze_at=2",
        "proposal_net.held_out_classes=['cow']",
        "proposal_net.training.loss.unlabelled_pixels=left_out",
        "mine.source=proposals-5-captions",
        "mine.embed.precision=bf16",
        "mine.embed.share_above_iou=0.98",
        "mine.embed.blank_patches=dropped",
        "finetune.blank_patches=dropped",
        "mine.nouns.stop_words=['photo']",
        "mine.nouns.shipped_stop_words=true",
        "mine.nouns.fixed_expressions=true",
        "mine.nouns.lemmas=false",
        "finetune.mpt.learning_rate=0.05",
        "datasets.drawn={dataset='drawn-world', split='val'}",
        "evaluate.sweep.mask_thresholds=[0.5]",
        "clip.pretrained=random",
    ],
)
def test_what_is_done_changes_the_digest(flag):
    assert result_settings(load_settings(None, [flag])) != result_settings(Settings())


def test_settings_that_came_later_leave_digests_as_they_were():
    settings = Settings()
    assert settings.mine.embed.share_above_iou == 1
    assert settings.mine.embed.blank_patches == settings.finetune.blank_patches == "kept"
    assert result_settings(settings.mine.embed) == {"precision": "fp32"}
    assert "blank_patches" not in result_settings(settings.finetune)
    given = load_settings(None, ["mine.embed.share_above_iou=1.0", "finetune.blank_patches=kept"])
    assert result_settings(given) == result_settings(settings)


def test_result_settings_are_json_without_sections_that_change_nothing():
    found = result_settings(Settings())
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert {"compute", "dask", "flow", "runs_dir"}.isdisjoint(found)
    assert "checkpoints" not in found["finetune"]
    assert result_settings(Settings().compute) == {}


def test_from_one_caption_to_five_only_the_last_mining_step_changes():
    one, five = (load_settings(None, [f"mine.source=proposals-{count}"]).mine for count in ("1-caption", "5-captions"))
    assert (one.captions_per_image, five.captions_per_image) == (1, 5)
    assert one.uses_ground_truth_masks == five.uses_ground_truth_masks is False
    assert result_settings(one.propose) == result_settings(five.propose)
    assert result_settings(one.embed) == result_settings(five.embed)


@pytest.mark.parametrize(
    ("source", "ground_truth", "captions"), [("masks-classes", True, 0), ("masks-1-caption", True, 1)]
)
def test_sources_with_ground_truth_masks(source, ground_truth, captions):
    mine = load_settings(None, [f"mine.source={source}"]).mine
    assert (mine.uses_ground_truth_masks, mine.captions_per_image) == (ground_truth, captions)


@pytest.mark.parametrize(("mode", "phases"), [("ft", ("ft",)), ("mpt-then-ft", ("mpt", "ft")), ("ft+mpt", ("ft+mpt",))])
def test_phases_of_a_mode(mode, phases):
    assert load_settings(None, [f"finetune.mode={mode}"]).finetune.phases == phases


# What stages take from settings


def test_the_names_of_prompt_templates_are_those_that_the_models_know():
    assert get_args(PromptTemplates) == PROMPT_TEMPLATE_NAMES


def test_defaults_are_valid():
    assert Settings.model_validate(Settings().model_dump()) == Settings()


@pytest.mark.parametrize(
    "flag",
    ["evaluate.mask_threshold={}", "evaluate.sweep.mask_thresholds=[{}]", "mine.propose.mask_threshold={}"],
)
def test_no_setting_takes_a_mask_threshold_that_a_segmenter_refuses(flag):
    for refused in (1.0, -0.1):
        with pytest.raises(ValueError, match=r"mask_threshold is .*, 0 to below 1 is expected"):
            SegmenterSettings(mask_threshold=refused)
        with pytest.raises(SettingsError, match=r"mask_threshold.*(less than 1|greater than or equal to 0)"):
            load_settings(None, [flag.format(refused)])
    for taken in (0.0, 0.999):
        assert SegmenterSettings(mask_threshold=taken)
        load_settings(None, [flag.format(taken)])


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Settings().finetune.seed = 3


def test_the_runner_gets_its_own_defaults_from_default_settings():
    assert Execution.of(Settings()) == Execution()


def test_the_runner_gets_what_the_settings_say():
    settings = load_settings(None, ["compute.workers=3", "dask.address=tcp://h:1", "compute.max_failed_units=2"])
    execution = Execution.of(settings)
    assert execution.compute == Compute(workers=3, dask_address="tcp://h:1")
    assert execution.limits.max_failed_units == 2


@pytest.mark.parametrize(
    ("config", "preset", "kind"),
    [
        ("ovseg_r101c_vitb16.toml", "r101c", {"freeze_at": 2, "frozen_batch_norm": True}),
        ("ovseg_swinb_vitl14.toml", "swin_b", {"drop_path_rate": 0.3}),
    ],
)
def test_the_papers_architectures_are_the_models_presets(config, preset, kind):
    arguments = load_settings(CONFIGS / config).proposal_net.architecture.arguments()
    assert arguments["backbone_arguments"] == kind
    assert arguments["pretrained"] is not False
    expected = PRESETS[preset]
    built = ProposalNetArguments(
        **arguments | {"backbone_arguments": {}, "pretrained": False},
        embedding_dim=expected.embedding_dim,
        no_object_std=expected.no_object_std,
    )
    assert built == expected


# The shipped configurations


def test_there_are_five_configurations():
    assert sorted(path.name for path in CONFIGS.glob("*.toml")) == [
        "coco_sample.toml",
        "demo.toml",
        "ovseg_r101c_vitb16.toml",
        "ovseg_swinb_vitl14.toml",
        "own_data.toml",
    ]
