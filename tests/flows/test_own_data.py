"""flows/configs/own_data.toml goes from a user's folder, or COCO JSON, to a segmenter: docs/start/own_data.md."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pycocotools.mask
import pytest
import tomli_w
from PIL import Image

from flows.command import main
from ovseg_models import Segmenter
from pipeline.drawn_world.words import NOUNS
from pipeline.drawn_world.world import DrawnWorld
from pipeline.settings import load_settings
from pipeline.settings.model import all_settings
from tests.docs.pages import ROOT, blocks_of

CONFIGS = ROOT / "flows" / "configs"
SCENES = {"train": range(6), "val": range(50, 53)}
PAGE = ROOT / "docs" / "start" / "own_data.md"


def put_scenes(root: Path) -> None:
    """Write drawn scenes as the page says that a folder is laid out."""
    for split, indices in SCENES.items():
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for index in indices:
            scene = DrawnWorld(3).scene(index)
            Image.fromarray(scene.image).save(root / split / "images" / f"{index}.png")
            Image.fromarray(scene.label_map).save(root / split / "labels" / f"{index}.png")
    (root / "classes.txt").write_text("\n".join(NOUNS) + "\n")


def put_coco(root: Path) -> None:
    """Write the same scenes as an export in COCO's format, each region an object."""
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    for split, indices in SCENES.items():
        images, objects = [], []
        for index in indices:
            scene = DrawnWorld(3).scene(index)
            Image.fromarray(scene.image).save(root / "images" / f"{index}.png")
            images.append({"id": index, "file_name": f"{index}.png", "height": 96, "width": 96})
            for label in np.unique(scene.label_map):
                mask = np.asfortranarray(scene.label_map == label)
                encoded = pycocotools.mask.encode(mask.astype(np.uint8, order="F"))
                objects.append(
                    {
                        "id": len(objects) + 1,
                        "image_id": index,
                        "category_id": int(label) + 1,
                        "segmentation": {"size": [96, 96], "counts": encoded["counts"].decode()},
                        "bbox": [0, 0, 96, 96],
                        "area": int(mask.sum()),
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": place + 1, "name": noun} for place, noun in enumerate(NOUNS)]
        document = {"images": images, "annotations": objects, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Stand in the user's directory; the shipped file, with the demo's small nets and a few steps of each training."""
    monkeypatch.chdir(tmp_path)
    own = tomllib.loads((CONFIGS / "own_data.toml").read_text())
    demo = tomllib.loads((CONFIGS / "demo.toml").read_text())
    own |= {name: demo[name] for name in ("net_input", "clip", "compute")}
    own["proposal_net"] |= {name: demo["proposal_net"][name] for name in ("architecture", "initial_weights")}
    training = demo["proposal_net"]["training"] | {"steps": 2, "batch_images": 2, "warmup_steps": 0}
    own["proposal_net"] |= {"training": training, "validation_every_steps": 2}
    for phase in ("ft", "mpt"):
        own["finetune"][phase] = {"epochs": 1, "batch_pairs": 8, "warmup_steps": 0}
    return own


def write(own: dict, path: Path = Path("own.toml")) -> str:
    path.write_text(tomli_w.dumps(own))
    return str(path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_folder_becomes_a_segmenter(config, capsys):
    put_scenes(Path("my_data"))
    given = ["--config", write(config), "--log-level=warning"]
    for stage in ("train-proposals", "mine", "finetune", "evaluate"):
        assert main([stage, *given]) == 0
    assert "report: " in capsys.readouterr().out
    assert main(["bundle", *given, "--out", "models/own"]) == 0
    segmentation = Segmenter.load("models/own").segment("my_data/val/images/50.png", ["sky", "grass"])
    assert segmentation.label_map.shape == (96, 96)


def test_an_export_in_cocos_format_takes_the_place_of_the_folder(config):
    put_coco(Path("my_export"))
    [block] = [block for block in blocks_of(PAGE) if block.language == "toml"]
    config["datasets"] = tomllib.loads(block.text)["datasets"]
    given = ["--config", write(config), "--log-level=warning"]
    assert main(["mine", *given, "--set", "mine.source=masks-classes"]) == 0
    assert main(["status", *given]) == 0


def test_the_page_names_settings_that_there_are_and_the_file_holds():
    settings = load_settings(CONFIGS / "own_data.toml")
    assert settings.mine.source == "masks-classes"
    known = {".".join(setting.key) for setting in all_settings(type(settings))}
    for name in ("mine.source", "mine.proposals", "proposal_net.training.steps", "clip.architecture"):
        assert name in known
        assert f"`{name}" in PAGE.read_text(encoding="utf-8")
