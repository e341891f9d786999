"""The digest of CLIP's weights: right, and remembered as long as nothing changed from which it came."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pipeline import clip_loading, clip_weights
from pipeline.clip_loading import load_clip
from pipeline.clip_weights import ClipWeights
from pipeline.errors import PipelineError
from pipeline.settings import ClipSettings
from tests.tiny_clip import CONFIG, TOKENIZER

SHIPPED = ClipSettings(architecture="drawn-world-small", pretrained="shipped")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[ClipSettings]:
    """Note each loading of CLIP, and let files count as settled at once."""
    found: list[ClipSettings] = []

    def noting(settings: ClipSettings):
        found.append(settings)
        return load_clip(settings)

    monkeypatch.setattr(clip_loading, "load_clip", noting)
    monkeypatch.setattr(clip_weights, "SETTLED_AFTER_NS", -1)
    return found


def fresh(settings: ClipSettings, runs: Path) -> ClipWeights:
    """Return it as the next command sees it."""
    return ClipWeights(settings, runs)


def test_the_digest_is_that_of_the_weights_and_is_computed_once(tmp_path, loads):
    expected = load_clip(SHIPPED).digest
    for _ in range(3):
        assert fresh(SHIPPED, tmp_path).digest() == expected
    assert len(loads) == 1
    assert not fresh(SHIPPED, tmp_path).is_random()


def test_a_weight_file_that_changed_is_read_again(tmp_path, loads):
    architecture, file = tmp_path / "tiny.json", tmp_path / "tiny.safetensors"
    architecture.write_text(json.dumps({**CONFIG, "words": list(TOKENIZER.words)}))
    random = ClipSettings(architecture=str(architecture), pretrained="random")
    tensors = load_clip(random).clip.state_dict()
    safetensors.torch.save_file(tensors, file)
    settings = ClipSettings(architecture=str(architecture), pretrained=str(file))
    first = fresh(settings, tmp_path).digest()
    stat = file.stat()
    safetensors.torch.save_file({**tensors, "logit_scale": torch.tensor(1.25)}, file)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # of the same size and time of writing
    second = fresh(settings, tmp_path).digest()
    assert second == load_clip(settings).digest != first
    assert len(loads) == 2


def test_other_versions_and_a_damaged_memory_are_not_believed(tmp_path, loads, monkeypatch):
    expected = fresh(SHIPPED, tmp_path).digest()
    (memory,) = (tmp_path / ".models").iterdir()
    memory.write_text("{")
    assert fresh(SHIPPED, tmp_path).digest() == expected
    monkeypatch.setattr("importlib.metadata.version", lambda package: "0.0")
    assert fresh(SHIPPED, tmp_path).digest() == expected
    assert len(loads) == 3


def test_a_digest_that_is_withheld_says_why(tmp_path):
    clip = ClipWeights(SHIPPED, tmp_path)
    clip.withheld = "CLIP's weights are not here"
    with pytest.raises(PipelineError, match="CLIP's weights are not here"):
        clip.digest()


def test_planning_imports_no_model(tmp_path):
    """What states of finished artifacts follow from is read without torch, open_clip, nltk or scipy."""
    ClipWeights(SHIPPED, tmp_path).digest()
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pipeline.dataflow import dataflow\n"
        "from pipeline.settings import load_settings\n"
        "from pipeline.states import states_of\n"
        f"settings = load_settings(Path('flows/configs/demo.toml'), ['runs_dir={tmp_path}'])\n"
        "print(len(states_of(dataflow(settings).nodes)))\n"
        "print([name for name in ('torch', 'open_clip', 'timm', 'nltk', 'scipy') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["10", "[]"]
