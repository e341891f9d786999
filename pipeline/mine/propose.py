"""Step 1 of mining: the proposal net finds masks in every scene that has a caption.

Reads ``scenes`` and ``proposal_net``; writes ``proposals``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.graph import Node, ParameterCounts, Step
from pipeline.mine.regions import EXPECTED
from pipeline.mine.scene_nouns import check_scenes
from pipeline.settings import (
    ComputeSettings,
    MineSettings,
    ProposalNetSettings,
    ProposeSettings,
    result_settings,
)
from pipeline.shard_runner import Execution, StageReport
from pipeline.stage_names import StageName
from pipeline.text_embeddings import TextSource, embed_names
from pipeline.worker_device import WorkerCompute
from storage_schemas.artifact import Artifact
from storage_schemas.digests import Json
from storage_schemas.manifest import Sidecar
from storage_schemas.proposals import KIND, SCHEMA_VERSION, ProposalShardWriter
from storage_schemas.scenes import ScenesAttributes, SceneShard

if TYPE_CHECKING:
    from pipeline.mine.proposer import Proposer

_PROPOSAL_BYTES = 800  # beside the embedding: run lengths (710 bytes for COCO's own masks at 512 px), box, numbers


@dataclass(frozen=True, kw_only=True)
class Propose(Step):
    """Makes proposals.

    Attributes:
        training: What the net was trained with: the words that it knows, against which "no object" is weighed.
        captioned: Whether scenes without a caption are passed over, since nothing could be paired with their masks.
    """

    mining: MineSettings
    training: ProposalNetSettings
    compute: ComputeSettings
    captioned: bool = True

    kind = KIND
    schema_version = SCHEMA_VERSION
    producer_version = 1
    stage: StageName = "mine"
    tolerated = EXPECTED

    def fingerprint(self, node: Node) -> Mapping[str, Json]:
        """Return the settings of step 1.

        Raises:
            SettingsError: If the scenes lack what pairs are made of.
        """
        options: Mapping[str, Json] = {"options": result_settings(self.mining.propose)}
        if not self.captioned:
            return {**options, "captioned": False}
        check_scenes(node["scenes"], self.mining)
        return options

    def job(self, node: Node) -> "ProposeJob":
        """Return what makes a shard."""
        return ProposeJob(
            scenes=node["scenes"].artifact,
            proposal_net=node["proposal_net"].artifact,
            class_names=self._learned(node),
            texts=TextSource.of(node, self.training.prompt_templates),
            settings=self.mining.propose,
            captioned=self.captioned,
            compute=WorkerCompute.of(self.compute),
        )

    def make(self, node: Node, execution: Execution) -> StageReport:
        """Propose; the classes that the net learned are embedded first, once for all workers."""
        if not node.status().finished:
            names, templates = self._learned(node), self.training.prompt_templates
            embed_names(node, names, templates, self.compute, execution, what="classes that the net learned")
        return super().make(node, execution)

    def _learned(self, node: Node) -> tuple[str, ...]:
        """Return the classes that the net learned."""
        taught = ScenesAttributes.of(node["proposal_net"]["scenes"].artifact).class_names
        return tuple(name for name in taught if name not in self.training.held_out_classes)

    def size_bytes(self, counts: ParameterCounts, scenes: int) -> int:
        """Estimate from all queries of all scenes."""
        return scenes * self.training.architecture.queries * (_PROPOSAL_BYTES + 4 * counts.proposal_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposeJob:
    """Makes shards of proposals.

    Attributes:
        scenes: Where pictures come from.
        proposal_net: What finds masks in them.
        class_names: Classes that it learned.
        texts: Where their embeddings come from.
    """

    scenes: Artifact
    proposal_net: Artifact
    class_names: tuple[str, ...]
    texts: TextSource
    settings: ProposeSettings
    captioned: bool
    compute: WorkerCompute

    def open(self) -> "Proposer":
        """Load the net."""
        import torch

        from pipeline.mine.proposer import Proposer
        from pipeline.trained_nets import load_proposal_net

        device = self.compute.begin()
        texts = torch.from_numpy(self.texts.open(device).vectors(self.class_names)).to(device)
        return Proposer(load_proposal_net(self.proposal_net, device), texts, self.settings, captioned=self.captioned)

    def run(self, state: "Proposer", artifact: Artifact, unit: str) -> Sidecar:
        """Make one shard."""
        scenes = SceneShard(self.scenes, unit).scenes(labels=False)
        with artifact.write_unit(unit) as unit_writer:
            writer = ProposalShardWriter(unit_writer, embedding_dim=state.embedding_dim)
            for proposals in state.proposals(scenes):
                writer.add(proposals)
            return writer.commit()
