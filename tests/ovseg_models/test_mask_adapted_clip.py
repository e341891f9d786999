"""Identities of the mask-adapted CLIP, naive twins of its forward pass, and its gradients.

Beside open_clip's own forward pass, which computes all tokens of the last layer, the class token alone is equal to
within rounding: `ROUNDING`, on embeddings of length 1.
"""

import itertools

import open_clip
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ovseg_models import mask_adapted_clip
from ovseg_models.contrastive_loss import contrastive_loss
from ovseg_models.mask_adapted_clip import MaskAdaptedClip, length_groups, select_trainable
from ovseg_models.pretrained_clip import build_clip
from ovseg_models.weights import image_tower_weights, text_tower_weights, weights_digest
from tests.operations import CountedOperations

ROUNDING = 7e-7
VARIANTS = [
    {},
    {"quick_gelu": True},
    {"custom_text": True},
    {"vision_cfg": {"ls_init_value": 0.1, "no_ln_pre": True}},
    {"vision_cfg": {"pool_type": "avg", "final_ln_after_pool": True, "pos_embed_type": "sin_cos_2d"}},
    {"vision_cfg": {"qk_norm": True, "scale_attn": True, "scale_fc": True}},
]


def variant_of(config, changes):
    return {**config, **changes, "vision_cfg": {**config["vision_cfg"], **changes.get("vision_cfg", {})}}


@pytest.fixture
def adapted(tiny_clip_config):
    return MaskAdaptedClip(build_clip(tiny_clip_config), prompt_depth=3, prompt_seed=1)


def inputs(count=3, seed=0, share=0.5, side=16, patches=16):
    generator = torch.Generator().manual_seed(seed)
    crops = torch.randn(count, 3, side, side, generator=generator)
    return crops, torch.rand(count, patches, generator=generator) < share


def naive_embedding(model, crop, mask, *, dropped=False):
    """One crop, token by token, with the mask as numbers: x * m + P * (1 - m); blank tokens may leave after that."""
    visual, prompts = model.clip.visual, [] if model.mask_prompts is None else model.mask_prompts
    patch_px, side = visual.patch_size[0], visual.image_size[0]
    tokens = []
    for top in range(0, side, patch_px):
        for left in range(0, side, patch_px):
            pixels = crop[:, top : top + patch_px, left : left + patch_px]
            tokens.append((visual.conv1.weight * pixels).sum(dim=(1, 2, 3)))
    kept = [float(value) for value in mask]
    if len(prompts):
        tokens = [token * m + prompts[0, i] * (1 - m) for i, (token, m) in enumerate(zip(tokens, kept, strict=True))]
    x = visual.ln_pre(torch.stack([visual.class_embedding, *tokens]) + visual.positional_embedding)
    for number, block in enumerate(visual.transformer.resblocks, start=1):
        if dropped and number == len(prompts) + 1:
            x = torch.stack([x[0], *(x[i + 1] for i, m in enumerate(kept) if m)])
        x = block(x[None])[0]
        if number < len(prompts):
            x = torch.stack([x[0], *(x[i + 1] * m + prompts[number, i] * (1 - m) for i, m in enumerate(kept))])
    embedding = visual.ln_post(x[0]) @ visual.proj
    return embedding / embedding.norm()


@torch.no_grad()
def test_masked_forward_equals_the_naive_twin(adapted):
    crops, patch_mask = inputs(count=4)
    found = adapted.encode_image(crops, patch_mask)
    expected = torch.stack([naive_embedding(adapted, *pair) for pair in zip(crops, patch_mask, strict=True)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - adapted.encode_image(crops)).abs().max() > 1e-3


@pytest.mark.parametrize("changes", VARIANTS)
@torch.no_grad()
def test_all_true_mask_equals_open_clip(tiny_clip_config, changes):
    clip = build_clip(variant_of(tiny_clip_config, changes))
    crops, _ = inputs()
    expected = clip.encode_image(crops, normalize=True)
    model = MaskAdaptedClip(clip, prompt_depth=3, prompt_seed=1)
    found = model.encode_image(crops, torch.ones(3, 16, dtype=torch.bool))
    torch.testing.assert_close(found, expected, atol=ROUNDING, rtol=0)
    assert torch.equal(found, model.encode_image(crops))
    assert (model.encode_image(crops, torch.zeros(3, 16, dtype=torch.bool)) - expected).abs().max() > 1e-3


@torch.no_grad()
def test_without_mask_or_prompts_it_is_open_clip(tiny_clip_config):
    clip = build_clip(tiny_clip_config)
    crops, patch_mask = inputs()
    tokens = open_clip.SimpleTokenizer(context_length=16)(["a boat", "a cow"])
    expected = clip.encode_image(crops, normalize=True)
    found = MaskAdaptedClip(clip, prompt_depth=3, prompt_seed=1).encode_image(crops)
    torch.testing.assert_close(found, expected, atol=ROUNDING, rtol=0)
    without_prompts = MaskAdaptedClip(clip, prompt_depth=0)
    assert without_prompts.mask_prompts is None
    assert set(without_prompts.state_dict()) == {f"clip.{name}" for name in clip.state_dict()}
    assert torch.equal(without_prompts.encode_image(crops, patch_mask), found)
    assert torch.equal(without_prompts.encode_text(tokens), clip.encode_text(tokens, normalize=True))


@torch.no_grad()
def test_all_true_mask_equals_open_clip_in_mixed_precision(tiny_clip_config):
    clip = build_clip(tiny_clip_config)
    crops, _ = inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = clip.encode_image(crops, normalize=True)
        found = MaskAdaptedClip(clip, prompt_seed=1).encode_image(crops, torch.ones(3, 16, dtype=torch.bool))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(found, expected.float(), atol=2e-2, rtol=0)  # bfloat16 keeps 8 bits


@torch.no_grad()
def test_prompts_keep_the_tokens_in_single_precision_between_layers_of_half(tiny_clip_config):
    model = MaskAdaptedClip(build_clip(tiny_clip_config), prompt_depth=2, prompt_seed=1)
    crops, patch_mask = inputs()
    between, products = [], []
    for block in model.clip.visual.transformer.resblocks:
        block.register_forward_pre_hook(lambda _, given: between.append(given[0].dtype))
        block.mlp.c_fc.register_forward_hook(lambda _, __, result: products.append(result.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.encode_image(crops, patch_mask)
        assert set(between) == {torch.float32}
        between.clear()
        model.encode_image(crops)  # without a mask it is open_clip, all in half precision
    assert set(between) == set(products) == {torch.bfloat16}


@pytest.mark.parametrize("prompted", [False, True])
def test_the_class_token_alone_has_the_gradients_of_all_tokens(tiny_clip_config, monkeypatch, prompted):
    model = MaskAdaptedClip(build_clip(tiny_clip_config), prompt_depth=4, prompt_seed=1)
    crops, patch_mask = inputs()
    results, rows = [], []
    last_mlp = model.clip.visual.transformer.resblocks[-1].mlp
    last_mlp.register_forward_hook(lambda _, given, __: rows.append(given[0].shape[1]))
    for all_tokens in (False, True):
        if all_tokens:  # a tower's twin whose pooling is not known to need one token
            monkeypatch.setattr(mask_adapted_clip, "_layer", lambda block, tokens, **_: block(tokens))
        model.zero_grad()
        embeddings = model.encode_image(crops, patch_mask if prompted else None)
        (embeddings * torch.linspace(-1, 1, 16)).sum().backward()
        results.append([embeddings, *(each.grad for each in model.parameters() if each.grad is not None)])
    assert rows == [1, 17]
    assert len(results[0]) == len(results[1]) > 50
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_batch_equals_single_crops_and_permutes(adapted):
    crops, patch_mask = inputs(count=5)
    together = adapted.encode_image(crops, patch_mask)
    alone = torch.cat([adapted.encode_image(crops[i : i + 1], patch_mask[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(alone, together, atol=1e-6, rtol=0)
    order = torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(
        adapted.encode_image(crops[order], patch_mask[order]), together[order], atol=1e-6, rtol=0
    )
    assert adapted.encode_image(crops[:0], patch_mask[:0]).shape == (0, 16)
    assert adapted.encode_image(crops[:0]).shape == (0, 16)


@pytest.mark.parametrize("depth", [1, 2, 4])
@torch.no_grad()
def test_each_depth_equals_the_naive_twin(tiny_clip_config, depth):
    model = MaskAdaptedClip(build_clip(tiny_clip_config), prompt_depth=depth, prompt_seed=2)
    assert model.prompt_depth == depth
    crops, patch_mask = inputs(count=1, seed=depth)
    expected = naive_embedding(model, crops[0], patch_mask[0])
    torch.testing.assert_close(model.encode_image(crops, patch_mask)[0], expected, atol=1e-5, rtol=0)


def test_prompts_of_kept_patches_get_no_gradient(adapted):
    crops, patch_mask = inputs(count=3, share=0.4)
    adapted.encode_image(crops, patch_mask)[:, 0].sum().backward()
    kept_by_all = patch_mask.all(dim=0)
    gradient = adapted.mask_prompts.grad.abs().sum(dim=2)
    assert kept_by_all.any()
    assert (gradient[:, kept_by_all] == 0).all()
    assert (gradient[:, ~kept_by_all] > 0).all()


def test_gradient_of_the_prompts_by_finite_differences(tiny_clip_config):
    tiny_clip_config["vision_cfg"] |= {"image_size": 8, "width": 4, "head_width": 4, "layers": 2}
    model = MaskAdaptedClip(build_clip(tiny_clip_config), prompt_depth=2, prompt_seed=0).double()
    crops, patch_mask = inputs(count=2, side=8, patches=4)
    tokens = torch.ones(2, 16, dtype=torch.long)

    def embedding(prompts):
        parameters = {"mask_prompts": prompts}
        return torch.func.functional_call(model, parameters, (crops.double(), patch_mask, tokens))[0]

    assert torch.autograd.gradcheck(embedding, (model.mask_prompts,))


def test_gradient_checkpointing_changes_no_gradient(adapted):
    crops, patch_mask = inputs()
    gradients = []
    for enabled in (False, True):
        adapted.set_grad_checkpointing(enabled)
        adapted.zero_grad()
        adapted.encode_image(crops, patch_mask)[:, 0].sum().backward()
        gradients.append(
            {name: value.grad.clone() for name, value in adapted.named_parameters() if value.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys()
    assert "mask_prompts" in gradients[0]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-7, rtol=0)


def test_forward_gives_both_embeddings_and_the_factor(adapted):
    crops, patch_mask = inputs(count=2)
    tokens = open_clip.SimpleTokenizer(context_length=16)(["a boat", "a cow"])
    image_features, text_features, scale = adapted(crops, patch_mask, tokens)
    assert torch.equal(image_features, adapted.encode_image(crops, patch_mask))
    assert torch.equal(text_features, adapted.encode_text(tokens))
    torch.testing.assert_close(scale.item(), 1 / 0.07)


@pytest.mark.parametrize(("value", "clamped"), [(-1.0, 0.0), (2.5, 2.5), (9.0, 4.605170)])
def test_logit_scale_is_kept_in_bounds(adapted, value, clamped):
    torch.nn.init.constant_(adapted.logit_scale, value)
    adapted.clamp_logit_scale()
    assert adapted.clip.logit_scale.item() == pytest.approx(clamped)


def test_new_prompts_are_zero_or_small_and_reproducible(tiny_clip_config):
    tiny_clip_config["vision_cfg"]["width"] = 256
    clip = build_clip(tiny_clip_config)
    assert not MaskAdaptedClip(clip).mask_prompts.any()
    prompts = MaskAdaptedClip(clip, prompt_seed=3).mask_prompts
    assert prompts.shape == (3, 16, 256)
    assert prompts.std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.equal(prompts, MaskAdaptedClip(clip, prompt_seed=3).mask_prompts)
    assert not torch.equal(prompts, MaskAdaptedClip(clip, prompt_seed=4).mask_prompts)


@pytest.mark.parametrize(
    ("name", "shape", "numbers", "crop_px", "patch_px"),
    [("ViT-B-16", (3, 196, 768), 451_584, 224, 16), ("ViT-L-14", (3, 256, 1024), 786_432, 224, 14)],
)
def test_prompts_of_the_published_models(name, shape, numbers, crop_px, patch_px):
    with torch.device("meta"):
        model = MaskAdaptedClip(open_clip.CLIP(**open_clip.get_model_config(name)), prompt_depth=3)
    assert tuple(model.mask_prompts.shape) == shape
    assert model.mask_prompts.numel() == numbers
    assert (model.crop_px, model.patch_px) == (crop_px, patch_px)


@pytest.mark.parametrize(
    ("vision_cfg", "message"),
    [
        ({"output_tokens": True}, r"tokens beside the embedding \(output_tokens\)"),
        ({"pool_type": "none"}, r"no pooling \(pool_type 'none'\)"),
        ({"image_size": (16, 32)}, r"an oblong image, \(16, 32\) px"),
        ({"patch_size": (4, 8), "pool_type": "none"}, r"no pooling \(pool_type 'none'\), oblong patches, \(4, 8\) px"),
    ],
)
def test_towers_that_do_not_go_with_prompts_are_refused(tiny_clip_config, vision_cfg, message):
    clip = open_clip.CLIP(**variant_of(tiny_clip_config, {"vision_cfg": vision_cfg}))
    with pytest.raises(ValueError, match=f"MaskAdaptedClip: the image tower has {message}; a plain vision transformer"):
        MaskAdaptedClip(clip)


def test_a_tower_with_tokens_first_is_refused(tiny_clip_config):
    clip = build_clip(tiny_clip_config)
    clip.visual.transformer.batch_first = False
    with pytest.raises(ValueError, match=r"the image tower has tokens before crops \(batch_first False\)"):
        MaskAdaptedClip(clip)


def test_prompts_in_a_resnet_are_refused(tiny_clip_config):
    tiny_clip_config["vision_cfg"] = {"image_size": 32, "layers": (1, 1, 1, 1), "width": 8}
    clip = open_clip.CLIP(**tiny_clip_config)
    with pytest.raises(ValueError, match=r"prompt_depth is 3, .*ModifiedResNet.* no patch tokens.*in mode 'ft'"):
        MaskAdaptedClip(clip)
    with pytest.raises(ValueError, match=r"blank_patches is 'dropped', .*ModifiedResNet.* no patch tokens"):
        MaskAdaptedClip(clip, prompt_depth=0, blank_patches="dropped")
    clip.visual = torch.nn.Identity()
    with pytest.raises(TypeError, match=r"the image tower is Identity, one of open_clip's .* is expected"):
        MaskAdaptedClip(clip, prompt_depth=0)


@pytest.mark.parametrize("depth", [-1, 5])
def test_prompt_depth_out_of_bounds_is_refused(tiny_clip_config, depth):
    with pytest.raises(ValueError, match=rf"prompt_depth is {depth}, expected 0 to 4"):
        MaskAdaptedClip(build_clip(tiny_clip_config), prompt_depth=depth)


def test_embeddings_have_unit_length(adapted):
    crops, patch_mask = inputs()
    for embeddings in (adapted.encode_image(crops, patch_mask), adapted.encode_image(crops)):
        torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(3))


# Blank patches that leave the sequence


@pytest.fixture(params=[0, 10_000], ids=["groups of one length", "one padded group"])
def group_tokens(request, monkeypatch):
    monkeypatch.setattr(mask_adapted_clip, "GROUP_TOKENS_CPU", request.param)
    return request.param


def dropping(config, depth=3):
    clip = build_clip(config)
    return MaskAdaptedClip(clip, prompt_depth=depth, prompt_seed=1, blank_patches="dropped")


def inputs_of_many_lengths(count=6):
    crops, patch_mask = inputs(count)
    patch_mask[0], patch_mask[1] = True, False  # all that the crop shows, and the class token alone
    return crops, patch_mask


@pytest.mark.parametrize("depth", [0, 1, 3, 4])
def test_without_blank_patches_each_crop_equals_its_naive_twin(tiny_clip_config, group_tokens, depth):
    model = dropping(tiny_clip_config, depth)
    crops, patch_mask = inputs_of_many_lengths()
    found = model.encode_image(crops, patch_mask)
    twins = [naive_embedding(model, *pair, dropped=True) for pair in zip(crops, patch_mask, strict=True)]
    torch.testing.assert_close(found, torch.stack(twins), atol=1e-5, rtol=0)
    kept = MaskAdaptedClip(model.clip, prompt_depth=depth, prompt_seed=1).encode_image(crops, patch_mask)
    changed = (found - kept).abs().amax(dim=1) > 1e-4
    assert changed.tolist() == [False, *[depth < 4] * 5]  # nothing is blank in the first; after layer 4 none reads


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("depth", [0, 2])
def test_gradients_without_blank_patches_equal_those_of_the_naive_twin(
    tiny_clip_config, group_tokens, depth, recompute
):
    model = dropping(tiny_clip_config, depth)
    model.set_grad_checkpointing(recompute)
    crops, patch_mask = inputs_of_many_lengths()
    slopes = torch.randn(6, 16, generator=torch.Generator().manual_seed(5))
    gradients = []
    for embed in (
        lambda: model.encode_image(crops, patch_mask),
        lambda: torch.stack(
            [naive_embedding(model, *each, dropped=True) for each in zip(crops, patch_mask, strict=True)]
        ),
    ):
        model.zero_grad()
        (embed() * slopes).sum().backward()
        gradients.append({name: each.grad for name, each in model.named_parameters() if each.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert len(gradients[0]) > 50
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(
            gradients[0][name], gradient, atol=2e-5, rtol=1e-4, msg=lambda printed, n=name: f"{n} {printed}"
        )


@torch.no_grad()
def test_blank_patches_are_dropped_where_prompts_are_not_used_too(tiny_clip_config, group_tokens):
    model = dropping(tiny_clip_config)
    crops, patch_mask = inputs_of_many_lengths()
    bare = MaskAdaptedClip(model.clip, prompt_depth=0, blank_patches="dropped")
    expected = torch.stack([naive_embedding(bare, *pair, dropped=True) for pair in zip(crops, patch_mask, strict=True)])
    torch.testing.assert_close(model.encode_image(crops, patch_mask, use_prompts=False), expected, atol=1e-5, rtol=0)
    assert torch.equal(model.encode_image(crops), MaskAdaptedClip(model.clip).encode_image(crops))
    assert model.encode_image(crops[:0], patch_mask[:0]).shape == (0, 16)
    needs = [each.needs_patch_masks(use_prompts=use) for each in (model, bare) for use in (True, False)]
    assert needs == [True] * 4
    kept = MaskAdaptedClip(model.clip, prompt_depth=3)
    assert [kept.needs_patch_masks(use_prompts=use) for use in (True, False)] == [True, False]


@torch.no_grad()
def test_what_blank_patches_show_does_not_matter_once_they_are_dropped(tiny_clip_config, group_tokens):
    model = dropping(tiny_clip_config, depth=0)
    crops, patch_mask = inputs_of_many_lengths()
    blank_px = (~patch_mask).unflatten(1, (4, 4)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    other = torch.where(blank_px[:, None], 1e3, crops)
    assert torch.equal(model.encode_image(other, patch_mask), model.encode_image(crops, patch_mask))


@torch.no_grad()
def test_without_blank_patches_in_mixed_precision(tiny_clip_config, group_tokens):
    model = dropping(tiny_clip_config)
    crops, patch_mask = inputs_of_many_lengths()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.encode_image(crops, patch_mask)
    torch.testing.assert_close(found.float(), model.encode_image(crops, patch_mask), atol=2e-2, rtol=0)


def test_the_host_waits_once_for_the_number_of_tokens(tiny_clip_config):
    model = dropping(tiny_clip_config, depth=1)
    crops, patch_mask = inputs_of_many_lengths()
    with CountedOperations() as counted:
        model.encode_image(crops, patch_mask)
    assert dict(counted.waits) == {"cpu": 1}


def test_beside_the_number_of_tokens_a_device_is_never_waited_for(tiny_clip_config, monkeypatch):
    """A fake CUDA tensor has no numbers: the forward pass fails wherever it would read one, or mixes up devices."""
    crops, patch_mask = inputs_of_many_lengths()
    lengths = mask_adapted_clip._lengths_on_host(patch_mask)
    monkeypatch.setattr(mask_adapted_clip, "_lengths_on_host", lambda masks: lengths)
    with FakeTensorMode(), torch.device("cuda"):
        clip = open_clip.CLIP(**tiny_clip_config)
        model = MaskAdaptedClip(clip, prompt_depth=1, blank_patches="dropped")
        found = model.encode_image(torch.empty(crops.shape), torch.empty(patch_mask.shape, dtype=torch.bool))
    assert (found.device.type, tuple(found.shape)) == ("cuda", (6, 16))


@pytest.mark.parametrize("group_tokens", [0, 3, 20, 1000])
def test_length_groups_compute_the_least(group_tokens):
    generator = torch.Generator().manual_seed(group_tokens)
    lengths = torch.randint(1, 12, (9,), generator=generator).sort().values.tolist()
    costs = []
    for inner in itertools.product([False, True], repeat=8):  # every way of cutting the sequence of crops
        ends = [place for place, cut in enumerate([*inner, True], start=1) if cut]
        starts = [0, *ends[:-1]]
        costs.append(
            sum((end - start) * lengths[end - 1] + group_tokens for start, end in zip(starts, ends, strict=True))
        )
    groups = length_groups(lengths, group_tokens)
    assert sum(group.crops * group.tokens + group_tokens for group in groups) == min(costs)
    assert sum(group.crops for group in groups) == 9
    start = 0
    for group in groups:
        members = lengths[start : start + group.crops]
        assert (group.tokens, group.is_padded) == (max(members), len(set(members)) > 1)
        start += group.crops


def test_half_the_patches_take_about_half_the_multiplications(tiny_clip_config):
    tiny_clip_config["vision_cfg"] |= {"image_size": 64, "width": 64, "head_width": 32, "layers": 6}
    model = dropping(tiny_clip_config, depth=0)
    crops, patch_mask = inputs(count=64, side=64, patches=256)
    counts = []
    for given in (None, patch_mask):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.encode_image(crops, given)
        counts.append(counter.get_total_flops())
    assert 0.42 < counts[1] / counts[0] < 0.58


@pytest.mark.parametrize(
    ("vision_cfg", "found"),
    [
        ({"pool_type": "avg"}, "pool_type 'avg'"),
        ({"qk_norm": True, "scale_attn": True}, "attention of another kind"),
    ],
)
def test_towers_whose_tokens_cannot_be_dropped_are_refused(tiny_clip_config, vision_cfg, found):
    clip = build_clip(variant_of(tiny_clip_config, {"vision_cfg": vision_cfg}))
    with pytest.raises(
        ValueError, match=f"blank_patches is 'dropped' and the image tower has {found}.*set blank_patches"
    ):
        MaskAdaptedClip(clip, blank_patches="dropped")
    MaskAdaptedClip(clip)


@pytest.mark.usefixtures("without_shape_checks")
def test_an_unknown_way_with_blank_patches_is_refused(tiny_clip_config):
    with pytest.raises(ValueError, match=r"blank_patches is 'merged', one of \('kept', 'dropped'\) is expected"):
        MaskAdaptedClip(build_clip(tiny_clip_config), blank_patches="merged")


@pytest.fixture
def model(tiny_clip_config):
    return MaskAdaptedClip(build_clip(tiny_clip_config), prompt_depth=3, prompt_seed=0).train()


def take_steps(model, parameters, steps=3):
    """Train with weight decay, which would move a frozen weight if the optimizer had it."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.2)
    tokens = open_clip.SimpleTokenizer(context_length=16)(["a boat", "a cow", "a kite", "a bus"])
    for _ in range(steps):
        crops = torch.randn(4, 3, 16, 16, generator=generator)
        patch_mask = torch.rand(4, 16, generator=generator) < 0.5
        optimizer.zero_grad()
        contrastive_loss(*model(crops, patch_mask, tokens)).backward()
        optimizer.step()
        model.clamp_logit_scale()


def state_of(model):
    return {
        "image": weights_digest(image_tower_weights(model.clip)),
        "text": weights_digest(text_tower_weights(model.clip)),
        "prompts": weights_digest({"mask_prompts": model.mask_prompts}),
        "scale": weights_digest({"logit_scale": model.logit_scale}),
    }


@pytest.mark.parametrize(
    ("mode", "train_logit_scale", "changed"),
    [
        ("ft", True, {"image", "scale"}),
        ("mpt", True, {"prompts", "scale"}),
        ("mpt", False, {"prompts"}),
        ("ft+mpt", True, {"image", "prompts", "scale"}),
        ("ft+mpt", False, {"image", "prompts"}),
    ],
)
def test_a_mode_changes_its_weights_and_no_bit_of_the_others(model, mode, train_logit_scale, changed):
    before = state_of(model)
    trainable = select_trainable(model, mode, train_logit_scale=train_logit_scale)
    take_steps(model, trainable.values())
    after = state_of(model)
    assert {part for part in before if before[part] != after[part]} == changed


def test_ft_moves_every_weight_of_the_image_tower(model):
    before = {name: tensor.detach().clone() for name, tensor in image_tower_weights(model.clip).items()}
    take_steps(model, select_trainable(model, "ft").values())
    unmoved = [name for name, tensor in image_tower_weights(model.clip).items() if torch.equal(tensor, before[name])]
    assert unmoved == []


def test_a_later_mode_replaces_the_earlier_one(model):
    select_trainable(model, "ft")
    trainable = select_trainable(model, "mpt")
    assert set(trainable) == {"mask_prompts", "clip.logit_scale"}
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == set(trainable)


def test_number_of_parameters_that_mpt_trains():
    with torch.device("meta"):
        model = MaskAdaptedClip(open_clip.CLIP(**open_clip.get_model_config("ViT-B-16")), prompt_depth=3)
    assert sum(parameter.numel() for parameter in select_trainable(model, "mpt").values()) == 451_584 + 1


def test_mpt_without_prompts_is_refused(tiny_clip_config):
    model = MaskAdaptedClip(build_clip(tiny_clip_config), prompt_depth=0)
    with pytest.raises(ValueError, match=r"mode 'mpt' trains mask prompts, the model has none \(prompt_depth 0\)"):
        select_trainable(model, "mpt")


@pytest.mark.usefixtures("without_shape_checks")
def test_an_unknown_mode_is_refused(model):
    with pytest.raises(ValueError, match=r"mode is 'all', one of \('ft', 'mpt', 'ft\+mpt', 'query'\) is expected"):
        select_trainable(model, "all")
