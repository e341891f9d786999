"""Settings of a training that takes seconds: the drawn world at 64 px, and a net of a few thousand weights."""

from collections.abc import Iterable
from pathlib import Path

from pipeline.settings import Settings, load_settings

STEPS = 12
# Norms that don't look across the batch: with batch norms a batch in two processes isn't the same as one in one.
CONFIG = """
name = "tiny"
[datasets.train]
dataset = "drawn-world"
split = "train"
drawn_world = { scenes = 10, size_px = 64 }
scenes_per_shard = 6
[datasets.val]
dataset = "drawn-world"
split = "val"
drawn_world = { scenes = 5, size_px = 64 }
[clip]
architecture = "drawn-world-small"
pretrained = "shipped"
[proposal_net]
dataset = "train"
validation_dataset = "val"
validation_every_steps = 5
validation_short_side_px = 64
[proposal_net.architecture]
queries = 6
decoder_layers = 2
hidden_dim = 16
mask_dim = 8
norm_groups = 4
heads = 2
feedforward_dim = 16
embedding_hidden_dim = 16
dropout = 0.0
[proposal_net.architecture.backbone]
name = "resnet10t"
timm_arguments = { channels = [8, 8, 8, 8], stem_width = 8, norm_layer = "groupnorm1" }
[proposal_net.training]
steps = 12
batch_images = 4
learning_rate = 1e-3
backbone_rate_factor = 1.0
warmup_steps = 2
checkpoints = { every_steps = 3 }
augmentation = { short_sides_px = [64, 72], max_side_px = 96, crop_px = 64 }
[compute]
device = "cpu"
loader_workers = 0
"""


def tiny_config(directory: Path) -> Path:
    """Write the settings file."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "tiny.toml"
    path.write_text(CONFIG)
    return path


def tiny_settings(runs: Path, overrides: Iterable[str] = ()) -> Settings:
    """Return the settings with some of them changed."""
    return load_settings(tiny_config(runs.parent / f"{runs.name}-config"), [f"runs_dir={runs}", *overrides])
