"""The folder: round trip, settings on top, and refusals that say what is wrong."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.pretrained_clip import build_clip, build_mask_adapted_clip
from ovseg_models.segmenter import Segmenter
from ovseg_models.segmenter_folder import SegmenterParts, read_segmenter_folder, write_segmenter_folder
from ovseg_models.segmenter_settings import SegmenterSettings, settings_from_json
from tests.tiny_clips import FAMILIES
from tests.tiny_segmenter import CLASS_NAMES, CLIP, picture, tiny_segmenter


@pytest.fixture
def folder(tmp_path):
    tiny_segmenter(mask_threshold=0.4).save(tmp_path / "segmenter")
    return tmp_path / "segmenter"


def edit(folder, change):
    content = json.loads((folder / "segmenter.json").read_text())
    change(content)
    (folder / "segmenter.json").write_text(json.dumps(content))


def test_what_is_loaded_segments_like_what_was_saved(folder):
    segmenter = tiny_segmenter(mask_threshold=0.4)
    loaded = Segmenter.load(folder)
    assert loaded.settings == segmenter.settings
    assert loaded.tokenizer.words == segmenter.tokenizer.words
    assert torch.equal(loaded.scores(picture(), CLASS_NAMES), segmenter.scores(picture(), CLASS_NAMES))
    assert sorted(path.name for path in folder.iterdir()) == [
        "clip.safetensors",
        "proposal_net.safetensors",
        "segmenter.json",
    ]


def test_saving_again_gives_the_same_bytes(folder, tmp_path):
    Segmenter.load(folder).save(tmp_path / "again")
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_a_clip_of_openais_form_is_written_for_older_readers_too(folder, tmp_path):
    assert json.loads((folder / "segmenter.json").read_text())["schema_version"] == 1
    parts = read_segmenter_folder(folder)
    for number, changes in enumerate(({"same_space": False}, {"clip": siglip()})):
        write_segmenter_folder(tmp_path / str(number), dataclasses.replace(parts, **changes))
        content = json.loads((tmp_path / str(number) / "segmenter.json").read_text())
        assert (content["schema_version"], content["same_space"]) == (2, number == 1)


def siglip():
    """A CLIP of 16 dimensions, as the tiny proposal net's, and of another form than OpenAI's."""
    return build_mask_adapted_clip(FAMILIES["SigLIP"], prompt_depth=1)


def test_settings_can_be_overridden_at_load(folder):
    loaded = Segmenter.load(folder, short_side_px=40, ensemble_weight=0, use_mask_prompts=False)
    assert loaded.settings == SegmenterSettings(
        short_side_px=40, max_side_px=128, ensemble_weight=0, use_mask_prompts=False, mask_threshold=0.4
    )
    expected = tiny_segmenter(mask_threshold=0.4, short_side_px=40, ensemble_weight=0, use_mask_prompts=False)
    assert torch.equal(loaded.scores(picture(), CLASS_NAMES), expected.scores(picture(), CLASS_NAMES))


def test_loading_leaves_the_callers_random_numbers_alone(folder):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Segmenter.load(folder)
    assert torch.equal(torch.rand(3), expected)


def test_the_package_offers_the_segmenter_and_stays_light():
    light = "import sys, ovseg_models; assert 'torch' not in sys.modules; from ovseg_models import Segmenter"
    subprocess.run([sys.executable, "-c", light], check=True)
    with pytest.raises(ImportError, match="cannot import name 'Segmentor'"):
        from ovseg_models import Segmentor  # noqa: F401


def test_loading_opens_no_connection(folder):
    program = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise RuntimeError('a connection was opened')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from ovseg_models import Segmenter\n"
        f"Segmenter.load({str(folder)!r})\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_folder_in_use_is_not_overwritten(folder):
    with pytest.raises(FileExistsError, match="segmenter: is there already"):
        tiny_segmenter().save(folder)


def test_a_failed_save_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("ovseg_models.new_folder.json.dump", fail)
    with pytest.raises(OSError, match="no space left"):
        tiny_segmenter().save(tmp_path / "segmenter")
    assert list(tmp_path.iterdir()) == []


def test_a_net_built_by_hand_cannot_be_saved(tmp_path):
    segmenter = tiny_segmenter()
    by_hand = Segmenter(segmenter.proposal_net, MaskAdaptedClip(build_clip(CLIP)), tokenizer=segmenter.tokenizer)
    with pytest.raises(ValueError, match="CLIP has no record of the arguments it was built from"):
        by_hand.save(tmp_path / "segmenter")


def test_missing_folders_and_files_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent/segmenter\.json: there is no such file"):
        Segmenter.load(tmp_path / "absent")
    (folder / "clip.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"clip\.safetensors: there is no such file; the folder is incomplete"):
        Segmenter.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(format="x"), "is no description of a segmenter"),
        (lambda content: content.update(schema_version=9), "schema_version is 9, this version reads 1"),
        (lambda content: content.pop("words"), r"missing keys \['words'\], unknown keys \[\]"),
        (lambda content: content.update(new=1), r"missing keys \[\], unknown keys \['new'\]"),
        (lambda content: content["settings"].update(lam=1), r"unknown names \['lam'\]"),
        (lambda content: content["settings"].update(clip_chunk=0), "clip_chunk is 0, at least 1 is expected"),
        (lambda content: content["settings"].update(clip_chunk="4"), "settings: .*clip_chunk is '4', int is expected"),
        (lambda content: content["proposal_net"].update(queries=0), "queries is 0"),
        (lambda content: content["proposal_net"].update(depth=3), r"unknown arguments \['depth'\]"),
        (lambda content: content["clip"]["model"].pop("vision_cfg"), r"lacks \['vision_cfg'\]"),
        (lambda content: content["clip"].update(depth=3), "unexpected keyword argument 'depth'"),
        (lambda content: content.update(words=["Two Words"]), "'Two Words' can never match"),
        (lambda content: content["clip"].update(pretrained="openai"), r"\['pretrained'\] would fetch weights"),
        (
            lambda content: content["proposal_net"]["backbone_arguments"]["timm_arguments"].update(checkpoint_path="x"),
            r"\['checkpoint_path'\] would fetch weights",
        ),
        (lambda content: content.update(clip=None), "holds a proposal net and no CLIP"),
        (lambda content: content.update(proposal_net=None), "holds a clip and no proposal net"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_a_description_that_does_not_fit_is_refused(folder, change, message):
    edit(folder, change)
    with pytest.raises(ValueError, match=message):
        Segmenter.load(folder)


def test_a_description_that_is_no_json_is_refused(folder):
    (folder / "segmenter.json").write_text("{")
    with pytest.raises(ValueError, match=r"segmenter\.json: is no JSON"):
        Segmenter.load(folder)


def test_weights_that_do_not_fit_are_refused_with_their_names(folder):
    tensors = load_file(folder / "clip.safetensors")
    tensors["mask_prompts"] = torch.zeros(2, 16, 16)
    tensors["stranger"] = tensors.pop("clip.visual.proj")
    save_file(tensors, folder / "clip.safetensors")
    expected = (
        r"clip\.safetensors: .*1 missing \(clip\.visual\.proj\); 1 unexpected \(stranger\); "
        r"1 misshapen \(mask_prompts \(2, 16, 16\), expected \(3, 16, 16\)\)"
    )
    with pytest.raises(ValueError, match=expected):
        Segmenter.load(folder)


def test_damaged_weights_are_refused(folder):
    path = folder / "proposal_net.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"proposal_net\.safetensors: cannot be read"):
        Segmenter.load(folder)


def test_a_folder_of_one_net_is_written_and_read(tmp_path):
    write_segmenter_folder(tmp_path / "clip", SegmenterParts(None, tiny_segmenter().clip))
    with pytest.raises(ValueError, match=r"import the other part with 'ovseg import-checkpoint FILE --base FOLDER"):
        Segmenter.load(tmp_path / "clip")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ensemble_weight": 1.5}, "ensemble_weight is 1.5, 0"),
        ({"mask_threshold": 1.0}, "mask_threshold is 1.0, 0 to below 1"),
        ({"short_side_px": 0}, "short_side_px is 0"),
        ({"max_side_px": 10}, "max_side_px is 10, at least short_side_px 640"),
        ({"ensemble_weight": -1, "clip_chunk": 0}, "ensemble_weight is -1.*; clip_chunk is 0"),
    ],
)
def test_settings_out_of_range_are_refused_all_at_once(values, message):
    with pytest.raises(ValueError, match=message):
        SegmenterSettings(**values)


def test_settings_survive_json():
    settings = SegmenterSettings(ensemble_weight=0.6, prompt_templates=("{}",))
    assert settings_from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_files_of_a_folder_can_be_read_by_those_whom_the_umask_allows(tmp_path):
    umask = os.umask(0o022)
    try:
        tiny_segmenter().save(tmp_path / "model")
    finally:
        os.umask(umask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
    assert set(modes.values()) == {0o644}, modes


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda content: content.update(proposal_net=[]), "proposal_net"),
        (lambda content: content.update(clip="ViT-B-16"), "clip"),
        (lambda content: content.update(words="cat dog"), "words"),
        (lambda content: content.update(words=[["cat"]]), "words"),
        (lambda content: content.update(words=["cat"] * 100_000), "words"),
        (lambda content: content.update(words=[f"w{number}" for number in range(60_000)]), "words"),
        (lambda content: content.update(context_length=True), "context_length"),
        (lambda content: content.update(context_length=10**12), "context_length"),
        (lambda content: content.update(context_length=None), "words"),
        (lambda content: content.update(settings=None), "settings"),
        (lambda content: content["settings"].update(mask_threshold=float("nan")), "settings.mask_threshold"),
        (lambda content: content["settings"].update(short_side_px=10**30, max_side_px=10**30), "max_side_px"),
        (lambda content: content["settings"].update(prompt_templates=7), "prompt_templates"),
        (lambda content: content["settings"].update(prompt_templates=[None]), "prompt_templates[0]"),
        (lambda content: content["settings"].update(prompt_templates=["no place"]), "prompt_templates[0]"),
        (lambda content: content["settings"].update(clip_chunk="9" * 10**6), "clip_chunk"),
        (lambda content: content.update(published={"layout": 1}), "published"),
        (lambda content: content["proposal_net"].update(decoder_layers=10**9), "proposal_net"),
        (lambda content: content["proposal_net"].update(hidden_dim=10**30), "proposal_net"),
        (lambda content: content["proposal_net"].update(queries="many"), "proposal_net"),
        (lambda content: content["proposal_net"].update(backbone="vit_giant_patch14_224"), "proposal_net"),
        (lambda content: content["proposal_net"].update(backbone_arguments=3), "proposal_net.backbone_arguments"),
        (lambda content: content["clip"]["model"]["vision_cfg"].update(width=2**20, head_width=2**10), "clip"),
        (lambda content: content["clip"]["model"]["vision_cfg"].update(layers=10**9), "clip"),
        (lambda content: content["clip"]["model"]["vision_cfg"].update(layers=-1), "clip"),
        (lambda content: content["clip"]["model"]["vision_cfg"].update(patch_size=0), "clip"),
        (lambda content: content["clip"]["model"]["text_cfg"].update(vocab_size=float("inf")), "clip.model.text_cfg"),
        (lambda content: content["clip"]["model"]["text_cfg"].update(context_length=10**6), "clip"),
        (lambda content: content["clip"].update(model=None), "clip.model"),
        (lambda content: content["clip"].update(prompt_depth=10**6), "clip"),
        (lambda content: content["clip"].update(preprocessing={"mean": "grey"}), "clip"),
        (lambda content: content["clip"].update(preprocessing={"std": [1e999, 1, 1]}), "clip.preprocessing.std[0]"),
        (lambda content: content["clip"].update(temperature="hot"), "clip"),
        (lambda content: content["clip"].update(tokenizer_folder="/etc"), "clip"),
        (lambda content: content["clip"]["model"]["vision_cfg"].update(timm_model_name="hf-hub:some/where"), "clip"),
        (
            lambda content: content["clip"]["model"]["vision_cfg"].update(timm_model_name="vit_giant_patch14_224"),
            "clip",
        ),
        (lambda content: content["clip"]["model"]["text_cfg"].update(hf_model_name="some/where"), "clip"),
        (lambda content: content.update(schema_version=2, same_space="yes"), "same_space"),
        (lambda content: content.update(schema_version=2), "same_space"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_whatever_is_in_the_description_one_line_names_file_and_key(folder, change, key):
    edit(folder, change)
    start = time.monotonic()
    with pytest.raises(ValueError, match="segmenter") as caught:
        Segmenter.load(folder)
    assert time.monotonic() - start < 10  # below a second where nothing else runs
    printed = str(caught.value)
    assert printed.startswith(f"{folder / 'segmenter.json'}: ")
    assert key in printed
    assert "\n" not in printed
    assert len(printed) < 900


@pytest.mark.parametrize(
    "content", [b"[" * 10_000_000, b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"", b"null", b"[]", b"9" * 10_000]
)
def test_a_file_that_is_no_description_is_refused_at_once(folder, content):
    (folder / "segmenter.json").write_bytes(content)
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"segmenter\.json: ") as caught:
        Segmenter.load(folder)
    assert time.monotonic() - start < 10
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "tensor"), [("clip", "clip.visual.proj"), ("proposal_net", "no_object_embedding")])
def test_weights_that_are_no_numbers_are_not_loaded(folder, name, tensor):
    path = folder / f"{name}.safetensors"
    tensors = load_file(path)
    tensors[tensor].view(-1)[0] = float("nan")
    save_file(tensors, path)
    with pytest.raises(ValueError, match=rf"{name}\.safetensors: {tensor} holds 1 NaN"):
        Segmenter.load(folder)
