"""One pass for all masks against naive twins in doubles: the towers' own layers on one sequence, masked by hand."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from ovseg_models.image_towers import token_tower
from ovseg_models.one_pass import OnePass, visible_patches
from ovseg_models.pretrained_clip import build_mask_adapted_clip
from tests.tiny_clips import FAMILIES, SIDE_PX, WITH_TOKENS, WITHOUT_TOKENS

TOKEN_TOWERS = ("OpenAI", "MobileCLIP-B", "EVA01", "EVA02", "mixed RoPE")


def model_of(name):
    model = build_mask_adapted_clip(FAMILIES[name], prompt_depth=0, seed=3)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():  # some begin with zeros, in which no fault shows
        parameter.data.nan_to_num_(0, 0, 0).add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def pictures_and_masks(model, masks=5, seed=0):
    """Two pictures, and masks of their patches, of which the first has all, the second none and the third one."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randn(2, 3, SIDE_PX, SIDE_PX, generator=generator)
    visible = torch.rand(2, masks, model.crop.patches, generator=generator) < 0.4
    visible[:, 0], visible[:, 1:3] = True, False
    visible[:, 2, 1] = True
    return pictures, visible


@pytest.mark.parametrize("name", WITH_TOKENS)
@torch.no_grad()
def test_the_picture_runs_as_it_does_without_masks_to_the_bit(name):
    model = model_of(name)
    pictures, visible = pictures_and_masks(model)
    last: list[torch.Tensor] = []
    block = model.tower.layers[-1]
    handle = block.register_forward_hook(lambda _, __, states: last.append(states))
    expected = functional.normalize(model.clip.visual(pictures)[0:2].float(), dim=-1)
    handle.remove()
    one_pass = OnePass(model)
    features = one_pass.features(pictures)
    assert torch.equal(features.last, last[0])
    assert torch.equal(one_pass.picture_embeddings(features), expected)
    one_pass.mask_embeddings(features, visible)
    assert torch.equal(features.last, last[0])


@pytest.mark.parametrize("name", WITH_TOKENS)
@torch.no_grad()
def test_a_mask_of_all_patches_is_the_picture(name):
    model = model_of(name).double()
    pictures, visible = pictures_and_masks(model)
    one_pass = OnePass(model)
    features = one_pass.features(pictures.double())
    found = one_pass.mask_embeddings(features, visible)
    torch.testing.assert_close(found[:, 0], one_pass.picture_embeddings(features), atol=1e-9, rtol=0)
    assert found.isfinite().all()
    assert ((found[:, 2] - found[:, 0]).norm(dim=-1) > 1e-3).all()  # a part is something else


@pytest.mark.parametrize("name", TOKEN_TOWERS)
@torch.no_grad()
def test_pooled_masks_are_the_mean_of_their_patches_in_the_class_tokens_place(name):
    model = model_of(name).double()
    pictures, visible = pictures_and_masks(model)
    one_pass = OnePass(model, pooled=True)
    assert not one_pass.has_mask_tokens
    features = one_pass.features(pictures.double())
    assert features.keys == ()  # which nobody reads
    found = one_pass.mask_embeddings(features, visible)
    prefix = model.tower.prefix
    for picture, states in enumerate(features.last):
        for mask, own in enumerate(visible[picture]):
            seen = own if own.any() else torch.ones_like(own)  # a mask of nothing pools all
            of_patches = [model.tower.pool(states[prefix + int(at)][None, None])[0] for at in seen.nonzero()[:, 0]]
            expected = functional.normalize(torch.stack(of_patches).mean(dim=0), dim=0)
            torch.testing.assert_close(found[picture, mask], expected, atol=1e-9, rtol=0)
    tokens = OnePass(model).mask_embeddings(OnePass(model).features(pictures.double()), visible)
    assert (tokens[:, 2] - found[:, 2]).norm(dim=-1).min() > 1e-3


@pytest.mark.parametrize("name", TOKEN_TOWERS)
@torch.no_grad()
def test_mask_tokens_equal_one_long_masked_sequence(name):
    """Mask tokens stand in the prefix, which is not rotated; the tower's own layers are told what sees what."""
    model = model_of(name)
    pictures, visible = pictures_and_masks(model)
    found = OnePass(model).mask_embeddings(OnePass(model).features(pictures), visible)
    twin = copy.deepcopy(model).double()
    tower = token_tower(twin.clip.visual)
    count, patches = visible.shape[1:]
    for picture in range(2):
        states, rotations = tower.tokens(tower.patches(pictures[picture : picture + 1].double()))
        states = torch.cat([states[:, :1].expand(-1, count, -1), states], dim=1)  # masks, prefix, patches
        seen = torch.zeros(states.shape[1], states.shape[1], dtype=torch.bool)
        seen[count:, count:] = True
        seen[:count, :count] = torch.eye(count, dtype=torch.bool)
        seen[:count, -patches:] = visible[picture]
        bias = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -torch.inf)
        for number, layer in enumerate(tower.layers):
            if hasattr(layer.attn, "num_prefix_tokens"):
                layer.attn.num_prefix_tokens = count + tower.prefix
                rope = rotations[number] if rotations is not None and rotations.ndim == 4 else rotations
                states = layer(states, rope=rope, attn_mask=bias)
            else:
                states = layer(states, attn_mask=bias)
        alone = [tower.pool(states[:, mask : mask + 1])[0] for mask in range(count)]
        expected = functional.normalize(torch.stack(alone), dim=-1)
        torch.testing.assert_close(found[picture].double(), expected, atol=1e-5, rtol=0)
        if hasattr(tower.layers[0].attn, "num_prefix_tokens"):
            for layer in tower.layers:
                layer.attn.num_prefix_tokens = tower.prefix


@pytest.mark.parametrize("name", [name for name in WITH_TOKENS if name not in TOKEN_TOWERS])
@torch.no_grad()
def test_pooled_masks_equal_a_tower_that_sees_no_other_patch_at_the_end(name):
    """The tower's own pool, on the tokens inside one mask alone."""
    model = model_of(name).double()
    pictures, visible = pictures_and_masks(model)
    one_pass = OnePass(model)
    assert not one_pass.has_mask_tokens
    features = one_pass.features(pictures.double())
    found = one_pass.mask_embeddings(features, visible)
    for picture in range(2):
        for mask, inside in enumerate(visible[picture]):
            kept = inside if inside.any() else torch.ones_like(inside)  # an empty mask pools all
            chosen = torch.cat([torch.ones(model.tower.prefix, dtype=torch.bool), kept])
            expected = model.tower.pool(features.last[picture : picture + 1, chosen])
            torch.testing.assert_close(
                found[picture, mask], functional.normalize(expected[0], dim=-1), atol=1e-9, rtol=0
            )


@pytest.mark.parametrize("name", WITH_TOKENS)
@torch.no_grad()
def test_order_number_and_company_of_masks_change_nothing(name):
    model = model_of(name)
    pictures, visible = pictures_and_masks(model, masks=6)
    one_pass = OnePass(model)
    features = one_pass.features(pictures)
    found = one_pass.mask_embeddings(features, visible)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(
        one_pass.mask_embeddings(features, visible[:, order]), found[:, order], atol=1e-6, rtol=0
    )
    torch.testing.assert_close(one_pass.mask_embeddings(features, visible[:, :4]), found[:, :4], atol=1e-6, rtol=0)
    for picture in range(2):
        alone = one_pass.features(pictures[picture : picture + 1])
        single = one_pass.mask_embeddings(alone, visible[picture : picture + 1])
        torch.testing.assert_close(single[0], found[picture], atol=1e-6, rtol=0)
    assert one_pass.mask_embeddings(features, visible[:, :0]).shape == (2, 0, model.embedding_dim)
    assert one_pass.features(pictures[:1]).keys == () or len(features.keys) == len(model.tower.layers)


@torch.no_grad()
def test_an_empty_mask_sees_nothing_of_the_picture():
    model = model_of("OpenAI")
    pictures, visible = pictures_and_masks(model)
    one_pass = OnePass(model)
    empty = one_pass.mask_embeddings(one_pass.features(pictures), visible)[:, 1]
    torch.testing.assert_close(empty[0], empty[1], atol=1e-6, rtol=0)


def test_gradients_reach_the_tower_through_masks():
    model = model_of("OpenAI")
    pictures, visible = pictures_and_masks(model)
    one_pass = OnePass(model)
    one_pass.mask_embeddings(one_pass.features(pictures), visible)[:, 2:].sum().backward()
    grads = [parameter.grad for name, parameter in model.named_parameters() if name.startswith("clip.visual.")]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("name", WITHOUT_TOKENS)
def test_towers_without_tokens_are_refused(name):
    with pytest.raises(ValueError, match="has no patch tokens, a vision transformer is expected"):
        OnePass(build_mask_adapted_clip(FAMILIES[name], prompt_depth=0))


def test_full_small_and_empty_masks_see_what_they_should():
    masks = torch.zeros(5, 40, 60, dtype=torch.bool)
    masks[0] = True
    masks[1, 7, 9] = True  # one pixel of the first patch of 10 x 15 px
    masks[2, :, 30] = True  # thinner than a patch
    masks[3, :10, :15] = masks[3, :10, 15:22] = masks[3, :4, 22:30] = True  # all of one, most and little of the next
    seen = visible_patches(masks, (4, 4)).unflatten(1, (4, 4))
    assert seen[0].all()
    assert seen[1].nonzero().tolist() == [[0, 0]]
    assert seen[2].nonzero().tolist() == [[line, 2] for line in range(4)]
    assert seen[3].nonzero().tolist() == [[0, 0], [0, 1]]
    assert not seen[4].any()
    assert visible_patches(masks[:0], (4, 4)).shape == (0, 16)


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), lines=st.integers(1, 7), seed=st.integers(0, 2**31))
def test_every_mask_with_a_pixel_sees_a_patch(height, width, lines, seed):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(4, height, width, generator=generator) < torch.rand(4, 1, 1, generator=generator) ** 3
    seen = visible_patches(masks, (lines, lines))
    assert torch.equal(seen.any(dim=1), masks.flatten(1).any(dim=1))


def naive_mean_over_windows(model, picture, masks, side_px, stride_px):
    """Each window cut by hand and named by the plain one pass; their mean by the areas of the parts."""
    plain, own, patch = OnePass(model), model.crop_px, model.patch_px
    total = torch.zeros(len(masks), model.embedding_dim, dtype=picture.dtype)
    filled = OnePass(model, side_px=side_px).filled(masks).unflatten(1, (side_px // patch,) * 2)
    for top in range(0, side_px - own + 1, stride_px):
        for left in range(0, side_px - own + 1, stride_px):
            window = picture[None, :, top : top + own, left : left + own]
            part = filled[:, top // patch : (top + own) // patch, left // patch : (left + own) // patch].flatten(1)
            seen = (part > 0) & (part >= part.amax(dim=1, keepdim=True) / 2)
            total += part.sum(dim=1)[:, None] * plain.mask_embeddings(plain.features(window), seen[None])[0]
    return functional.normalize(total, dim=-1)


@pytest.mark.parametrize("name", ["OpenAI", "SigLIP", "EVA02"])
@pytest.mark.parametrize("stride_px", [8, 16, 32])
@torch.no_grad()
def test_windows_are_pictures_of_their_own_whose_parts_are_averaged(name, stride_px):
    model = model_of(name)
    generator = torch.Generator().manual_seed(1)
    masks = torch.rand(4, 40, 50, generator=generator) < 0.3
    masks[1:3] = False
    masks[1, 3, 4] = True  # in one window alone, or in few
    picture = torch.randn(3, 64, 64, generator=generator)
    one_pass = OnePass(model, side_px=64, stride_px=stride_px)
    found = one_pass.embed(one_pass.features(picture[None]), one_pass.filled(masks)[None])[0]
    expected = naive_mean_over_windows(model, picture, masks[[0, 1, 3]], 64, stride_px)
    torch.testing.assert_close(found[[0, 1, 3]], expected, atol=1e-5, rtol=0)
    assert found[2].isfinite().all()  # an empty one
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4))


@pytest.mark.parametrize("name", WITH_TOKENS)
@torch.no_grad()
def test_a_larger_picture_is_seen_with_resized_positions_and_the_own_size_as_ever(name):
    model = model_of(name)
    generator = torch.Generator().manual_seed(2)
    picture = torch.randn(1, 3, 32, 32, generator=generator)
    masks = torch.rand(3, 20, 20, generator=generator) < 0.4
    plain, same = OnePass(model), OnePass(model, side_px=32)
    assert torch.equal(plain.features(picture).last, same.features(picture).last)
    larger = OnePass(model, side_px=48)
    lines = 48 // model.patch_px
    assert (larger.grid, larger.side_px) == ((lines, lines), 48)
    features = larger.features(functional.interpolate(picture, (48, 48), mode="bicubic"))
    assert features.last.shape[1] == model.tower.prefix + lines**2
    assert larger.embed(features, larger.filled(masks)[None]).isfinite().all()
    assert torch.equal(plain.features(picture).last, same.features(picture).last)  # the model is as it was
    assert model.tower.side_px == 32


@torch.no_grad()
def test_positions_are_resized_as_open_clip_does_when_it_loads_weights():
    import open_clip

    model = model_of("OpenAI")
    config = copy.deepcopy(FAMILIES["OpenAI"])
    config["vision_cfg"]["image_size"] = 64
    other = open_clip.CLIP(**config).eval()
    state = model.clip.state_dict()
    open_clip.model.resize_pos_embed(state, other)
    other.load_state_dict(state)
    picture = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    one_pass = OnePass(model, side_px=64)
    expected = functional.normalize(other.encode_image(picture), dim=-1)
    torch.testing.assert_close(one_pass.picture_embeddings(one_pass.features(picture)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["PE-Core", "EVA02", "SigLIP", "ViTamin"])
@torch.no_grad()
def test_towers_of_timm_resize_positions_as_they_do_for_another_input_size(name):
    model = model_of(name)
    other = copy.deepcopy(model)
    other.clip.visual.trunk.set_input_size((64, 64))
    picture = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    one_pass = OnePass(model, side_px=64)
    expected = functional.normalize(other.clip.visual(picture), dim=-1)
    torch.testing.assert_close(one_pass.picture_embeddings(one_pass.features(picture)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"side_px": 50}, "side is 50 px, a multiple of its patches' 8 px is expected"),
        ({"side_px": 64, "stride_px": 12}, "windows of 32 px every 12 px do not fill a square of 64 px"),
        ({"side_px": 64, "stride_px": 24}, "windows of 32 px every 24 px do not fill a square of 64 px"),
        ({"side_px": 16, "stride_px": 8}, "windows of 32 px every 8 px do not fill a square of 16 px"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        OnePass(model_of("OpenAI"), **sizes)


@torch.no_grad()
def test_more_masks_than_go_through_together_are_embedded_all_the_same(monkeypatch):
    model = model_of("OpenAI")
    pictures, visible = pictures_and_masks(model, masks=7)
    one_pass = OnePass(model)
    features = one_pass.features(pictures)
    whole = one_pass.embed(features, visible.float())
    monkeypatch.setattr("ovseg_models.one_pass.MASKS_AT_ONCE", 3)
    torch.testing.assert_close(one_pass.embed(features, visible.float()), whole, atol=1e-6, rtol=0)
