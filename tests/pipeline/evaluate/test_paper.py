"""The paper's numbers stand where they belong and nowhere else."""

from pathlib import Path

import pytest

from pipeline.evaluate.report.paper import PAPER_ABLATIONS, paper_miou, paper_setting
from pipeline.evaluate.variants import ablation_variants, main_variant
from pipeline.settings import Settings, load_settings

CONFIGS = Path(__file__).parents[3] / "flows" / "configs"
VOCABULARIES = ("ade20k-847", "pascal-context-459", "ade20k-150", "pascal-context-59", "pascal-voc-20")


def settings_of(name: str = "ovseg_swinb_vitl14", **overrides: str) -> Settings:
    return load_settings(CONFIGS / f"{name}.toml", tuple(f"{key}={value}" for key, value in overrides.items()))


def miou_of(settings: Settings, vocabulary: str = "ade20k-150") -> dict[str, float | None]:
    variants = ablation_variants(settings.evaluate, 0.7)
    return {variant.name: paper_miou(settings, vocabulary, variant) for variant in variants}


@pytest.mark.parametrize(
    ("config", "overrides", "expected"),
    [
        ("ovseg_swinb_vitl14", {}, (9.0, 12.4, 29.6, 55.7, 94.5)),
        ("ovseg_r101c_vitb16", {}, (7.1, 11.0, 24.8, 53.3, 92.6)),
        ("ovseg_swinb_vitl14", {"evaluate.clip": "original"}, (7.3, None, 21.8, 51.4, None)),
        ("ovseg_swinb_vitl14", {"finetune.mode": "mpt"}, (8.4, None, 26.5, 55.4, None)),
        ("ovseg_swinb_vitl14", {"finetune.mode": "ft"}, (8.8, None, 28.8, 55.7, None)),
        ("ovseg_swinb_vitl14", {"finetune.mode": "mpt-then-ft"}, (8.5, None, 28.1, None, None)),
        ("ovseg_swinb_vitl14", {"finetune.mode": "ft+mpt"}, (8.8, None, 29.0, None, None)),
        ("ovseg_r101c_vitb16", {"evaluate.clip": "original"}, (None,) * 5),
        ("ovseg_r101c_vitb16", {"finetune.prompt_depth": "6"}, (None,) * 5),
        ("demo", {}, (None,) * 5),
        ("ovseg_swinb_vitl14", {"clip.pretrained": "random"}, (None,) * 5),
        ("ovseg_swinb_vitl14", {"evaluate.use_mask_prompts": "false"}, (None,) * 5),
        ("ovseg_swinb_vitl14", {"evaluate.masked_crops": "false"}, (None,) * 5),
        ("ovseg_swinb_vitl14", {"finetune.pairs_dir": "runs/pairs/elsewhere"}, (None,) * 5),
        ("ovseg_swinb_vitl14", {"mine.source": "proposals-5-captions"}, (None,) * 5),
    ],
)
def test_the_main_number_of_each_data_set(config, overrides, expected):
    settings = settings_of(config, **overrides)
    variant = main_variant(settings.evaluate, 0.7)
    assert tuple(paper_miou(settings, vocabulary, variant) for vocabulary in VOCABULARIES) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("masks-classes", (5.3, None, 23.0, 57.3, None)),
        ("masks-1-caption", (7.9, None, 24.2, 53.2, None)),
        ("proposals-1-caption", (8.8, None, 28.8, 55.7, None)),
        ("proposals-5-captions", (8.8, None, 28.6, 55.5, None)),
    ],
)
def test_other_pairs_have_their_own_numbers(source, expected):
    settings = settings_of(**{"finetune.mode": "ft", "mine.source": source})
    variant = main_variant(settings.evaluate, 0.7)
    assert tuple(paper_miou(settings, vocabulary, variant) for vocabulary in VOCABULARIES) == expected


@pytest.mark.parametrize(
    ("mode", "expected"), [("mpt", (25.7, 26.5, 26.8, 26.8)), ("ft-then-mpt", (29.3, 29.6, 29.4, 29.3))]
)
def test_other_prompt_depths_have_their_own_numbers(mode, expected):
    depths = [settings_of(**{"finetune.mode": mode, "finetune.prompt_depth": depth}) for depth in ("1", "3", "6", "12")]
    found = [paper_miou(settings, "ade20k-150", main_variant(settings.evaluate, 0.7)) for settings in depths]
    assert tuple(found) == expected


def test_the_parts_on_ade20k_150():
    found = miou_of(settings_of())
    assert {name: value for name, value in found.items() if value is not None} == {
        "ensemble": 29.6,
        "proposal-net-only": 19.6,
        "clip-only": 25.1,
        "true-masks-original": 20.1,
        "true-boxes-original": 13.8,
        "oracle-labels": 66.5,
        "adapted-ensemble": 29.6,
        "adapted-clip-only": 25.1,
        "original-ensemble": 21.8,
        "original-clip-only": 14.3,
    }
    assert set(miou_of(settings_of(), "camvid").values()) == {None}


def test_clip_alone_has_no_number_without_its_prompts():
    found = miou_of(settings_of(**{"evaluate.use_mask_prompts": "false"}))
    assert (found["clip-only"], found["original-clip-only"], found["proposal-net-only"]) == (None, 14.3, 19.6)


def test_one_pass_has_no_number_of_the_papers():
    found = miou_of(settings_of(**{"evaluate.namer": "one-pass"}))
    assert (found["ensemble"], found["clip-only"], found["original-clip-only"]) == (None, None, None)
    assert (found["proposal-net-only"], found["crops"]) == (19.6, 29.6)
    mined = miou_of(settings_of(**{"mine.embed.namer": "one-pass"}))
    assert (mined["ensemble"], mined["original-clip-only"]) == (None, 14.3)


def test_each_section_of_the_report_names_the_papers_place_and_numbers():
    shown = {section: (paper.place, [value for _, value in paper.rows]) for section, paper in PAPER_ABLATIONS.items()}
    assert shown == {
        "branches": ("Table 5", [19.6, 14.3, 25.1, 21.8, 29.6]),
        "bottleneck": ("Figure 1(c)", [20.1, 13.8, 66.5]),
        "adaptation": ("Tables 3 and 6", [21.8, 26.5, 28.8, 29.6, 28.1, 29.0]),
    }


def test_only_the_papers_two_models_have_numbers():
    assert paper_setting(settings_of()) == "swin-b"
    assert paper_setting(settings_of("ovseg_r101c_vitb16")) == "r101c"
    assert paper_setting(settings_of("demo")) is None
