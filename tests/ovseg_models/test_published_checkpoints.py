"""Published layouts: what is read, what is refused, and that writing gives the file back."""

import pickle
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from ovseg_models.checkpoint_keys.clip import clip_config_from_published, from_ovseg
from ovseg_models.checkpoint_keys.proposal_net import arguments_from_published
from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.pretrained_clip import build_clip, build_mask_adapted_clip
from ovseg_models.proposal_presets import build_proposal_net
from ovseg_models.published_checkpoints import (
    combine_parts,
    default_origin,
    published_tensors,
    read_published_checkpoint,
    write_published_checkpoint,
)
from ovseg_models.segmenter import Segmenter
from ovseg_models.segmenter_folder import SegmenterParts, read_segmenter_folder, write_segmenter_folder
from tests.tiny_clips import FAMILIES
from tests.tiny_segmenter import CLASS_NAMES, picture

SWIN = {
    "backbone": "swin_base_patch4_window12_384",
    "backbone_arguments": {
        "timm_arguments": {"embed_dim": 8, "depths": [1, 2, 1, 1], "num_heads": [1, 2, 2, 4], "window_size": 3}
    },
    "embedding_dim": 24,
    "embedding_hidden_dim": 16,
    "queries": 7,
    "hidden_dim": 32,
    "mask_dim": 20,
    "feedforward_dim": 28,
    "decoder_layers": 2,
}
CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 16, "patch_size": 4, "width": 64, "head_width": 64, "layers": 3},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}


def whole_model(prompt_depth=3) -> SegmenterParts:
    torch.manual_seed(0)
    clip = build_mask_adapted_clip(CLIP, prompt_depth=prompt_depth, quick_gelu=True, seed=1)
    return SegmenterParts(build_proposal_net(**SWIN).eval(), clip)


def whole_file(prompt_depth=3) -> dict[str, torch.Tensor]:
    """The reference's state dict of a whole model."""
    parts = whole_model(prompt_depth)
    return published_tensors(parts, default_origin(parts))


def saved(content, path):
    torch.save(content, path)
    return path


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def round_trip(path, tmp_path):
    """Import into a folder, then export from it."""
    write_segmenter_folder(tmp_path / "segmenter", read_published_checkpoint(path))
    write_published_checkpoint(read_segmenter_folder(tmp_path / "segmenter"), tmp_path / "written.pth")
    return torch.load(tmp_path / "written.pth", weights_only=True)


@pytest.mark.parametrize("prompt_depth", [3, 0])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_whole_model_is_read_and_written_back_exactly(tmp_path, prompt_depth, wrapped):
    tensors = whole_file(prompt_depth)
    tensors["criterion.empty_weight"] *= 3
    container = OrderedDict(tensors)
    container._metadata = {"sem_seg_head": {"version": 2}}
    path = saved({"model": container} if wrapped else container, tmp_path / "model.pth")
    written = round_trip(path, tmp_path)
    assert_same(written["model"] if wrapped else written, tensors)
    parts = read_segmenter_folder(tmp_path / "segmenter")
    assert parts.clip.prompt_depth == prompt_depth
    assert parts.settings.use_mask_prompts == (prompt_depth > 0)
    assert (parts.settings.short_side_px, parts.settings.mask_threshold) == (640, 0.4)


def test_an_imported_model_segments_like_the_model_that_was_exported(tmp_path):
    parts = whole_model()
    original = Segmenter(parts.proposal_net, parts.clip)
    write_published_checkpoint(parts, tmp_path / "model.pth")
    write_segmenter_folder(tmp_path / "segmenter", read_published_checkpoint(tmp_path / "model.pth"))
    sizes = {"short_side_px": 64, "max_side_px": 128}
    loaded = Segmenter.load(tmp_path / "segmenter", **sizes, mask_threshold=0.5)
    parts_settings = Segmenter(
        original.proposal_net, original.clip, settings=loaded.settings
    )  # the same settings for both
    assert torch.equal(loaded.scores(picture(), CLASS_NAMES), parts_settings.scores(picture(), CLASS_NAMES))
    settings = replace(loaded.settings, namer="one-pass")  # of which nothing is in the checkpoint
    by_hand = Segmenter(original.proposal_net, original.clip, settings=settings)
    one_pass = Segmenter.load(tmp_path / "segmenter", **sizes, mask_threshold=0.5, namer="one-pass")
    assert torch.equal(one_pass.scores(picture(), CLASS_NAMES), by_hand.scores(picture(), CLASS_NAMES))
    assert not torch.equal(one_pass.scores(picture(), CLASS_NAMES), loaded.scores(picture(), CLASS_NAMES))


def test_half_precision_comes_back(tmp_path):
    tensors = {
        name: tensor.half() if name.endswith("in_proj_weight") and "clip_model" in name else tensor
        for name, tensor in whole_file().items()
    }
    assert_same(round_trip(saved({"model": tensors}, tmp_path / "model.pth"), tmp_path)["model"], tensors)


def clip_file(prompt_depth=3):
    return from_ovseg(whole_file(prompt_depth))


def test_a_finetuned_clip_is_read_and_written_back_exactly(tmp_path):
    tensors = {f"module.{name}": tensor for name, tensor in clip_file().items()}
    content = {"epoch": 5, "name": "run", "state_dict": tensors, "optimizer": {"state": {0: {"step": 3}}}}
    assert_same(round_trip(saved(content, tmp_path / "epoch_5.pt"), tmp_path)["state_dict"], tensors)


def test_openais_layout_with_its_numbers_is_read_and_written_back_exactly(tmp_path):
    tensors = clip_file(prompt_depth=0)
    tensors |= {"input_resolution": torch.tensor(16), "context_length": torch.tensor(16), "vocab_size": torch.tensor(9)}
    assert_same(round_trip(saved(tensors, tmp_path / "clip.pt"), tmp_path), tensors)


def test_safetensors_are_read_too(tmp_path):
    save_file(clip_file(), tmp_path / "clip.safetensors")
    parts = read_published_checkpoint(tmp_path / "clip.safetensors")
    assert torch.equal(parts.clip.mask_prompts, clip_file()["visual.mask_embedding"])
    assert parts.clip.arguments["model"]["quick_gelu"] is True
    plain = read_published_checkpoint(tmp_path / "clip.safetensors", quick_gelu=False)
    assert plain.clip.arguments["model"]["quick_gelu"] is False


def maskformer_file(classes=133):
    tensors = {
        name: tensor
        for name, tensor in whole_file().items()
        if not name.startswith(("clip_adapter.", "sem_seg_head.predictor.class_embed."))
    }
    head = {"weight": torch.randn(classes + 1, 32), "bias": torch.randn(classes + 1)}
    return tensors | {f"sem_seg_head.predictor.class_embed.{name}": tensor for name, tensor in head.items()}


def test_maskformers_own_is_read_and_written_back_exactly(tmp_path):
    tensors = maskformer_file()
    assert_same(round_trip(saved({"model": tensors}, tmp_path / "maskformer.pth"), tmp_path)["model"], tensors)
    parts = read_segmenter_folder(tmp_path / "segmenter")
    assert parts.clip is None
    assert parts.settings.ensemble_weight == 1


def pickled(content, path):
    path.write_bytes(pickle.dumps(content))
    return path


@pytest.mark.parametrize(("save", "name"), [(saved, "old.pth"), (pickled, "old.pkl")])
def test_maskformers_files_of_arrays_and_of_the_first_head_version_are_read(tmp_path, save, name):
    arrays = {
        key.replace("sem_seg_head.pixel_decoder.", "sem_seg_head."): tensor.numpy()
        for key, tensor in maskformer_file().items()
    }
    net = read_published_checkpoint(save({"model": arrays, "__author__": "x"}, tmp_path / name)).proposal_net
    expected = maskformer_file()["sem_seg_head.pixel_decoder.mask_features.weight"]
    assert torch.equal(net.state_dict()["pixel_decoder.mask_features.weight"], expected)


def test_parts_are_combined_with_a_base(tmp_path):
    base = whole_model(prompt_depth=0)
    clip = read_published_checkpoint(saved(clip_file(), tmp_path / "clip.pt"))
    with_clip = combine_parts(clip, base)
    assert with_clip.proposal_net is base.proposal_net
    assert with_clip.clip.prompt_depth == 3
    assert with_clip.settings.use_mask_prompts
    own = read_published_checkpoint(saved(maskformer_file(), tmp_path / "maskformer.pt"), embedding_dim=24)
    with_net = combine_parts(own, base)
    assert with_net.clip is base.clip
    assert with_net.settings.ensemble_weight == 1
    write_segmenter_folder(tmp_path / "combined", with_net)
    assert Segmenter.load(tmp_path / "combined", short_side_px=64, max_side_px=64).segment(picture(), ["cat", "dog"])
    with pytest.raises(ValueError, match="holds a whole segmenter, a base has nothing to add"):
        combine_parts(whole_model(), base)


def test_of_parts_of_different_spaces_clip_alone_names(tmp_path, caplog):
    own = read_published_checkpoint(saved(maskformer_file(), tmp_path / "maskformer.pt"))
    assert own.proposal_net.no_object_embedding.shape[1] == 512
    write_segmenter_folder(tmp_path / "combined", combine_parts(own, whole_model()))  # whose CLIP has 24
    small = {"short_side_px": 64, "max_side_px": 64}
    segmenter = Segmenter.load(tmp_path / "combined", ensemble_weight=0.7, **small)
    assert not segmenter.same_space
    assert segmenter.settings.ensemble_weight == 1
    assert "trained with another CLIP" in caplog.text
    assert segmenter.segment(picture(), ["cat", "dog"]).label_map.max() <= 1


def test_every_key_that_does_not_fit_is_listed(tmp_path):
    tensors = whole_file()
    missing = [name for name in tensors if "backbone.layers.1.blocks.1." in name and "mlp" in name]
    missing.append("clip_adapter.clip_model.visual.class_embedding")
    for name in missing:
        del tensors[name]
    tensors["sem_seg_head.stranger"] = torch.zeros(1)
    tensors["clip_adapter.stranger"] = torch.zeros(1)
    tensors["sem_seg_head.pixel_decoder.layer_1.norm.bias"] = torch.zeros(5)
    with pytest.raises(ValueError, match=r"model\.pth: 5 missing, 2 unexpected, 1 misshapen keys") as caught:
        read_published_checkpoint(saved({"model": tensors}, tmp_path / "model.pth"))
    for name in missing:
        assert f"  missing: {name}" in str(caught.value)
    assert "  unexpected: sem_seg_head.stranger\n  unexpected: clip_adapter.stranger" in str(caught.value)
    assert "  misshapen: sem_seg_head.pixel_decoder.layer_1.norm.bias (5,), expected (32,)" in str(caught.value)


def test_a_model_that_lacks_what_its_sizes_are_read_from_is_refused(tmp_path):
    tensors = whole_file()
    del tensors["sem_seg_head.predictor.query_embed.weight"]
    with pytest.raises(ValueError, match=r"model\.pth: .*query_embed\.weight is not among its \d+ keys"):
        read_published_checkpoint(saved({"model": tensors}, tmp_path / "model.pth"))


def test_maskformers_panoptic_models_are_refused_with_the_reason(tmp_path):
    tensors = maskformer_file()
    tensors["sem_seg_head.pixel_decoder.transformer.encoder.layers.0.norm1.weight"] = torch.zeros(32)
    with pytest.raises(
        ValueError, match=r"model\.pth: .*transformer layers of its own, as MaskFormer's panoptic models"
    ):
        read_published_checkpoint(saved({"model": tensors}, tmp_path / "model.pth"))


@pytest.mark.parametrize("name", ["clip_adapter.stranger", "clip_adapter.clip_model.stranger"])
def test_strangers_beside_clip_are_refused(tmp_path, name):
    tensors = whole_file() | {name: torch.zeros(1)}
    with pytest.raises(ValueError, match=f"unexpected: {name}"):
        read_published_checkpoint(saved({"model": tensors}, tmp_path / "model.pth"))


def test_a_clip_that_lacks_a_tensor_is_refused(tmp_path):
    tensors = clip_file()
    del tensors["text_projection"]
    with pytest.raises(ValueError, match=r"1 missing, 0 unexpected, 0 misshapen keys.*\n  missing: text_projection"):
        read_published_checkpoint(saved(tensors, tmp_path / "clip.pt"))


def test_prompts_of_another_size_are_refused(tmp_path):
    tensors = clip_file() | {"visual.mask_embedding": torch.zeros(3, 9, 64)}
    with pytest.raises(ValueError, match=r"visual\.mask_embedding \(3, 9, 64\), expected \(3, 16, 64\)"):
        read_published_checkpoint(saved(tensors, tmp_path / "clip.pt"))


def test_a_clip_without_a_vision_transformer_is_refused(tmp_path):
    tensors = {"logit_scale": torch.tensor(1.0), "visual.layer1.0.conv1.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"visual\.conv1\.weight is missing.*only CLIP with a vision transformer"):
        read_published_checkpoint(saved(tensors, tmp_path / "clip.pt"))


def test_heads_that_do_not_divide_a_width_are_refused():
    with pytest.raises(ValueError, match="the image tower is 64 wide, a multiple of head_width 48"):
        clip_config_from_published(clip_file(), head_width=48)


def test_an_unknown_layout_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none of the known layouts .* has keys like \['fc\.weight'\]"):
        read_published_checkpoint(saved({"fc.weight": torch.zeros(1)}, tmp_path / "resnet.pth"))


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (self.marker, "w"))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pkl"])
@pytest.mark.parametrize("as_zip", [True, False])
def test_a_file_made_to_run_code_runs_none(tmp_path, suffix, as_zip):
    marker, path = tmp_path / "code-was-run", tmp_path / f"trap{suffix}"
    content = {"model": whole_file() | {"sem_seg_head.trap": Trap(str(marker))}}
    if as_zip:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match=r"trap\.\w+: cannot be read without running code"):
        read_published_checkpoint(path)
    assert not marker.exists()


def test_files_that_cannot_be_written_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ends in '\.onnx', \.pth or \.pt is expected"):
        write_published_checkpoint(whole_model(), tmp_path / "model.onnx")
    (tmp_path / "model.pth").touch()
    with pytest.raises(FileExistsError, match=r"model\.pth: is there already"):
        write_published_checkpoint(whole_model(), tmp_path / "model.pth")


def test_a_clip_without_blank_patches_has_no_published_layout(tmp_path):
    clip = build_mask_adapted_clip(CLIP, blank_patches="dropped")
    with pytest.raises(ValueError, match=r"the published code keeps them.*blank_patches 'kept'"):
        write_published_checkpoint(SegmenterParts(None, clip), tmp_path / "clip.pth")
    assert list(tmp_path.iterdir()) == []


def test_a_clip_of_another_form_has_no_place_beside_a_published_net(tmp_path):
    clip = build_mask_adapted_clip(FAMILIES["SigLIP"], prompt_depth=0)
    with pytest.raises(ValueError, match=r"image tower is a VisionTransformer of timm.*keep the segmenter's folder"):
        write_published_checkpoint(SegmenterParts(whole_model().proposal_net, clip), tmp_path / "whole.pth")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("preset", "architecture", "keys", "millions", "prompts"),
    [("swin_b", "ViT-L-14", 954, 531.2, (3, 256, 1024)), ("r101c", "ViT-B-16", 983, 211.1, (3, 196, 768))],
)
def test_the_papers_models_have_the_published_keys_and_counts(preset, architecture, keys, millions, prompts):
    with torch.device("meta"):
        net, clip = build_proposal_net(preset), MaskAdaptedClip(build_clip(architecture), prompt_depth=3)
        parts = SegmenterParts(net, clip)
        tensors = published_tensors(parts, default_origin(parts))
    assert len(tensors) == keys
    parameters = sum(parameter.numel() for module in (net, clip) for parameter in module.parameters())
    assert round(parameters / 1e6, 1) == millions
    dim, widths = {"swin_b": (768, (128, 256, 512, 1024)), "r101c": (512, (256, 512, 1024, 2048))}[preset]
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    expected = {
        "sem_seg_head.pixel_decoder.adapter_1.weight": (256, widths[0], 1, 1),
        "sem_seg_head.pixel_decoder.layer_4.weight": (256, widths[3], 3, 3),
        "sem_seg_head.predictor.input_proj.weight": (256, widths[3], 1, 1),
        "sem_seg_head.predictor.query_embed.weight": (100, 256),
        "sem_seg_head.predictor.class_embed.layers.1.weight": (dim, 1024),
        "clip_adapter.non_object_embedding": (1, dim),
        "clip_adapter.pixel_mean": (1, 3, 1, 1),
        "clip_adapter.clip_model.visual.mask_embedding": prompts,
        "clip_adapter.clip_model.token_embedding.weight": (49408, dim),
        "clip_adapter.clip_model.logit_scale": (),
        "criterion.empty_weight": (172,),
    }
    assert expected.items() <= shapes.items()
    assert arguments_from_published(tensors)["embedding_dim"] == dim
    config = clip_config_from_published(from_ovseg(tensors))
    with torch.device("meta"):
        rebuilt = build_clip(config).state_dict()
    assert {name: tensor.shape for name, tensor in rebuilt.items()} == {
        name: tensor.shape for name, tensor in build_shapes(architecture).items()
    }


def build_shapes(architecture):
    with torch.device("meta"):
        return build_clip(architecture).state_dict()
