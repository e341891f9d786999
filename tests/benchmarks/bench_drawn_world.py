"""Drawing scenes of the drawn world: scenes per CPU second, beside PNG encoding and copying of the same scenes."""

import io
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from pipeline.drawn_world.captions import draw_captions
from pipeline.drawn_world.layout import draw_scene_plan
from pipeline.drawn_world.scene import DrawnScene, paint
from pipeline.drawn_world.world import DrawnWorld, visible_mentions
from pipeline.prepare.drawn_world import DrawnWorldSource

SCENES = 300
ROUNDS = 5
EXPECTED_PER_S = 250


def cpu_seconds(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """CPU time of each work's fastest round; the works take turns, so that other jobs disturb all of them alike."""
    seconds = dict.fromkeys(works, float("inf"))
    for _ in range(ROUNDS):
        for name, work in works.items():
            start = time.process_time()
            work()
            seconds[name] = min(seconds[name], time.process_time() - start)
    return seconds


def encode(scene: DrawnScene) -> None:
    """Encode the picture and both maps as PNG with Pillow's default settings."""
    for pixels in (scene.image, scene.label_map, scene.instance_map):
        Image.fromarray(pixels).save(io.BytesIO(), format="PNG")


def print_rates() -> None:
    """Compare drawing with what is done to a scene anyway."""
    world, source = DrawnWorld(0), DrawnWorldSource(0, 0, SCENES)
    scenes, keys = [world.scene(index) for index in range(SCENES)], source.keys()
    seconds = cpu_seconds(
        {
            "draw (picture, maps, captions)": lambda: [world.scene(index) for index in range(SCENES)],
            "draw and store as PNG (the source)": lambda: [source.scene(key) for key in keys],
            "PNG-encode drawn ones (Pillow)": lambda: [encode(scene) for scene in scenes],
            "copy drawn ones in memory": lambda: [scene.image.copy() for scene in scenes],
        }
    )
    drawing = seconds["draw (picture, maps, captions)"]
    for name, spent in seconds.items():
        print(f"{name:36} {SCENES / spent:10,.0f} scenes/CPU s   {spent / drawing:6.3f} x drawing")
    print(f"drawing, expected at least {EXPECTED_PER_S} scenes/s on one core")


def print_parts() -> None:
    """Show where the time goes."""
    world = DrawnWorld(0)

    def rng(index: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(index))

    plans = [draw_scene_plan(rng(index), world.context) for index in range(SCENES)]
    paintings = [paint(layout, placings, rng(0), world.size_px) for layout, placings in plans]
    seconds = cpu_seconds(
        {
            "seeds": lambda: [(rng(index), rng(index)) for index in range(SCENES)],
            "plan": lambda: [draw_scene_plan(chance, world.context) for chance in [rng(0)] for _ in range(SCENES)],
            "stuff, light and noise": lambda: [paint(layout, [], rng(0), world.size_px) for layout, _ in plans],
            "stuff, light, noise and things": lambda: [paint(*plan, rng(0), world.size_px) for plan in plans],
            "captions": lambda: [draw_captions(visible_mentions(painting), rng(0)) for painting in paintings],
        }
    )
    for name, spent in seconds.items():
        print(f"{name:36} {1e6 * spent / SCENES:10.0f} us per scene")


def print_sizes() -> None:
    """Show what finer pictures cost."""
    worlds = {f"{size_px} px": DrawnWorld(0, size_px) for size_px in (96, 256, 480)}
    seconds = cpu_seconds(
        {name: lambda world=world: [world.scene(index) for index in range(20)] for name, world in worlds.items()}
    )
    for name, spent in seconds.items():
        print(f"{name:36} {20 / spent:10,.0f} scenes/CPU s")


def main() -> None:
    print_rates()
    print_parts()
    print_sizes()


if __name__ == "__main__":
    main()
