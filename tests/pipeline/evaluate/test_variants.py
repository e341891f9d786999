"""Ways of predicting: what settings ask for, and what the ablations are made of."""

import pytest

from pipeline.evaluate.variants import ablation_variants, main_variant, views_of
from pipeline.settings import EvaluateSettings


@pytest.mark.parametrize(
    ("settings", "weight", "name", "clip_has_a_say"),
    [
        ({}, 0.7, "ensemble", True),
        ({}, 0.0, "proposal-net-only", False),
        ({}, 1.0, "clip-only", True),
        ({"oracle_labels": True, "mask_threshold": 0.4}, 0.7, "oracle-labels", False),
        ({"proposals": "ground-truth"}, 0.7, "ground-truth-masks", True),
        ({"proposals": "ground-truth", "oracle_labels": True, "mask_threshold": 0.4}, 0.7, "ground-truth", True),
    ],
)
def test_the_main_variant_is_what_the_settings_ask_for(settings, weight, name, clip_has_a_say):
    variant = main_variant(EvaluateSettings(**settings), weight)
    assert (variant.name, variant.view is not None) == (name, clip_has_a_say)
    assert variant.oracle_threshold == (0.4 if name in {"oracle-labels", "ground-truth"} else None)
    assert variant.needs_proposals == (name not in {"ground-truth-masks", "ground-truth"})


def test_the_view_follows_the_switches():
    plain = main_variant(EvaluateSettings(), 0.7).view
    assert (plain.clip, plain.masked, plain.mask_prompts, plain.mask_threshold) == ("adapted", True, True, 0.5)
    assert not main_variant(EvaluateSettings(use_mask_prompts=False), 0.7).view.mask_prompts
    unmasked = main_variant(EvaluateSettings(masked_crops=False), 0.7).view
    assert (unmasked.masked, unmasked.mask_prompts) == (False, False)
    assert not main_variant(EvaluateSettings(clip="original"), 0.7).view.mask_prompts


def test_ablations_hold_every_part_of_the_paper_once():
    settings = EvaluateSettings(
        sweep={"ensemble_weights": [0.0, 0.5, 1.0], "mask_thresholds": [0.4], "finetune_modes": ["ft"]}
    )
    variants = ablation_variants(settings, 0.7)
    names = [variant.name for variant in variants]
    assert len(set(names)) == len(names)
    assert names[0] == "ensemble"
    assert {
        *("proposal-net-only", "clip-only", "no-mask-prompts", "unmasked-crops", "oracle-labels"),
        *("true-masks-original", "true-masks-adapted", "true-boxes-original"),
        *("original-ensemble", "original-clip-only", "ft-ensemble", "ft-clip-only", "adapted-clip-only"),
        *("weight-0.00", "weight-0.50", "weight-0.70", "weight-1.00", "threshold-0.40", "threshold-0.50"),
    } <= set(names)
    by_name = {variant.name: variant for variant in variants}
    assert by_name["weight-0.70"].prediction_key() == by_name["ensemble"].prediction_key()
    assert by_name["threshold-0.40"].view.mask_threshold == 0.4
    assert by_name["original-ensemble"].view.clip == "original"


def test_one_pass_is_compared_with_crops_and_has_nothing_masked_or_prompted():
    settings = EvaluateSettings(namer="one-pass", picture_side_px=448, window_stride_px=112, masked_crops=False)
    main = main_variant(settings, 0.7)
    assert (main.view.namer, main.view.masked, main.view.mask_prompts) == ("one-pass", True, False)
    assert main.view.slug == "adapted-t500-one-pass-px448-stride112"
    assert main.to_json()["view"]["picture_side_px"] == 448
    assert "picture_side_px" not in main_variant(EvaluateSettings(), 0.7).to_json()["view"]
    by_name = {variant.name: variant for variant in ablation_variants(settings, 0.7)}
    assert by_name["crops"].view == main_variant(EvaluateSettings(masked_crops=False), 0.7).view
    assert by_name["true-masks-adapted"].view.namer == by_name["threshold-0.40"].view.namer == "one-pass"
    assert not {"no-mask-prompts", "unmasked-crops", "true-boxes-adapted"} & by_name.keys()
    views = views_of(tuple(by_name.values()))
    assert len({view.slug for view in views}) == len(views)


def test_views_are_few_and_their_slugs_differ():
    views = views_of(ablation_variants(EvaluateSettings(sweep={"finetune_modes": ["ft+mpt"]}), 0.7))
    assert len({view.slug for view in views}) == len(views) == len(set(views)) == 14
    assert all(set(view.slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for view in views)


def test_the_original_clip_alone_has_no_prompts_to_be_switched_off():
    names = [variant.name for variant in ablation_variants(EvaluateSettings(clip="original"), 0.7)]
    assert "no-mask-prompts" not in names
    assert names.count("original-ensemble") == 1


def test_zegformers_ensemble_is_a_variant_of_its_own_and_leaves_others_their_identity():
    plain, unseen = (main_variant(EvaluateSettings(), 0.7, unseen_only=only) for only in (False, True))
    assert "unseen_only" not in plain.to_json()
    assert unseen.to_json() == {**plain.to_json(), "name": "unseen-ensemble", "unseen_only": True}
    assert plain.prediction_key() != unseen.prediction_key()
    assert ablation_variants(EvaluateSettings(), 0.7, unseen_only=True)[0] == unseen
