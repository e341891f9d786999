"""Write the picture of the dataflow into docs/architecture.md and README.md, from ``pipeline.dataflow``.

``python -m tools.write_dataflow_docs``; ``make docs`` runs it, and a test fails when the pages are not current.
"""

from pathlib import Path

from pipeline.dataflow import dataflow
from pipeline.graph import Node
from pipeline.settings import load_settings

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "flows" / "configs" / "demo.toml"
PAGES = (ROOT / "README.md", ROOT / "docs" / "architecture.md")
BEGIN, END = "<!-- the dataflow, written by tools/write_dataflow_docs.py -->", "<!-- end of the dataflow -->"


def picture() -> str:
    """Return a line per kind of artifact: what it is made of, the stage, and what comes out."""
    lines: dict[str, tuple[str, str]] = {}
    for node in dataflow(load_settings(CONFIG)).nodes:
        lines.setdefault(node.step.kind, (_read(node), node.step.stage))
    reads = max(len(read) for read, _ in lines.values())
    stages = max(len(stage) for _, stage in lines.values())
    rows = [
        f"{read:<{reads}}  ─ {stage} {'─' * (stages - len(stage))}─► {kind}" for kind, (read, stage) in lines.items()
    ]
    return "\n".join(["```text", *rows, "```"])


def _read(node: Node) -> str:
    """Name what an artifact is made of, CLIP last."""
    kinds = [
        f"{source.step.kind}(labels)" if role in node.step.labels_of else source.step.kind
        for role, source in node.sources.items()
        if isinstance(source, Node)
    ]
    return " + ".join(dict.fromkeys([*kinds, *(["CLIP"] if "clip" in node.sources else [])])) or "official data sets"


def with_picture(page: str) -> str:
    """Put the picture between the marks of a page.

    Raises:
        ValueError: If the page has no marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"write_dataflow_docs: the page lacks {BEGIN!r} or {END!r}; put them where the picture goes")
    return f"{before}{BEGIN}\n{picture()}\n{END}{after}"


def main() -> None:
    """Write the pages."""
    for page in PAGES:
        page.write_text(with_picture(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
