"""Step 2 of mining: the original CLIP embeds every region, by its masked crop or in one pass of the picture.

No noun or caption plays a part.

Reads ``scenes`` and either their ``proposals`` or their labels; writes ``embeddings``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from pipeline.graph import Node, ParameterCounts, Step
from pipeline.mine.regions import EXPECTED, RegionSource, left_out_identity, net_size, regions_of
from pipeline.mine.scene_nouns import check_scenes
from pipeline.ordered_threads import in_threads
from pipeline.settings import (
    ONE_PASS_SIZES,
    ClipSettings,
    ComputeSettings,
    EmbedSettings,
    MineSettings,
    result_settings,
)
from pipeline.stage_names import StageName
from pipeline.worker_device import WorkerCompute
from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.digests import Json
from storage_schemas.embeddings import KIND, SCHEMA_VERSION, EmbeddingShardWriter, SceneEmbeddings
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
    producer_version = 2
    stage: StageName = "mine"
    tolerated = EXPECTED

    def fingerprint(self, node: Node) -> Mapping[str, Json]:
        """Return the settings of step 2, and the size at which crops are cut.

        Raises:
            SettingsError: If the scenes lack what pairs are made of.
        """
        check_scenes(node["scenes"], self.mining)
        options = result_settings(self.mining.embed)
        if self.mining.embed.namer == "crops":  # the size of one pass may be inherited all the same
            options = {name: value for name, value in options.items() if name not in ONE_PASS_SIZES}
        left_out = left_out_identity(node, self.mining)
        return {"options": options, "size": net_size(self.mining)._asdict(), **left_out}

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
            shares = self.settings.share_above_iou < 1
            masks = embedded = 0

            def added(scene: SceneEmbeddings) -> SceneEmbeddings:
                writer.add(scene)
                return scene

            for scene in in_threads(added, state.embeddings(self.regions.read(unit)), threads=1):
                if shares:
                    rows = zip(scene.embeddings, scene.statuses, strict=True)
                    vectors = [vector.tobytes() for vector, status in rows if status == OK]
                    masks += len(vectors)
                    embedded += len(set(vectors))  # masks that share a crop have the same bits
            return writer.commit({"masks": masks, "embedded": embedded} if shares else {})


def sharing_of(embeddings: Node, settings: EmbedSettings) -> dict[str, Json]:
    """Return what the card of pairs says of masks that share embeddings; nothing where only equal ones do."""
    if settings.share_above_iou == 1:
        return {}
    facts = [unit.facts for unit in embeddings.manifest().units]
    masks, embedded = (sum(cast("int", of_unit[name]) for of_unit in facts) for name in ("masks", "embedded"))
    return {"sharing": {"above_iou": settings.share_above_iou, "masks": masks, "embedded": embedded}}
