"""The paper's numbers stand where they belong and nowhere else."""

from pathlib import Path

import pytest

from pipeline.evaluate.report.paper import paper_miou, paper_setting
from pipeline.evaluate.variants import ablation_variants, main_variant
from pipeline.settings import Settings, load_settings

CONFIGS = Path(__file__).parents[3] / "flows" / "configs"


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
        ("ovseg_r101c_vitb16", {"evaluate.clip": "original"}, (None,) * 5),
        ("demo", {}, (None,) * 5),
        ("ovseg_swinb_vitl14", {"clip.pretrained": "random"}, (None,) * 5),
    ],
)
def test_the_main_number_of_each_data_set(config, overrides, expected):
    settings = settings_of(config, **overrides)
    vocabularies = ("ade20k-847", "pascal-context-459", "ade20k-150", "pascal-context-59", "pascal-voc-20")
    variant = main_variant(settings.evaluate, 0.7)
    assert tuple(paper_miou(settings, vocabulary, variant) for vocabulary in vocabularies) == expected


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


def test_only_the_papers_two_models_have_numbers():
    assert paper_setting(settings_of()) == "swin-b"
    assert paper_setting(settings_of("ovseg_r101c_vitb16")) == "r101c"
    assert paper_setting(settings_of("demo")) is None
