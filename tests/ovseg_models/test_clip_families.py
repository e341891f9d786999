"""Every family of CLIPs that open_clip builds: its embeddings, its masks, its training, its folder.

The twins are open_clip's own models, called as open_clip calls them; masks are put into them by hooks.
"""

import itertools

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from ovseg_models.contrastive_loss import contrastive_loss, sigmoid_loss
from ovseg_models.host_to_device import sent
from ovseg_models.mask_adapted_clip import MaskAdaptedClip, select_trainable
from ovseg_models.masked_crops import patch_mask
from ovseg_models.pretrained_clip import build_mask_adapted_clip
from ovseg_models.proposal_presets import build_proposal_net
from ovseg_models.segmenter import Segmenter
from ovseg_models.segmenter_settings import SegmenterSettings
from ovseg_models.word_tokenizer import WordTokenizer
from tests import tiny_segmenter
from tests.fake_cuda import CUDA, FakeCuda
from tests.tiny_clips import CONTEXT, FAMILIES, LAYERS, SIDE_PX, WIDTH, WITH_TOKENS, WITHOUT_TOKENS, WORDS, stock

EXACT = 1e-5  # of embeddings of length 1
TOKENIZER = WordTokenizer(WORDS, CONTEXT)
SENTENCES = ["a cat", "a photo of a boat", "the sky"]


@pytest.fixture
def built(tmp_path):
    """Build a family's model from a file of the weights of open_clip's own."""

    def build(name, **choices):
        save_file(
            {key: tensor.contiguous() for key, tensor in stock(name).state_dict().items()}, tmp_path / "w.safetensors"
        )
        return build_mask_adapted_clip(FAMILIES[name], tmp_path / "w.safetensors", **{"prompt_depth": 0, **choices})

    return build


def crops_and_masks(model, count=4, seed=0):
    """Crops, and masks of their patches, of which the first has all and the second none."""
    generator = torch.Generator().manual_seed(seed)
    crops = torch.randn(count, 3, SIDE_PX, SIDE_PX, generator=generator)
    masks = torch.rand(count, model.crop.patches, generator=generator) < 0.5
    masks[0], masks[1] = True, False
    return crops, masks


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_embeddings_are_open_clips(built, name):
    model, twin = built(name), stock(name)
    crops, masks = crops_and_masks(model)
    expected = twin.encode_image(crops, normalize=True)
    torch.testing.assert_close(model.encode_image(crops), expected, atol=EXACT, rtol=0)
    torch.testing.assert_close(model.encode_image(crops, masks), expected, atol=EXACT, rtol=0)  # no prompts
    tokens = TOKENIZER(SENTENCES)
    texts = model.encode_text(tokens)
    torch.testing.assert_close(texts, twin.encode_text(tokens, normalize=True), atol=EXACT, rtol=0)
    assert (texts[0] - texts[1]).abs().max() > 1e-3
    assert model.embedding_dim == texts.shape[1] == expected.shape[1]
    assert model.encode_image(crops[:0]).shape == (0, model.embedding_dim)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_steps_are_there_where_tokens_keep_their_places(name):
    tower = build_mask_adapted_clip(FAMILIES[name], prompt_depth=0).tower
    assert (tower is not None) == (name in WITH_TOKENS)
    if tower is not None:
        prefix = {"registers": 5}.get(name, 0 if name in ("SigLIP", "SigLIP2", "ViTamin") else 1)
        assert (tower.side_px, tower.width, len(tower.layers), tower.prefix) == (SIDE_PX, WIDTH, LAYERS, prefix)
        assert tower.patch_px == (16 if name == "ViTamin" else 8)
        assert tower.grid == (SIDE_PX // tower.patch_px,) * 2


def hooked(visual, prompts, masks):
    """Let open_clip's own forward pass see prompts in place of patches outside the masks."""
    native = hasattr(visual, "conv1")
    trunk = visual if native else visual.trunk
    prefix = 1 if native else trunk.num_prefix_tokens
    blocks = visual.transformer.resblocks if native else trunk.blocks

    def embedded(_, __, patches):
        if native:  # [crop width lines columns]
            tokens = patches.flatten(2).transpose(1, 2)
            chosen = torch.where(masks[:, :, None], tokens, prompts[0])
            return chosen.transpose(1, 2).unflatten(2, patches.shape[2:])
        return torch.where(masks[:, :, None], patches.flatten(1, -2), prompts[0]).view(patches.shape)

    def before(number):
        def changed(_, given):
            states = given[0].clone()
            states[:, prefix:] = torch.where(masks[:, :, None], states[:, prefix:], prompts[number])
            return (states, *given[1:])

        return changed

    handles = [(visual.conv1 if native else trunk.patch_embed).register_forward_hook(embedded)]
    handles += [blocks[number].register_forward_pre_hook(before(number)) for number in range(1, len(prompts))]
    return handles


@pytest.mark.parametrize("name", WITH_TOKENS)
@torch.no_grad()
def test_prompts_take_the_place_of_patches_outside_the_mask(built, name):
    model, twin = built(name, prompt_depth=LAYERS, seed=1), stock(name)
    model.mask_prompts.mul_(50)
    crops, masks = crops_and_masks(model)
    plain = twin.encode_image(crops, normalize=True)
    handles = hooked(twin.visual, model.mask_prompts, masks)
    expected = twin.encode_image(crops, normalize=True)
    for handle in handles:
        handle.remove()
    found = model.encode_image(crops, masks)
    torch.testing.assert_close(found, expected, atol=EXACT, rtol=0)
    torch.testing.assert_close(found[0], plain[0], atol=EXACT, rtol=0)  # all patches see the mask
    assert ((found - plain)[1:].abs().amax(dim=1) > 1e-3).all()
    torch.testing.assert_close(model.encode_image(crops, masks, use_prompts=False), plain, atol=EXACT, rtol=0)


@pytest.mark.parametrize("name", WITHOUT_TOKENS)
def test_towers_without_tokens_say_that_prompts_mean_nothing(name):
    with pytest.raises(ValueError, match=r"prompt_depth is 2, .* has no patch tokens, .* no meaning .* mode 'ft'"):
        MaskAdaptedClip(stock(name), prompt_depth=2)
    model = MaskAdaptedClip(stock(name), prompt_depth=0)
    assert model.crop.patches == 1
    inside = torch.zeros(2, SIDE_PX, SIDE_PX, dtype=torch.bool)
    inside[0, 3, 3] = True
    assert patch_mask(inside, model.patch_px).tolist() == [[True], [False]]


def steps(model, mode, count=2):
    """Train as stage 3 does, with the loss of the model's kind; returns the losses."""
    trainable = select_trainable(model, mode)
    optimizer = torch.optim.AdamW(trainable.values(), lr=1e-4)
    crops, masks = crops_and_masks(model)
    texts = functional.normalize(model.encode_text(TOKENIZER([*SENTENCES, "a dog"])).detach(), dim=1)
    losses = []
    for _ in range(count):
        images, scale = model.encode_image(crops, masks, use_prompts="mpt" in mode), model.logit_scale.exp()
        if model.logit_bias is None:
            loss = contrastive_loss(images, texts, scale)
        else:
            loss = sigmoid_loss(images, texts, scale, model.logit_bias)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.clamp_logit_scale()
        losses.append(loss.item())
    return losses


def copied(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(model, before):
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("name", FAMILIES)
def test_ft_trains_the_image_tower_alone(built, name):
    model = built(name).train()
    before = copied(model)
    losses = steps(model, "ft")
    assert losses[1] < losses[0]
    found = changed(model, before)
    of_logits = {"clip.logit_scale"} | ({"clip.logit_bias"} if model.is_sigmoid else set())
    assert of_logits <= found
    assert {key for key in found if not key.startswith("clip.visual.")} == of_logits
    weights = [key for key, _ in model.named_parameters() if key.startswith("clip.visual.") and key.endswith("weight")]
    assert sum(key in found for key in weights) > 0.8 * len(weights)
    assert not any("running_" in key for key in found)  # batch norms keep their statistics
    again = built(name).train()
    assert steps(again, "ft") == losses  # nothing in it depends on chance


@pytest.mark.parametrize("name", WITH_TOKENS)
def test_mpt_leaves_all_other_weights_equal_to_the_bit(built, name):
    model = built(name, prompt_depth=2).train()
    before = copied(model)
    losses = steps(model, "mpt")
    assert losses[1] < losses[0]
    of_logits = {"clip.logit_scale"} | ({"clip.logit_bias"} if model.is_sigmoid else set())
    assert changed(model, before) == {"mask_prompts"} | of_logits


@pytest.mark.parametrize("name", ["OpenAI", "SigLIP", "PE-Core", "mixed RoPE"])
def test_recomputed_activations_have_the_same_gradients(built, name):
    crops, masks = crops_and_masks(built(name))
    gradients = []
    for recomputed in (False, True):
        model = built(name, prompt_depth=2, seed=3).train()
        model.set_grad_checkpointing(recomputed)
        model.encode_image(crops, masks).square()[:, 0].sum().backward()
        gradients.append(
            {key: parameter.grad for key, parameter in model.named_parameters() if parameter.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, atol=1e-6, rtol=1e-4, msg=key)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_class_probabilities_are_those_of_the_models_loss(built, name):
    model = built(name)
    crops, _ = crops_and_masks(model)
    images, texts = model.encode_image(crops), model.encode_text(TOKENIZER(SENTENCES))
    probabilities = model.class_logits(images, texts).softmax(dim=1)
    scale = 100.0 if name in ("OpenAI", "CLIPA") else model.logit_scale.exp()
    scaled = scale * images @ texts.T
    if name.startswith("SigLIP"):
        own = torch.sigmoid(scaled + model.logit_bias)
        expected = own / own.sum(dim=1, keepdim=True)
    else:
        expected = scaled.softmax(dim=1)
    torch.testing.assert_close(probabilities, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_gpu_computes_all_of_it_where_the_model_is(built, name):
    model = built(name, prompt_depth=2 if name in WITH_TOKENS else 0)
    crops, masks = crops_and_masks(model)
    tokens = TOKENIZER(SENTENCES)
    with FakeCuda() as device:
        model.to(CUDA)
        device.waits.clear()
        with torch.autocast("cuda", dtype=torch.float16):
            images = model.encode_image(sent(crops, CUDA), masks)
            texts = model.encode_text(sent(tokens, CUDA))
        logits = model.class_logits(images, texts.float())
    assert images.device == logits.device == CUDA
    assert images.dtype == logits.dtype == torch.float32
    assert not device.waits


def test_a_sigmoid_models_scale_may_lie_above_that_of_a_softmax_model(built):
    for name, upper in (("SigLIP", 5.0), ("OpenAI", 4.6052)):
        model = built(name)
        model.logit_scale.data.fill_(5.0)
        model.clamp_logit_scale()
        assert model.logit_scale.item() == pytest.approx(upper, abs=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_segmenter_is_saved_and_loaded(built, name, tmp_path):
    clip = built(name, prompt_depth=2 if name in WITH_TOKENS else 0, seed=5)
    net = build_proposal_net(**{**tiny_segmenter.PROPOSAL_NET, "embedding_dim": clip.embedding_dim})
    settings = SegmenterSettings(short_side_px=64, max_side_px=128, ensemble_weight=1.0)
    segmenter = Segmenter(net, clip, tokenizer=TOKENIZER, settings=settings)
    segmenter.save(tmp_path / "segmenter")
    loaded = Segmenter.load(tmp_path / "segmenter")
    picture, names = tiny_segmenter.picture(), ["cat", "dog", "sky"]
    first, second = (each.segment(picture, names, return_scores=True) for each in (segmenter, loaded))
    assert torch.equal(first.scores, second.scores)
    assert torch.equal(first.clip_probs, second.clip_probs)
    assert loaded.clip.crop == clip.crop
    assert loaded.clip.temperature == clip.temperature


def test_as_many_families_as_are_promised():
    assert len(FAMILIES) >= 10
    assert {type(stock(name).visual).__name__ for name in FAMILIES} == {
        "VisionTransformer",
        "TimmModel",
        "ModifiedResNet",
    }
    assert isinstance(stock("OpenAI"), open_clip.CLIP)
    assert all(first != second for first, second in itertools.combinations(FAMILIES.values(), 2))
