"""Write the picture of the dataflow into docs/internals/architecture.md and README.md, from ``pipeline.dataflow``.

``python -m tools.write_dataflow_docs``; ``make docs`` runs it, and a test fails when the pages are not current.
"""

from pathlib import Path

from pipeline.dataflow import dataflow
from pipeline.graph import Node
from pipeline.settings import load_settings
from tools.seed_results import write_into

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "flows" / "configs" / "demo.toml"
PAGES = (ROOT / "README.md", ROOT / "docs" / "internals" / "architecture.md")


def picture() -> str:
    """Return a line per kind of artifact: what it is made of, the stage, and what comes out."""
    lines: dict[str, tuple[str, str]] = {}
    for node in dataflow(load_settings(CONFIG)).nodes:
        read = [
            f"{source.step.kind}(labels)" if role in node.step.labels_of else source.step.kind
            for role, source in node.sources.items()
            if isinstance(source, Node)
        ]
        read += ["CLIP"] if "clip" in node.sources else []
        lines.setdefault(node.step.kind, (" + ".join(dict.fromkeys(read)) or "official data sets", node.step.stage))
    reads = max(len(read) for read, _ in lines.values())
    stages = max(len(stage) for _, stage in lines.values())
    rows = [
        f"{read:<{reads}}  ─ {stage} {'─' * (stages - len(stage))}─► {kind}" for kind, (read, stage) in lines.items()
    ]
    return "\n".join(["```text", *rows, "```"])


def main() -> None:
    """Write the pages."""
    for page in PAGES:
        write_into(page, f"\n{picture()}\n", name="dataflow")


if __name__ == "__main__":
    main()
