"""Score label maps that another model wrote, by the protocol of this project: no net is loaded.

python examples/evaluate_predictions.py FOLDER PREDICTIONS [SETTING=VALUE ...]

FOLDER has images/, labels/ and classes.txt; PREDICTIONS has a PNG of class indices for each picture, under its name.
"""

import json
import sys
from pathlib import Path

from pipeline.settings import load_settings
from pipeline.stages import run

folder, predictions, *overrides = sys.argv[1:]

config = Path(__file__).parents[1] / "flows" / "configs" / "demo.toml"
scored = f"evaluate.datasets=[{{dataset='own', predictions={{path='{predictions}'}}}}]"
own = [f"datasets.own={{dataset='folder', root='{folder}'}}", scored]
report = run("evaluate", load_settings(config, [*own, *overrides])).artifact.directory

numbers = json.loads((report / "report.numbers.json").read_text(encoding="utf-8"))
for dataset in numbers["datasets"]:
    for metric, value in dataset["variants"][0]["metrics"].items():
        print(metric, value)
print(report / "report.html")
