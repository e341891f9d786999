"""Step 1 of mining: the proposal net finds masks in every scene that has a caption.

Reads ``scenes`` and ``proposal_net``; writes ``proposals``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ovseg_models.prompt_templates import prompt_templates
from pipeline.graph import Node, ParameterCounts, Step
from pipeline.mine.inputs import check_scenes
from pipeline.mine.statuses import EXPECTED
from pipeline.settings import (
    ClipSettings,
    ComputeSettings,
    MineSettings,
    ProposalNetSettings,
    ProposeSettings,
    result_settings,
)
from pipeline.stage_names import StageName
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
    """

    mining: MineSettings
    training: ProposalNetSettings
    compute: ComputeSettings

    kind = KIND
    schema_version = SCHEMA_VERSION
    recipe = 1
    stage: StageName = "mine"
    tolerated = EXPECTED

    def fingerprint(self, node: Node) -> Mapping[str, Json]:
        """Return the settings of step 1.

        Raises:
            SettingsError: If the scenes lack what pairs are made of.
        """
        check_scenes(node["scenes"], self.mining)
        return {"options": result_settings(self.mining.propose)}

    def job(self, node: Node) -> "ProposeJob":
        """Return what makes a shard."""
        taught = ScenesAttributes.of(node["proposal_net"]["scenes"].artifact).class_names
        return ProposeJob(
            scenes=node["scenes"].artifact,
            proposal_net=node["proposal_net"].artifact,
            class_names=tuple(name for name in taught if name not in self.training.held_out_classes),
            prompt_templates=self.training.prompt_templates,
            clip=node.clip.settings,
            settings=self.mining.propose,
            compute=WorkerCompute.of(self.compute),
        )

    def size_bytes(self, counts: ParameterCounts, scenes: int) -> int:
        """Estimate from all queries of all scenes."""
        return scenes * self.training.architecture.queries * (_PROPOSAL_BYTES + 4 * counts.embedding_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposeJob:
    """Makes shards of proposals.

    Attributes:
        scenes: Where pictures come from.
        proposal_net: What finds masks in them.
        class_names: Classes that it learned.
        prompt_templates: Name of the sentences around them.
        clip: The CLIP whose text tower embeds them.
    """

    scenes: Artifact
    proposal_net: Artifact
    class_names: tuple[str, ...]
    prompt_templates: str
    clip: ClipSettings
    settings: ProposeSettings
    compute: WorkerCompute

    def open(self) -> "Proposer":
        """Load the net."""
        from pipeline.mine.proposer import Proposer

        templates = prompt_templates(self.prompt_templates)
        device = self.compute.begin()
        return Proposer.loaded(self.proposal_net, self.class_names, templates, self.clip, self.settings, device)

    def run(self, state: "Proposer", artifact: Artifact, unit: str) -> Sidecar:
        """Make one shard."""
        scenes = SceneShard(self.scenes, unit).scenes(labels=False)
        with artifact.write_unit(unit) as unit_writer:
            writer = ProposalShardWriter(unit_writer, embedding_dim=state.embedding_dim)
            for proposals in state.proposals(scenes):
                writer.add(proposals)
            return writer.commit()
