"""Step 2 of mining: the original CLIP embeds the masked crop of every region. No noun or caption plays a part.

Reads ``scenes`` and either their ``proposals`` or their labels; writes ``embeddings``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.graph import Node, ParameterCounts, Step
from pipeline.mine.inputs import check_scenes, net_size, regions_of
from pipeline.mine.regions import RegionSource
from pipeline.mine.statuses import EXPECTED
from pipeline.ordered_threads import in_threads
from pipeline.settings import ClipSettings, ComputeSettings, EmbedSettings, MineSettings, result_settings
from pipeline.stage_names import StageName
from pipeline.worker_device import WorkerCompute
from storage_schemas.artifact import Artifact
from storage_schemas.digests import Json
from storage_schemas.embeddings import KIND, SCHEMA_VERSION, EmbeddingShardWriter
from storage_schemas.manifest import Sidecar

if TYPE_CHECKING:
    from pipeline.mine.embedder import Embedder


@dataclass(frozen=True, kw_only=True)
class Embed(Step):
    """Makes embeddings of regions.

    Attributes:
        queries: Regions per scene at most, for estimates.
    """

    mining: MineSettings
    queries: int
    compute: ComputeSettings

    kind = KIND
    schema_version = SCHEMA_VERSION
    recipe = 2
    stage: StageName = "mine"
    tolerated = EXPECTED

    def fingerprint(self, node: Node) -> Mapping[str, Json]:
        """Return the settings of step 2, and the size at which crops are cut.

        Raises:
            SettingsError: If the scenes lack what pairs are made of.
        """
        check_scenes(node["scenes"], self.mining)
        return {"options": result_settings(self.mining.embed), "size": net_size(self.mining)._asdict()}

    def job(self, node: Node) -> "EmbedJob":
        """Return what makes a shard."""
        return EmbedJob(
            regions=regions_of(node, self.mining),
            clip=node.clip.settings,
            settings=self.mining.embed,
            compute=WorkerCompute.of(self.compute),
        )

    def size_bytes(self, counts: ParameterCounts, scenes: int) -> int:
        """Estimate from half-precision embeddings of all queries of all scenes."""
        return scenes * self.queries * 2 * counts.embedding_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedJob:
    """Makes shards of embeddings.

    Attributes:
        regions: Where scenes and their regions come from, and at which size crops are cut.
        clip: What embeds them.
    """

    regions: RegionSource
    clip: ClipSettings
    settings: EmbedSettings
    compute: WorkerCompute

    def open(self) -> "Embedder":
        """Load CLIP."""
        from pipeline.mine.embedder import Embedder

        return Embedder.loaded(self.clip, self.settings, self.regions.size, self.compute.begin())

    def run(self, state: "Embedder", artifact: Artifact, unit: str) -> Sidecar:
        """Make one shard; rows are written by a thread beside the forward pass."""
        with artifact.write_unit(unit) as unit_writer:
            writer = EmbeddingShardWriter(unit_writer, embedding_dim=state.embedding_dim)
            for _ in in_threads(writer.add, state.embeddings(self.regions.read(unit)), threads=1):
                pass
            return writer.commit()
