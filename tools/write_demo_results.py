"""Put what a finished demo shows into README.md and docs: the table, its numbers, the picture.

``python -m tools.write_demo_results --config flows/configs/demo.toml`` after ``make demo``; it runs no stage.
"""

import argparse
import json
from pathlib import Path

from flows.flow_commands import SHOWN_IMAGES
from pipeline.adaptations import AdaptationTable, adaptation_picture, adaptation_tables
from pipeline.picture_sheets import write_picture
from pipeline.settings import load_settings
from tools.seed_results import write_into

ROOT = Path(__file__).parents[1]
README, RESULTS, PICTURE = (
    ROOT / "README.md",
    ROOT / "docs" / "results" / "demo_results.json",
    ROOT / "docs" / "images" / "demo.png",
)


def shown(table: AdaptationTable) -> str:
    """Write what README shows of the demo."""
    heading = (
        f"mIoU [%] on {table.images} drawn scenes that were never trained on, with 95 % intervals over the scenes:"
    )
    return f"\n{heading}\n\n{table.markdown()}"


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="settings of the demo")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    options = parser.parse_args()
    settings = load_settings(options.config, options.overrides)
    (table,) = adaptation_tables(settings)
    RESULTS.write_text(json.dumps(table.to_json(), indent=2) + "\n", encoding="utf-8")
    write_into(README, shown(table), name="demo")
    write_picture(adaptation_picture(settings, images=SHOWN_IMAGES), PICTURE)


if __name__ == "__main__":
    main()
