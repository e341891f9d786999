"""The small CLIP that the project ships; it stands for a pretrained one in the drawn world."""

from pathlib import Path

ARCHITECTURE_FILE = Path(__file__).parent / "small_clip.json"
WEIGHTS_FILE = Path(__file__).parent / "small_clip.safetensors"
