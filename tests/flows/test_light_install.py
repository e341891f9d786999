"""`pip install ovseg-pipeline` without extras: segmenters work, and other commands name the extra that they need."""

import json
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from flows.extras import MODULES, missing_extra
from flows.subcommands import SUBCOMMANDS
from ovseg_models.published_checkpoints import write_published_checkpoint
from ovseg_models.segmenter import Segmenter
from ovseg_models.segmenter_settings import SegmenterSettings
from pipeline.clip_loading import load_clip
from pipeline.settings import load_settings
from pipeline.train_proposals.training import initial_net
from pipeline.trained_nets import stock_mask_adapted_clip
from tests.flows.test_checkpoint_commands import parts
from tools.write_constraints import closure, requirements

ROOT = Path(__file__).parents[2]
LIGHT = {
    "segment",
    "import-checkpoint",
    "export-checkpoint",
    "export-clip",
    "memory add",
    "memory remove",
    "memory show",
}
HEAVY = {"prefect", "dask", "distributed", "pyarrow", "tensorboard", "pydantic", "matplotlib", "gradio", "nltk"}

# Run in a process of its own: modules of other distributions than those that the project's own dependencies pull in
# are not found there, as on a machine that has no others.
PROGRAM = """
import json, os, shlex, sys

absent = frozenset(json.loads(sys.stdin.readline()))

class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Without, sys.meta_path)

from flows.command import main
from flows.subcommands import SUBCOMMANDS
from ovseg_models import Segmenter

segmentation = Segmenter.load("model").segment("photo.png", ["sky", "barn"])
print("api", tuple(segmentation.label_map.shape), segmentation.class_names, flush=True)
names = ["--classes", "sky", "barn"]
print("segment", main(["segment", "photo.png", *names, "--model", "model", "--out", "out"]), flush=True)
sizes = ["--heads", "2", "--norm-groups", "4", "--head-width", "32"]
print("import", main(["import-checkpoint", "published.pth", "--out", "imported", *sizes]), flush=True)
print("export", main(["export-checkpoint", "imported", "--out", "again.pth"]), flush=True)
print("help", main(["--help"]), main(["mine", "--help"]), flush=True)
for subcommand in SUBCOMMANDS:
    sys.stderr.write(f"> {subcommand.name}\\n")
    print("exit", subcommand.name.replace(" ", "-"), main(shlex.split(subcommand.examples[0])[1:]), flush=True)
"""


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("light")
    settings = load_settings(ROOT / "flows" / "configs" / "demo.toml")  # of the nets that the project ships
    base = load_clip(settings.clip)
    clip = stock_mask_adapted_clip(base)
    width = base.clip.transformer.width
    net = initial_net(settings.proposal_net, embedding_dim=clip.embedding_dim, text_width=width)
    Segmenter(net.eval(), clip, tokenizer=base.words, settings=SegmenterSettings(short_side_px=128)).save(
        folder / "model"
    )
    write_published_checkpoint(parts(), folder / "published.pth")
    pixels = np.full((48, 64, 3), (90, 150, 230), np.uint8)
    pixels[24:, 16:48] = (170, 60, 40)
    Image.fromarray(pixels).save(folder / "photo.png")
    (folder / "photos").mkdir()  # of an example
    Image.fromarray(pixels).save(folder / "photos" / "photo.png")
    installed = {"ovseg-pipeline", *closure(requirement for extra, requirement in requirements() if not extra)}
    absent = [
        module
        for module, distributions in packages_distributions().items()
        if not any(canonicalize_name(name) in installed for name in distributions)
    ]
    assert set(absent) > HEAVY
    return folder, subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        input=json.dumps(absent),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_segmenters_work(process):
    folder, result = process
    lines = result.stdout.splitlines()
    assert result.returncode == 0, result.stderr
    assert "api (48, 64) ('sky', 'barn')" in lines
    assert {"segment 0", "import 0", "export 0", "help 0 0"} <= set(lines)
    assert json.loads((folder / "out" / "photo.json").read_text())["class_names"] == ["sky", "barn"]
    with Image.open(folder / "out" / "photo.labels.png") as labels:
        assert labels.size == (64, 48)
    assert (folder / "again.pth").is_file()


def test_other_commands_name_their_extra_in_one_line(process):
    _, result = process
    exits = dict(line.split()[1:] for line in result.stdout.splitlines() if line.startswith("exit "))
    assert len(exits) == len(SUBCOMMANDS)
    messages = dict(part.split("\n", 1) for part in result.stderr.split("> ")[1:])
    for name in {subcommand.name for subcommand in SUBCOMMANDS} - LIGHT:
        (line,) = messages[name].splitlines()
        extra = "app" if name == "app" else "pipeline"
        assert line.startswith(f"ovseg: ovseg {name}: "), line
        assert line.endswith(f"not installed; run: pip install 'ovseg-pipeline[{extra}]'")
        assert exits[name.replace(" ", "-")] == "2"
    for name in LIGHT:  # the files of the examples are not there
        assert "pip install" not in messages[name]


def test_every_module_of_an_extra_is_known_by_it():
    own = {"dask": "distributed", "jinja2": "markupsafe", "pydantic": "pydantic_core"}  # of one project
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra, modules in MODULES.items():
        names = [Requirement(line).name.replace("-", "_") for line in project["optional-dependencies"][extra]]
        assert sorted(modules) == sorted([*names, *(own[name] for name in names if name in own)])
    assert missing_extra(ModuleNotFoundError(name="pyarrow.parquet")).endswith("'ovseg-pipeline[pipeline]'")
    assert missing_extra(ModuleNotFoundError(name="of_nobody")) is None
