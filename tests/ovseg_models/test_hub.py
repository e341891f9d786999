"""Segmenters to and from the Hugging Face Hub, whose requests are stubbed where huggingface_hub makes them."""

import fnmatch
import json
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id
from PIL import Image
from safetensors.torch import load_file, save_file

import ovseg_models
from ovseg_models import hub
from ovseg_models.precision import keep_half
from ovseg_models.segmenter import Segmenter
from tests.fake_cuda import CUDA, FakeCuda
from tests.tiny_segmenter import CLASS_NAMES, picture, tiny_segmenter

FILES = ["README.md", "clip.safetensors", "config.json", "proposal_net.safetensors", "segmenter.json"]


class Hub:
    """The Hub's repositories as folders, in place of huggingface_hub's requests."""

    def __init__(self, root):
        self.root, self.calls = root, []

    def create_repo(self, repo_id, **options):
        self.calls.append(("create_repo", repo_id, options))
        return self

    repo_id = "me/model"

    def upload_folder(self, *, repo_id, folder_path, **options):
        self.calls.append(("upload_folder", repo_id, options))
        shutil.copytree(folder_path, self.root / repo_id)
        return f"https://hub/{repo_id}/commit/1"

    def snapshot_download(self, repo_id, *, allow_patterns, **options):
        self.calls.append(("snapshot_download", repo_id, options))
        validate_repo_id(repo_id)  # as huggingface_hub does first of all
        if not (self.root / repo_id).is_dir():
            raise LocalEntryNotFoundError("no route to host")
        fetched = self.root / "cache" / repo_id
        for file in (self.root / repo_id).rglob("*"):
            name = file.relative_to(self.root / repo_id)
            if file.is_file() and any(fnmatch.fnmatch(str(name), pattern) for pattern in allow_patterns):
                (fetched / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, fetched / name)
        return str(fetched)


@pytest.fixture
def server(tmp_path, monkeypatch):
    stub = Hub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", lambda token=None: stub)
    monkeypatch.setattr(hub, "snapshot_download", stub.snapshot_download)
    return stub


def test_a_folder_is_saved_and_loaded_with_a_card(tmp_path):
    segmenter = tiny_segmenter(ensemble_weight=0.4)
    segmenter.save_pretrained(tmp_path / "my-model", license="apache-2.0")
    assert sorted(file.name for file in (tmp_path / "my-model").iterdir()) == FILES
    loaded = Segmenter.from_pretrained(tmp_path / "my-model", device="cpu", mask_threshold=0.4)
    assert (loaded.settings.ensemble_weight, loaded.settings.mask_threshold) == (0.4, 0.4)
    assert loaded.space == segmenter.space
    same = Segmenter.load(tmp_path / "my-model").segment(picture(), CLASS_NAMES, return_scores=True).scores
    assert torch.equal(same, segmenter.segment(picture(), CLASS_NAMES, return_scores=True).scores)
    card = ModelCard.load(tmp_path / "my-model" / "README.md")
    data = card.data.to_dict()
    assert (data["pipeline_tag"], data["library_name"], data["license"]) == (
        "image-segmentation",
        "ovseg-pipeline",
        "apache-2.0",
    )
    for fact in (
        "my-model",
        "resnet10t",
        "mask prompts in 3 layers",
        "11: a, photo, of",
        ovseg_models.__version__,
        "0.4",
    ):
        assert fact in card.text
    assert "under apache-2.0" in card.text
    unknown = tiny_segmenter().generate_model_card()
    assert unknown.data.license == "unknown"
    assert "did not say under which licence" in unknown.text


def test_weights_of_a_published_checkpoint_name_its_terms():
    segmenter = tiny_segmenter()
    segmenter.published_layout = "ovseg"
    assert "CC BY-NC 4.0" in segmenter.generate_model_card(license="mit").text


def test_exactly_the_folder_and_its_card_are_uploaded(server):
    segmenter = tiny_segmenter()
    url = segmenter.push_to_hub("me/model", license="mit", private=True, commit_message="first")
    assert url == "https://hub/me/model/commit/1"
    create, upload = server.calls
    assert (create[0], create[1], create[2]["private"]) == ("create_repo", "me/model", True)
    assert (upload[1], upload[2]["commit_message"], upload[2]["repo_type"]) == ("me/model", "first", "model")
    sent = server.root / "me" / "model"
    assert sorted(str(file.relative_to(sent)) for file in sent.rglob("*")) == FILES
    assert json.loads((sent / "config.json").read_text()) == {
        "format": "ovseg-segmenter",
        "library_name": "ovseg-pipeline",
    }
    assert 'Segmenter.from_pretrained("me/model")' in (sent / "README.md").read_text()


def test_json_and_safetensors_alone_are_fetched(server):
    segmenter = tiny_segmenter()
    segmenter.push_to_hub("me/model")
    repository = server.root / "me" / "model"
    for name in ("pytorch_model.bin", "modeling.py", "weights.pkl", "tokenizer/code.py"):
        (repository / name).parent.mkdir(exist_ok=True)
        (repository / name).write_bytes(b"code")
    loaded = Segmenter.from_pretrained("me/model", revision="v1", token="t", local_files_only=True)
    assert loaded.space == segmenter.space
    name, repo_id, options = server.calls[-1]
    assert (name, repo_id, options["revision"], options["local_files_only"]) == (
        "snapshot_download",
        "me/model",
        "v1",
        True,
    )
    fetched = [file.name for file in (server.root / "cache").rglob("*") if file.is_file()]
    assert sorted(fetched) == ["clip.safetensors", "proposal_net.safetensors", "segmenter.json"]


@pytest.mark.parametrize("fault", ["missing", "unexpected", "pickle"])
def test_missing_and_unexpected_tensors_and_pickles_are_errors(server, fault):
    tiny_segmenter().push_to_hub("me/model")
    file = server.root / "me" / "model" / "clip.safetensors"
    tensors = load_file(file)
    if fault == "missing":
        del tensors["mask_prompts"]
    elif fault == "unexpected":
        tensors["clip.more"] = torch.zeros(1)
    save_file(tensors, file)
    if fault == "pickle":
        torch.save(tensors, file.with_name("pytorch_model.bin"))
        file.unlink()
    kind, fact = {
        "missing": (ValueError, "mask_prompts"),
        "unexpected": (ValueError, r"clip\.more"),
        "pickle": (FileNotFoundError, r"clip\.safetensors: there is no such file"),
    }[fault]
    with pytest.raises(kind, match=fact):
        Segmenter.from_pretrained("me/model")


def test_what_is_no_segmenter_is_named(server, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"^\./absent/model: there is no such folder, and it is no name on the Hub"
    ):
        Segmenter.from_pretrained("./absent/model")
    with pytest.raises(
        ConnectionError, match=r"^models/demo: there is no such folder, and .*no route to host.*check path"
    ):
        Segmenter.from_pretrained("models/demo")
    (server.root / "me" / "other").mkdir(parents=True)
    (server.root / "me" / "other" / "model.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"^me/other: has no segmenter\.json on the Hub"):
        Segmenter.from_pretrained("me/other")
    with pytest.raises(FileNotFoundError, match=r"segmenter\.json: there is no such file"):
        Segmenter.from_pretrained(tmp_path)


def test_a_card_of_ones_own_stays_and_other_files_are_not_replaced(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / ".gitattributes").write_text("")
    tiny_segmenter().save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert sorted(file.name for file in tmp_path.iterdir()) == [".gitattributes", *FILES]
    with pytest.raises(FileExistsError, match=r"holds clip\.safetensors already"):
        tiny_segmenter().save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".gitattributes", *FILES]


def test_half_precision_is_for_cuda_and_has_no_way_back(tmp_path):
    segmenter = tiny_segmenter()
    with pytest.raises(ValueError, match=r"^half: found precision 'fp16' on cpu, .* call segmenter\.to\('cuda'\)"):
        segmenter.half()
    space, names = (
        segmenter.space,
        {"clip.visual.conv1.weight", "clip.visual.transformer.resblocks.0.attn.in_proj_weight"},
    )
    with FakeCuda():
        segmenter.to(CUDA)
        assert segmenter.half("bf16") is segmenter
        weights = segmenter.clip.state_dict()
        assert {weights[name].dtype for name in names} == {torch.bfloat16}
        single = ("mask_prompts", "clip.visual.ln_post.weight", "clip.transformer.resblocks.0.mlp.c_fc.weight")
        assert {weights[name].dtype for name in single} == {torch.float32}
        net = segmenter.proposal_net.state_dict()
        assert net["mask_head.layers.0.weight"].dtype == torch.bfloat16
        assert net["no_object_embedding"].dtype == torch.float32
        encoded = segmenter.encode(picture())
        assert encoded.mask_logits.dtype == encoded.image_embeddings.dtype == torch.float32
    assert (segmenter.settings.precision, segmenter.space) == ("bf16", space)
    for refused in (
        lambda: segmenter.save(tmp_path / "x"),
        lambda: segmenter.to("cpu"),
        lambda: segmenter.push_to_hub("a/b"),
    ):
        with pytest.raises(ValueError, match=r"half\(\) has rounded the weights; load the segmenter again"):
            refused()
    assert list(tmp_path.iterdir()) == []


@torch.no_grad()
def test_weights_in_half_precision_give_the_bits_of_autocast(monkeypatch):
    # On a CPU attention has a path in single precision that autocast does not see; on CUDA autocast shuts it off.
    monkeypatch.setattr(torch.backends.mha, "get_fastpath_enabled", lambda: False)
    segmenter = tiny_segmenter()
    crops = torch.randn(3, 3, 16, 16)
    masks = torch.rand(3, 16) < 0.5
    images = torch.randn(1, 3, 64, 96)
    found = []
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            output = segmenter.proposal_net(images)
            found.append((output.mask_logits, output.proposal_embeddings, segmenter.clip.encode_image(crops, masks)))
        keep_half(segmenter.proposal_net, torch.bfloat16)
        keep_half(segmenter.clip.clip.visual, torch.bfloat16)
    for before, after in zip(*found, strict=True):
        assert torch.equal(before, after)


def test_saved_results_are_those_of_the_loaded_segmenter(server, tmp_path):
    tiny_segmenter().push_to_hub("me/model")
    Image.fromarray(picture()).save(tmp_path / "photo.png")
    result = Segmenter.from_pretrained("me/model", device="cpu")(tmp_path / "photo.png", CLASS_NAMES)
    assert np.array_equal(result.label_map, tiny_segmenter()(picture(), CLASS_NAMES).label_map)
