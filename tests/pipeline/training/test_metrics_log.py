"""The log of a training run: whole lines of JSON, whatever a step came to."""

import json
from pathlib import Path

from pipeline.training.metrics_log import METRICS_FILE, MetricsLog, read_metrics


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, step=0) as metrics:
        metrics.write(1, {"loss": 2.5, "gradient_norm": float("inf")})
        metrics.write(1, {"miou": float("nan")}, group="validation")
    lines = (tmp_path / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line, parse_constant=refuse) for line in lines] == [
        {"step": 1, "group": "train", "loss": 2.5, "gradient_norm": None},
        {"step": 1, "group": "validation", "miou": None},
    ]


def test_lines_after_the_step_to_go_on_from_are_cut_off(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, step=0) as metrics:
        for step in (1, 2, 3):
            metrics.write(step, {"loss": step / 2})
    with (tmp_path / METRICS_FILE).open("a", encoding="utf-8") as file:
        file.write('{"step": 4, "group": "tr')  # a kill in the middle of a line
    with MetricsLog(tmp_path, step=2) as metrics:
        metrics.write(3, {"loss": 9.0})
    assert [line["loss"] for line in read_metrics(tmp_path / METRICS_FILE, "train")] == [0.5, 1.0, 9.0]
