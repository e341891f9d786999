"""Mine pairs of masks and nouns from a folder: images/, captions.tsv, and labels/ with classes.txt if there are any.

python examples/mine_pairs.py FOLDER [SETTING=VALUE ...]

Settings are the demo's, whose nets know drawn pictures alone; docs/start/own_data.md has settings for photographs.
Without labels the proposal net gives the masks, so run 'make demo' (or 'make proposals') before.
"""

import sys
from pathlib import Path

import pyarrow.parquet

from pipeline.settings import load_settings
from pipeline.stages import run

folder, *overrides = sys.argv[1:]

config = Path(__file__).parents[1] / "flows" / "configs" / "demo.toml"
own = [f"datasets.own={{dataset='folder', root='{folder}'}}", "mine.dataset=own"]
pairs = run("mine", load_settings(config, [*own, *overrides])).artifact.directory

for path in sorted(pairs.glob("shard-*.parquet")):
    for row in pyarrow.parquet.read_table(path, columns=["key", "status", "noun", "score"]).to_pylist():
        print(row["key"], row["status"], row["noun"], row["score"])
print(pairs)
