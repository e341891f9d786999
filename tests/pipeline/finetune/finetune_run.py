"""A small run of stage 3 for its tests."""

import json
import time
from pathlib import Path
from typing import Any

from pipeline.finetune.task import FinetuneTask
from pipeline.settings import Settings
from pipeline.stages import run
from tests.pipeline.training.short_of_memory import shorten
from tests.tiny_clip import CONFIG, TOKENIZER
from tests.tiny_clips import FAMILIES

BATCH, EPOCHS = 8, 2


def small_settings(runs: Path, pairs: Path, *, family: str = "", **changes: Any) -> Settings:
    """Return settings of two short phases on a tiny CLIP of random weights, which lies beside the runs.

    Args:
        family: Of `tests.tiny_clips`; empty for a CLIP of OpenAI's form.
    """
    runs.mkdir(parents=True, exist_ok=True)
    architecture = runs / "tiny.json"
    architecture.write_text(json.dumps({**(FAMILIES[family] if family else CONFIG), "words": list(TOKENIZER.words)}))
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


def finetune(
    runs: Path,
    pairs: Path,
    *,
    pause_s: float = 0.0,
    short_of_memory: tuple[int, int] | None = None,
    **changes: Any,
) -> None:
    """Run stage 3 in a process of its own, or in one of several.

    Args:
        pause_s: After each step, for a kill to hit.
        short_of_memory: Samples that fit, and calls before that; see `shorten`.
    """
    if short_of_memory:
        shorten(*short_of_memory)
    if pause_s:
        after_step = FinetuneTask.after_step

        def slowly(task: FinetuneTask) -> None:
            after_step(task)
            time.sleep(pause_s)

        FinetuneTask.after_step = slowly  # type: ignore[method-assign]
    run("finetune", small_settings(runs, pairs, **changes))
