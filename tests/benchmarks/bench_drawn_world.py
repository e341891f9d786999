"""Drawing scenes of the drawn world: scenes per CPU second, beside PNG encoding and copying of the same scenes."""

import io
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from pipeline.prepare.drawn_world.layout import draw_scene_plan
from pipeline.prepare.drawn_world.scene import DrawnScene, paint
from pipeline.prepare.drawn_world.source import DrawnWorldSource
from pipeline.prepare.drawn_world.world import DrawnWorld

SCENES = 300
ROUNDS = 5
WANTED_PER_S = 250


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of the fastest of a few rounds; other jobs on the machine hardly count."""
    seconds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def encode(scene: DrawnScene) -> None:
    """Encode the picture and both maps as PNG with Pillow's default settings."""
    for pixels in (scene.image, scene.label_map, scene.instance_map):
        Image.fromarray(pixels).save(io.BytesIO(), format="PNG")


def print_rates() -> None:
    """Compare drawing with what is done to a scene anyway."""
    world, source = DrawnWorld(0), DrawnWorldSource(0, 0, SCENES)
    scenes, keys = [world.scene(index) for index in range(SCENES)], source.keys()
    works: dict[str, Callable[[], object]] = {
        "draw (picture, maps, captions)": lambda: [world.scene(index) for index in range(SCENES)],
        "draw and store as PNG (the source)": lambda: [source.scene(key) for key in keys],
        "PNG-encode drawn ones (Pillow)": lambda: [encode(scene) for scene in scenes],
        "copy drawn ones in memory": lambda: [scene.image.copy() for scene in scenes],
    }
    seconds = {name: cpu_seconds(work) for name, work in works.items()}
    drawing = seconds["draw (picture, maps, captions)"]
    for name, spent in seconds.items():
        print(f"{name:36} {SCENES / spent:10,.0f} scenes/CPU s   {spent / drawing:6.3f} x drawing")
    print(f"wanted of drawing: {WANTED_PER_S} scenes/s on one core")


def print_parts() -> None:
    """Show where the time goes; each part is the difference of two measurements."""
    world = DrawnWorld(0)
    plans = [draw_scene_plan(np.random.default_rng(index), world.context) for index in range(SCENES)]

    def paint_all(*, things: bool) -> None:
        for index, (layout, placings) in enumerate(plans):
            paint(layout, placings if things else [], np.random.default_rng(index), world.size_px)

    plan = cpu_seconds(lambda: [draw_scene_plan(np.random.default_rng(index), 0.85) for index in range(SCENES)])
    stuff, painted = cpu_seconds(lambda: paint_all(things=False)), cpu_seconds(lambda: paint_all(things=True))
    whole = cpu_seconds(lambda: [world.scene(index) for index in range(SCENES)])
    parts = {
        "plan": plan,
        "stuff, light and noise": stuff,
        "things": painted - stuff,
        "captions, seeds": whole - painted - plan,
    }
    for name, spent in parts.items():
        print(f"{name:36} {1e6 * spent / SCENES:10.0f} us per scene   {spent / whole:6.1%}")


def print_sizes() -> None:
    """Show what finer pictures cost."""
    for size_px in (96, 256, 480):
        world = DrawnWorld(0, size_px)
        spent = cpu_seconds(lambda world=world: [world.scene(index) for index in range(20)])
        print(f"{size_px:4} px {20 / spent:10,.0f} scenes/CPU s")


def main() -> None:
    print_rates()
    print_parts()
    print_sizes()


if __name__ == "__main__":
    main()
