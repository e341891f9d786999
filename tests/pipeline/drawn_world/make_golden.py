"""Write golden.json, the digests of a few scenes: ``python tests/pipeline/drawn_world/make_golden.py``.

Run it only after a change that is meant to change scenes, together with a raised ``WORLD_VERSION``.
"""

import hashlib
import json
from pathlib import Path

from pipeline.drawn_world.scene import DrawnScene
from pipeline.drawn_world.world import WORLD_VERSION, DrawnWorld

GOLDEN = Path(__file__).with_name("golden.json")
SCENES = {"first": (0, 96, 0), "far": (0, 96, 49_999_999), "other world": (7, 96, 3), "finer": (0, 256, 1)}


def digest(scene: DrawnScene) -> str:
    """Digest all that a scene holds."""
    sha256 = hashlib.sha256()
    for pixels in (scene.image, scene.label_map, scene.instance_map):
        sha256.update(pixels.tobytes())
    sha256.update(repr((scene.things, scene.captions)).encode())
    return sha256.hexdigest()


def digests() -> dict[str, str | int]:
    """Draw the scenes and digest them."""
    drawn: dict[str, str | int] = {"world_version": WORLD_VERSION}
    for name, (seed, size_px, index) in SCENES.items():
        drawn[name] = digest(DrawnWorld(seed, size_px).scene(index))
    drawn["single penguin"] = digest(DrawnWorld(0).single_object(5, "penguin", at_home=False))
    return drawn


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(digests(), indent=2) + "\n", encoding="utf-8")
