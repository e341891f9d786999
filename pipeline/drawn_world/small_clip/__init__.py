"""The small CLIP that the project ships: a pretrained one for the drawn world. And names of CLIPs in settings."""

from pathlib import Path

SMALL, SHIPPED, RANDOM = "drawn-world-small", "shipped", "random"

ARCHITECTURE_FILE = Path(__file__).parent / "small_clip.json"
WEIGHTS_FILE = Path(__file__).parent / "small_clip.safetensors"
