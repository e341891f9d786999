"""Models of open_clip whose text tower is one of the package transformers.

The package is an extra, and open_clip looks for it when it is imported: what needs it runs in a process of its own,
with the package as it is installed, or from ``build/transformers``, where continuous integration puts it.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest

from ovseg_models.hub_text_towers import hub_text_tower, with_text_sizes
from ovseg_models.open_clip_models import find_model
from ovseg_models.pretrained_clip import build_clip

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / "build" / "transformers"
NAMES = [name for name in open_clip.list_models() if hub_text_tower(open_clip.get_model_config(name))]
SIZES = {"model_type": "roberta", "hidden_size": 16, "num_hidden_layers": 1, "pad_token_id": 1}


def put_into_cache(cache: Path, repository: str, content: object) -> None:
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "config.json").write_text(json.dumps(content))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def config(**text):
    vision = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    return {"embed_dim": 12, "vision_cfg": vision, "text_cfg": {"hf_model_name": "some/tower", **text}}


def test_all_names_of_open_clip_are_found_and_keep_their_tower():
    assert len(NAMES) == 10
    for name in NAMES:
        found = find_model(name, None).config
        assert found["custom_text"] is True
        assert hub_text_tower(found) == open_clip.get_model_config(name)["text_cfg"]["hf_model_name"]


def test_sizes_come_from_the_cache_and_hold_nothing_that_fetches(cache):
    dangerous = {"auto_map": {"AutoModel": "some/where--code.Model"}, "attn_implementation": "some/kernels"}
    put_into_cache(cache, "some/tower", {**SIZES, **dangerous, "dtype": "float16", "hidden_dropout_prob": 0.1})
    complete = with_text_sizes(config())
    assert complete["text_cfg"]["hf_config"] == SIZES
    assert complete["text_cfg"]["hf_model_pretrained"] is False
    assert with_text_sizes(complete) == complete
    recorded = config(hf_config={**SIZES, **dangerous})
    assert with_text_sizes(recorded)["text_cfg"]["hf_config"] == SIZES


def test_sizes_that_are_not_available_are_named(cache):
    with pytest.raises(ConnectionError, match=r"config\.json of the text tower some/tower could not be downloaded"):
        build_clip(config())


@pytest.mark.parametrize("sizes", [{"model_type": "gpt2"}, {}, [], "roberta", None])
def test_towers_of_another_type_are_refused(sizes):
    with pytest.raises(ValueError, match=r"text tower some/tower is of type .*'roberta'.* is expected"):
        build_clip(config(hf_config=sizes))


def test_without_the_package_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"tower 'some/tower'.*transformers.*pip install ovseg-pipeline\[hf\]"):
        build_clip(config(hf_config=SIZES))


WITH_PACKAGE = """
import json, sys
from pathlib import Path
import open_clip, torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from ovseg_models.mask_adapted_clip import select_trainable
from ovseg_models.pretrained_clip import build_mask_adapted_clip
from ovseg_models.segmenter_folder import SegmenterParts, read_segmenter_folder, write_segmenter_folder
from pipeline.clip_loading import clip_without_numbers, load_clip
from pipeline.settings import ClipSettings
from safetensors.torch import save_file

work = Path(sys.argv[1])
words = ["[UNK]", "[PAD]", "a", "photo", "of", "boat", "sky", "."]
made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
made.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]")
bert = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "max_position_embeddings": 40, "pad_token_id": 1}
nllb = {"model_type": "m2m_100", "vocab_size": 60, "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2,
        "encoder_ffn_dim": 32, "decoder_layers": 2, "max_position_embeddings": 40, "pad_token_id": 1,
        "is_encoder_decoder": True, "encoder_layerdrop": 0.5}
mt5 = {"model_type": "mt5", "vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2,
       "pad_token_id": 1, "is_encoder_decoder": True}
towers = {"roberta": ({"model_type": "roberta", **bert}, "mean_pooler"), "mt5": (mt5, "mean_pooler"),
          "bert": ({"model_type": "bert", **bert}, "cls_pooler"), "nllb": (nllb, "cls_pooler"),
          "xlm": ({"model_type": "xlm-roberta", **bert}, "mean_pooler")}
vision = {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8}
for name, (sizes, pooler) in towers.items():
    folder = work / name
    folder.mkdir()
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(sizes))
    text = {"hf_model_name": str(folder), "hf_tokenizer_name": "some/name", "hf_proj_type": "linear",
            "hf_pooler_type": pooler, "context_length": 8}
    model = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text}
    theirs = open_clip.CustomTextCLIP(**{**model, "text_cfg": {**text, "hf_model_pretrained": False}}).eval()
    save_file({key: value.contiguous() for key, value in theirs.state_dict().items()}, folder / "model.safetensors")
    described = {"model_cfg": {**model, "text_cfg": {**text, "hf_config": sizes}}}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    loaded = load_clip(ClipSettings(architecture=f"local-dir:{folder}"))
    ours = loaded.mask_adapted(prompt_depth=1)
    tokens = ours.tokenize(["a photo of a boat", "sky"])
    assert tokens.tolist()[1] == [6] + 7 * [1], tokens
    expected = torch.nn.functional.normalize(theirs.encode_text(tokens), dim=-1)
    difference = float((ours.encode_text(tokens) - expected).detach().abs().max())
    assert difference < 1e-5, (name, difference)
    crops = torch.rand(2, 3, 32, 32)
    alike = torch.nn.functional.normalize(theirs.encode_image(crops), dim=-1)
    assert torch.allclose(ours.encode_image(crops), alike, atol=1e-5)
    ours.train()  # which drops nothing: noun embeddings must be the same at each step
    assert torch.equal(ours.encode_text(tokens), ours.encode_text(tokens))
    assert all(part.startswith("clip.visual.") for part in select_trainable(ours, "ft", train_logit_scale=False))
    ours.eval()
    assert clip_without_numbers(ClipSettings(architecture=f"local-dir:{folder}")).embedding_dim == 12
    write_segmenter_folder(work / f"{name}-segmenter", SegmenterParts(None, ours))
    for file in folder.iterdir():
        file.unlink()  # a segmenter holds all of it
    again = read_segmenter_folder(work / f"{name}-segmenter").clip
    assert torch.equal(again.encode_text(again.tokenize(["sky"])), ours.encode_text(tokens[1:])), name
    print(name, "equal")
"""


def test_towers_embed_as_open_clips_and_segmenters_hold_them(tmp_path):
    installed = importlib.util.find_spec("transformers") is not None
    if not installed and not PACKAGES.is_dir():
        pytest.skip("the package transformers is not installed: pip install 'ovseg-pipeline[hf]'")
    paths = os.pathsep.join([str(ROOT), *([] if installed else [str(PACKAGES)])])
    environment = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WITH_PACKAGE, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [f"{name} equal" for name in ("roberta", "mt5", "bert", "nllb", "xlm")]
