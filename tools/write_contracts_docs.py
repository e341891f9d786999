"""Write docs/reference/contracts.md, the columns of every artifact; ``--check`` only checks that it is current."""

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pyarrow as pa

from storage_schemas import (
    branches,
    checkpoints,
    embeddings,
    negatives,
    pair_signs,
    pairs,
    picture_hashes,
    proposals,
    reports,
    scenes,
    scores,
    text_embeddings,
    verdicts,
    weight_choices,
)
from storage_schemas.tables import TableSchema

TARGET = Path(__file__).parents[1] / "docs" / "reference" / "contracts.md"
EXAMPLE_DIM = 512

INTRODUCTION = """\
# Contracts

Written by `make docs` from `storage_schemas`; edit those modules, not this page. Each Parquet file carries these
descriptions too, as metadata of its columns. What every artifact has in common
(directories, sidecars, manifests, commits) is in [architecture.md](../internals/architecture.md).

`D` is the length of an embedding of the CLIP in use (512 for ViT-B/16, 768 for ViT-L/14).
"""


@dataclass(frozen=True)
class Kind:
    """One kind of artifact on the page.

    Attributes:
        title: Heading.
        module: Where it is defined; its docstring introduces it.
        tables: Name of each table's file to its schema.
    """

    title: str
    module: ModuleType
    tables: dict[str, TableSchema]


KINDS = (
    Kind("scenes", scenes, {"UNIT.parquet": scenes.SCHEMA}),
    Kind("proposals", proposals, {"UNIT.parquet": proposals.schema(EXAMPLE_DIM)}),
    Kind("embeddings", embeddings, {"UNIT.parquet": embeddings.schema(EXAMPLE_DIM)}),
    Kind("text_embeddings", text_embeddings, {"UNIT.parquet": text_embeddings.schema(EXAMPLE_DIM)}),
    Kind("pairs", pairs, {"UNIT.parquet": pairs.SCHEMA}),
    Kind("pair_signs", pair_signs, {"UNIT.parquet": pair_signs.SCHEMA}),
    Kind("negatives", negatives, {"UNIT.parquet": negatives.SCHEMA}),
    Kind("verdicts on pairs", verdicts, {verdicts.FILE: verdicts.SCHEMA}),
    Kind("proposal_net, adapted_clip", checkpoints, {}),
    Kind(
        "scores",
        scores,
        {
            "UNIT.confusion.parquet": scores.CONFUSION,
            "UNIT.images.parquet": scores.IMAGES,
            "UNIT.classes.parquet": scores.CLASSES,
        },
    ),
    Kind("branches", branches, {"UNIT.parquet": branches.SCHEMA}),
    Kind("picture_hashes", picture_hashes, {"UNIT.parquet": picture_hashes.SCHEMA}),
    Kind("weight_choices", weight_choices, {"pairs.parquet": weight_choices.SCHEMA}),
    Kind("reports", reports, {}),
)


def document() -> str:
    """Return the whole page."""
    return "\n".join([INTRODUCTION, *(line for kind in KINDS for line in _section(kind))])


def _section(kind: Kind) -> Iterator[str]:
    """Yield heading, introduction and tables of one kind."""
    yield f"## {kind.title}\n"
    yield (kind.module.__doc__ or "").strip().replace("``", "`") + "\n"
    for file, schema in kind.tables.items():
        yield f"`{file}`, schema version {schema.version}\n"
        yield "| column | type | null | what |"
        yield "|---|---|---|---|"
        for field in schema.columns:
            text = field.metadata[b"what"].decode().replace("|", "\\|")
            yield f"| `{field.name}` | {_type(field.type)} | {'yes' if field.nullable else ''} | {text} |"
        yield ""


def _type(kind: pa.DataType) -> str:
    """Write an Arrow type in words."""
    text = re.sub(r"fixed_size_list<item: (\w+) not null>\[(\d+)\]", r"\1[\2]", str(kind))
    text = (
        text.replace(f"[{EXAMPLE_DIM}]", "[D]")
        .replace(" not null", "")
        .replace("item: ", "")
        .replace("halffloat", "float16")
    )
    return f"`{text}`"


def main() -> int:
    """Write the page, or check it; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        TARGET.write_text(document(), encoding="utf-8")
        return 0
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == document():
        return 0
    print(f"{TARGET}: is not what storage_schemas says; run 'make docs'")
    return 1


if __name__ == "__main__":
    sys.exit(main())
