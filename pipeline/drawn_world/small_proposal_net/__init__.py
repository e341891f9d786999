"""The small proposal net that the project ships: where the demo's training starts, as the paper's from ImageNet."""

from pathlib import Path

WEIGHTS_FILE = Path(__file__).parent / "small_proposal_net.safetensors"
PRETRAINING = Path(__file__).parent / "pretraining.toml"
