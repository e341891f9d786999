"""Each snippet of docs/start/using_pairs.md reads pairs that were just mined; open_clip's own script trains on them."""

import json
import os
import subprocess
import sys
import tarfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from pipeline.mine.pair_signs import make_signs
from pipeline.pair_files.export_pairs import export_pairs
from pipeline.stages import run
from tests.docs.pages import ROOT, blocks_of, words_of
from tests.pipeline.mine.mining_world import mining_settings, pair_rows

pytest.importorskip("datasets", reason="the environment is older than pyproject.toml; run make install")
duckdb = pytest.importorskip("duckdb", reason="the environment is older than pyproject.toml; run make install")
pandas = pytest.importorskip("pandas", reason="the environment is older than pyproject.toml; run make install")

BLOCKS = blocks_of(ROOT / "docs" / "start" / "using_pairs.md")
TRAINING = [
    line for block in BLOCKS if block.language == "sh" for line in block.commands() if "open_clip_train" in line
]
TINY_MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A directory with ``pairs`` in it, and what its rows say."""
    folder = tmp_path_factory.mktemp("reader")
    artifact = run("mine", mining_settings(folder / "runs", "mine.source=masks-1-caption", scenes=6)).artifact
    (folder / "pairs").symlink_to(artifact.directory)
    export_pairs(artifact, "coco", folder / "pairs-coco")
    (folder / "pair_signs").symlink_to(make_signs(artifact).artifact.directory)
    return folder, pair_rows(artifact)


def run_python(folder, program: str, *arguments: str) -> str:
    """Run Python in the reader's directory, in a process of its own: webdataset leaves files open."""
    command = [sys.executable, "-c", program, *arguments]
    alone = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    done = subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def shown(reader) -> str:
    """Run all snippets in order, each as it stands; return what they print."""
    folder, _ = reader
    snippets = [block.text for block in BLOCKS if block.language == "python"]
    program = f"for snippet in {snippets!r}: exec(snippet, {{'__name__': '__main__'}})"
    return run_python(folder, program)


def test_every_snippet_runs_and_reads_all_pairs(reader, shown):
    folder, rows = reader
    nouns = Counter(row["noun"] for row in rows)
    assert nouns.most_common(1)[0][0] in shown
    for row in rows:
        assert f"{row['noun']} {row['score']} {row['image_id']} {row['caption_id']} " in shown
        assert f"{row['noun']} {row['area_px']} {row['score']}" in shown  # by pycocotools
    assert "torch.Size([4, 3, 224, 224])" in shown
    for role in ("scenes", "embeddings"):
        (directory,) = (folder / "runs" / role).iterdir()
        assert f"'{role}': 'runs/{role}/{directory.name}'" in shown
    with tarfile.open(folder / "masked-00000.tar") as masked:
        names = [name for row in rows for name in (f"{row['pair']}.png", f"{row['pair']}.txt")]
        assert masked.getnames() == names
        assert masked.extractfile(names[1]).read().decode() == f"a photo of a {rows[0]['noun']}."
        picture = np.asarray(Image.open(masked.extractfile(names[0])))
    assert picture.shape == (224, 224, 3)
    assert (picture == (123, 117, 104)).all(axis=2).any()


def test_pandas_and_duckdb_see_the_rows_that_were_written(reader, monkeypatch):
    folder, rows = reader
    monkeypatch.chdir(folder)
    table = duckdb.sql("SELECT * FROM 'pairs/shard-*.parquet' ORDER BY pair").df()
    files = sorted((folder / "pairs").glob("shard-*.parquet"))
    frame = pandas.concat(map(pandas.read_parquet, files), ignore_index=True)
    for found in (table, frame):
        assert found["pair"].tolist() == [row["pair"] for row in rows]
        assert found["noun"].tolist() == [row["noun"] for row in rows]
        assert [list(box) for box in found["box_xyxy"]] == [list(row["box_xyxy"]) for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("line", TRAINING, ids=["unmasked", "masked"])
@pytest.mark.usefixtures("shown")  # which writes the masked shard
def test_open_clip_trains_on_the_shards(reader, line):
    folder, _ = reader
    (folder / "tiny-model.json").write_text(json.dumps(TINY_MODEL))
    arguments = words_of(line)[3:]
    arguments[arguments.index("--model") + 1] = "tiny-model"
    # The script wants webdataset 0.2, as its extra "training" pins it; with the newer one that is installed here it
    # would stumble over the marks at the ends of shards.
    program = (
        "import functools, sys, open_clip, open_clip_train.data as data\n"
        "data.tar_file_expander = functools.partial(data.tar_file_expander, eof_value=None)\n"
        "open_clip.add_model_config('tiny-model.json')\n"
        "from open_clip_train.main import main; main(sys.argv[1:])"
    )
    run_python(folder, program, *arguments, "--workers", "0")
    name = arguments[arguments.index("--name") + 1]
    assert "Train Epoch: 0" in (folder / "logs" / name / "out.log").read_text()
    assert (folder / "logs" / name / "checkpoints" / "epoch_1.pt").is_file()
