"""A small run of stage 3 for its tests: ``python -m tests.pipeline.finetune.finetune_run RUNS PAIRS [options]``."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from pipeline.finetune.task import FinetuneTask
from pipeline.settings import Settings
from pipeline.stages import run
from tests.tiny_clip import CONFIG, TOKENIZER

BATCH, EPOCHS = 8, 2


def small_settings(runs: Path, pairs: Path, **changes: Any) -> Settings:
    """Return settings of two short phases on a tiny CLIP of random weights, which lies beside the runs."""
    runs.mkdir(parents=True, exist_ok=True)
    architecture = runs / "tiny.json"
    architecture.write_text(json.dumps({**CONFIG, "words": list(TOKENIZER.words)}))
    phase = {"epochs": EPOCHS, "batch_pairs": BATCH, "warmup_steps": 2}
    finetuning = {
        "pairs_dir": str(pairs),
        "ft": {**phase, "learning_rate": 1e-3},
        "mpt": {**phase, "learning_rate": 1e-2},
        "checkpoints": {"every_steps": 3},
        **changes,
    }
    return Settings.model_validate(
        {
            "name": "small",
            "runs_dir": runs,
            "clip": {"architecture": str(architecture), "pretrained": "random"},
            "datasets": {"scenes": {"dataset": "drawn-world", "split": "val", "drawn_world": {"scenes": 4}}},
            "finetune": finetuning,
            "compute": {"device": "cpu", "loader_workers": 0},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--pause-s", type=float, default=0.0)
    parser.add_argument("--changes", type=json.loads, default={})
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.pause_s:
        after_step = FinetuneTask.after_step

        def slowly(task: FinetuneTask) -> None:
            after_step(task)
            time.sleep(options.pause_s)

        FinetuneTask.after_step = slowly  # type: ignore[method-assign]
    run("finetune", small_settings(options.runs, options.pairs, **options.changes))


if __name__ == "__main__":
    main()
