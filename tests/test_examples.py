"""The scripts of examples/ do what they say, on the nets that the project ships and on small folders."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.bundle import bundle
from pipeline.drawn_world.words import NOUNS
from pipeline.drawn_world.world import DrawnWorld
from pipeline.settings import load_settings
from pipeline.stages import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # processes of their own, each imports torch
ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PICTURE = EXAMPLES / "pictures" / "beach.png"
# The proposal net as it is shipped: a training of one step, so small that it changes nothing.
UNCHANGED_NET = (
    "datasets.drawn-train.drawn_world.scenes=16",
    "proposal_net.validation_dataset=",
    "proposal_net.training.steps=1",
    "proposal_net.training.warmup_steps=0",
    "proposal_net.training.learning_rate=1e-9",
)


def example(name: str, *arguments: object, folder: Path) -> str:
    """Run a script as a reader would, and return what it prints."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def shipped_model(tmp_path_factory):
    """The folder of a segmenter of the shipped nets."""
    folder = tmp_path_factory.mktemp("shipped")
    settings = load_settings(ROOT / "flows" / "configs" / "demo.toml", [f"runs_dir={folder / 'runs'}", *UNCHANGED_NET])
    run("train-proposals", settings)
    bundle(settings, folder / "model", original_clip=True)
    return folder / "model"


@pytest.fixture(scope="module")
def my_pictures(tmp_path_factory):
    """A folder of eight drawn pictures with labels and captions, as a user would have it."""
    folder = tmp_path_factory.mktemp("mine") / "my_pictures"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    (folder / "classes.txt").write_text("\n".join(NOUNS) + "\n")
    lines = ["image\tcaption"]
    world = DrawnWorld(7)
    for number in range(8):
        scene = world.scene(number)
        Image.fromarray(scene.image).save(folder / "images" / f"scene_{number}.png")
        Image.fromarray(scene.label_map).save(folder / "labels" / f"scene_{number}.png")
        lines += [f"scene_{number}\t{caption.text}" for caption in scene.captions]
    (folder / "captions.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def mined(my_pictures):
    """What mining the folder printed, and the directory of its pairs."""
    shown = example("mine_pairs", my_pictures, "mine.source=masks-1-caption", folder=my_pictures.parent)
    return shown, my_pictures.parent / shown.splitlines()[-1]


def test_there_are_five_and_the_page_names_each():
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert len(scripts) == 5
    assert set(re.findall(r"\]\((\w+\.py)\)", page)) == scripts  # in the table
    assert set(re.findall(r"^python examples/(\S+)", page, re.MULTILINE)) == scripts  # as a command


def test_segment_and_save(shipped_model, tmp_path):
    shown = example("segment_and_save", shipped_model, PICTURE, "out", "sky", "water", "sand", folder=tmp_path)
    shares = {name: int(share) for name, share in re.findall(r"^(\w+): (\d+)% of the picture$", shown, re.MULTILINE)}
    assert set(shares) == {"sky", "water", "sand"}
    assert 98 <= sum(shares.values()) <= 102  # each pixel has one class
    assert all(share > 10 for share in shares.values())  # what the picture shows, in bands of a third
    written = json.loads((tmp_path / "out" / "beach.json").read_text())
    assert len(written["masks"]) > 0
    with Image.open(tmp_path / "out" / "beach.labels.png") as labels, Image.open(PICTURE) as picture:
        assert labels.size == picture.size


def test_ask_many_names(shipped_model, tmp_path):
    shown = example("ask_many_names", shipped_model, PICTURE, "water", "balloon", "clock", folder=tmp_path)
    assert re.match(r"encoded in \d+\.\d\d s\n", shown)
    shares = {
        name: float(share) for name, share in re.findall(r"^(\w+): ([\d.]+)% of the picture", shown, re.MULTILINE)
    }
    assert set(shares) == {"water", "balloon", "clock"}
    assert shares["water"] > 10


def test_mine_pairs(mined):
    shown, directory = mined
    rows = shown.splitlines()[:-1]
    assert directory.is_dir()
    assert directory.name.startswith("demo-")
    named = [row.split() for row in rows]
    assert {row[0] for row in named} <= {f"scene_{number}" for number in range(8)}
    assert {row[2] for row in named if row[1] == "ok"} & set(NOUNS)


def test_train_on_pairs(mined, tmp_path):
    _, directory = mined
    shown = example("train_on_pairs", directory, 30, folder=tmp_path)
    assert re.match(r"\d+ pairs, \d+ nouns\n", shown)
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", shown)]
    assert len(losses) == 30
    assert losses[-1] < 0.7 * losses[0]


def test_evaluate_predictions(my_pictures):
    folder = my_pictures.parent
    (folder / "predictions").mkdir()
    for label in (my_pictures / "labels").iterdir():
        with Image.open(label) as stored:
            values = np.array(stored)
        if label.stem == "scene_0":
            values[:] = NOUNS.index("drum")  # one picture is named wrongly throughout
        Image.fromarray(values).save(folder / "predictions" / label.name)
    shown = example("evaluate_predictions", "my_pictures", "predictions", folder=folder)
    *metrics, page = shown.splitlines()
    assert (folder / page).is_file()
    values = dict(line.split() for line in metrics)
    assert 0.5 < float(values["miou_present"]) < 1
    assert float(values["pacc"]) == pytest.approx(7 / 8, abs=0.001)
