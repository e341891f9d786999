"""What settings imply, in one line for tests."""

from collections.abc import Iterable

from pipeline.dataflow import dataflow
from pipeline.graph import Node
from pipeline.settings import Settings
from pipeline.shard_runner import Execution
from storage_schemas.artifact import Artifact


def node_of(settings: Settings, kind: str, *, ablate: bool = False) -> Node:
    """Return the node of a kind."""
    return dataflow(settings, ablate=ablate).only(kind)


def artifact_of(settings: Settings, kind: str) -> Artifact:
    """Return the artifact of a kind, made or not."""
    return node_of(settings, kind).artifact


def scenes_of(settings: Settings, name: str) -> Artifact:
    """Return the artifact of a data set's scenes, made or not."""
    return dataflow(settings).scenes(name).artifact


def prepare_scenes(settings: Settings, names: Iterable[str]) -> None:
    """Prepare data sets that are not prepared."""
    graph = dataflow(settings)
    for node in (graph.scenes(name) for name in names):
        if not node.is_complete():
            node.make(Execution.of(settings))
