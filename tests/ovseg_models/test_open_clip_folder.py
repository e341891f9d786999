"""open_clip builds the exported CLIP itself, and embeds as the adapted one does."""

import json
import logging

import open_clip
import pytest
import torch
from safetensors.torch import load_file

from flows.command import main
from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.open_clip_folder import write_open_clip_folder
from ovseg_models.preprocessing import Preprocessing
from ovseg_models.pretrained_clip import build_clip, build_mask_adapted_clip
from pipeline.clip_loading import load_clip
from pipeline.settings import ClipSettings
from tests.tiny_clips import FAMILIES, WITH_TOKENS
from tests.tiny_segmenter import CLIP, tiny_segmenter

PIXELS = Preprocessing((0.5, 0.4, 0.3), (0.5, 0.6, 0.7), "bilinear")


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_open_clip_embeds_crops_and_texts_as_the_adapted_clip(name, tmp_path):
    depth = 2 if name in WITH_TOKENS else 0
    ours = build_mask_adapted_clip(FAMILIES[name], prompt_depth=depth, preprocessing=PIXELS.to_json(), seed=3)
    left_out = write_open_clip_folder(tmp_path / "clip", ours)
    assert len(left_out) == int(depth > 0)
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'clip'}")
    theirs.eval()
    crops = torch.randn(3, 3, ours.crop_px, ours.crop_px, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[5, 7, 9, 199, 0, 0, 0, 0], [3, 199, 0, 0, 0, 0, 0, 0]])
    torch.testing.assert_close(
        ours.encode_image(crops), theirs.encode_image(crops, normalize=True), rtol=0, atol=1e-6, check_dtype=False
    )
    torch.testing.assert_close(ours.encode_text(tokens), theirs.encode_text(tokens, normalize=True), rtol=0, atol=1e-6)
    assert torch.equal(ours.logit_scale, theirs.logit_scale)
    normalise = transform.transforms[-1]
    assert (tuple(normalise.mean), tuple(normalise.std)) == (PIXELS.mean_rgb, PIXELS.std_rgb)
    again = build_mask_adapted_clip(f"local-dir:{tmp_path / 'clip'}", "own", prompt_depth=0)
    assert again.crop == ours.crop
    assert torch.equal(again.encode_image(crops), ours.encode_image(crops))


def test_what_open_clip_has_no_place_for_is_said(tmp_path, caplog):
    segmenter = tiny_segmenter(prompt_depth=2)
    segmenter.save_open_clip(tmp_path / "clip")
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert all(message.startswith(f"{tmp_path / 'clip'}: ") for message in messages)
    for message, fact in zip(messages, ("mask prompts of 2 layers", "a list of 11 words"), strict=True):
        assert fact in message
    weights = load_file(tmp_path / "clip" / "open_clip_model.safetensors")
    assert not [name for name in weights if "mask" in name.replace("attn_mask", "")]
    for changes, fact in (
        ({"blank_patches": "dropped"}, "kept|keeps"),
        ({"mask_queries": True}, "queries of mask tok"),
    ):
        clip = build_mask_adapted_clip(CLIP, prompt_depth=0, **changes)
        (sentence,) = write_open_clip_folder(tmp_path / fact[:4], clip)
        assert any(part in sentence for part in fact.split("|"))


def test_this_project_reads_the_folder_with_its_words(tmp_path):
    segmenter = tiny_segmenter()
    segmenter.save_open_clip(tmp_path / "clip")
    config, weights = (str(tmp_path / "clip" / f"open_clip_{name}") for name in ("config.json", "model.safetensors"))
    loaded = load_clip(ClipSettings(architecture=config, pretrained=weights))
    assert loaded.words.words == segmenter.tokenizer.words
    tokens = loaded.tokenize(["a photo of a cat"])
    assert torch.equal(tokens, segmenter.tokenizer(["a photo of a cat"]))
    assert torch.equal(loaded.clip.encode_text(tokens), segmenter.clip.clip.encode_text(tokens))


def test_a_taken_folder_and_a_clip_of_unknown_form_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is there already"):
        tiny_segmenter().save_open_clip(tmp_path)
    with pytest.raises(ValueError, match="CLIP has no record of the configuration"):
        write_open_clip_folder(tmp_path / "clip", MaskAdaptedClip(build_clip(CLIP)))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_command_writes_folder_and_file_of_a_segmenter(tmp_path, capsys):
    segmenter = tiny_segmenter()
    segmenter.save(tmp_path / "model")
    assert main(["export-clip", str(tmp_path / "model"), "--out", str(tmp_path / "clip")]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"open_clip.create_model_and_transforms('local-dir:{tmp_path}/clip')\n"
    assert "mask prompts of 3 layers are left out" in printed.err
    assert main(["export-clip", str(tmp_path / "model"), "--out", str(tmp_path / "file.safetensors")]) == 0
    in_folder, in_file = (
        load_file(tmp_path / name) for name in ("clip/open_clip_model.safetensors", "file.safetensors")
    )
    assert in_folder.keys() == in_file.keys() == segmenter.clip.clip.state_dict().keys()
    assert json.loads((tmp_path / "file.json").read_text()) == CLIP
    for arguments, found in (
        (["--out", "x"], "found neither a segmenter's folder nor --config"),
        ([str(tmp_path / "model"), "--config", "y.toml", "--out", "x"], "one of them is expected"),
        ([str(tmp_path / "model"), "--out", str(tmp_path / "clip")], "clip: is there already"),
        ([str(tmp_path / "absent"), "--out", "x"], "there is no such file"),
    ):
        assert main(["export-clip", *arguments]) == 2
        assert found in capsys.readouterr().err
