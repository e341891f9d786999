"""Stage 1: trains the proposal net to find regions and to describe each in CLIP's space.

Reads ``scenes`` with labels and CLIP's text tower; writes ``proposal_net``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest

from pipeline.graph import Node, ParameterCounts, Step
from pipeline.settings import ComputeSettings, ProposalNetSettings, SettingsError
from pipeline.shard_runner import Execution, StageReport
from pipeline.stage_names import StageName
from pipeline.train_proposals.options import held_out_indices, result_options
from pipeline.training.trackers import check_trackers
from storage_schemas.checkpoints import PROPOSAL_NET, REPORT, SCHEMA_VERSION, WEIGHTS, checkpoint_bytes
from storage_schemas.digests import Json
from storage_schemas.scenes import ScenesAttributes


@dataclass(frozen=True, kw_only=True)
class TrainProposals(Step):
    """Trains the proposal net."""

    settings: ProposalNetSettings
    compute: ComputeSettings

    kind = PROPOSAL_NET
    schema_version = SCHEMA_VERSION
    producer_version = 2
    stage: StageName = "train-proposals"
    trains = True
    labels_of = ("scenes", "validation")

    def fingerprint(self, node: Node) -> Mapping[str, Json]:
        """Return the settings that change the net.

        Raises:
            SettingsError: If a held-out class is none of the scenes', all are held out, a file of weights is not there,
                or the validation scenes have other classes.
            ArtifactError: If an input is no artifact of scenes.
        """
        labels = ScenesAttributes.of(node["scenes"].artifact)
        held_out_indices(self.settings.held_out_classes, labels.class_names)
        if "validation" in node:
            other = ScenesAttributes.of(node["validation"].artifact)
            # Another vocabulary is a zero-shot measure; another list under the same name is a mistake.
            if other.vocabulary == labels.vocabulary and other.class_names != labels.class_names:
                pairs = zip_longest(labels.class_names, other.class_names, fillvalue="nothing")
                place, (trained, measured) = next((place, pair) for place, pair in enumerate(pairs) if len({*pair}) > 1)
                message = (
                    "proposal_net.validation_dataset: its classes differ from those of proposal_net.dataset, first at "
                    f"{place}: {measured!r}, there {trained!r}; give both data sets the same categories"
                )
                raise SettingsError([message])
        return {"options": result_options(self.settings)}

    def units(self, node: Node) -> tuple[str, ...]:
        """Return the two units."""
        del node
        return WEIGHTS, REPORT

    def check(self, node: Node) -> None:
        """Check the held-out classes: a data set's classes are known before any scene of it is made. And the trackers.

        Raises:
            SettingsError: If a name is no class of the data set, or no class is left.
            PipelineError: If a tracker's package is not installed.
            LayoutError: If the data set's directory is not laid out as expected.
        """
        check_trackers(self.compute.trackers)
        if self.settings.held_out_classes:  # else there is no need to open the data set, which each process would do
            labels = ScenesAttributes.of(node["scenes"].artifact)
            held_out_indices(self.settings.held_out_classes, labels.class_names)

    def make(self, node: Node, execution: Execution) -> StageReport:
        """Train; see `pipeline.train_proposals.training.train`."""
        from pipeline.train_proposals.training import train

        return train(self.settings, self.compute, node, execution)

    def unit_count(self, node: Node) -> int:
        """Return 2."""
        return len(self.units(node))

    def size_bytes(self, counts: ParameterCounts, scenes: int) -> int:
        """Return what the weights and the kept checkpoints take."""
        del scenes
        return checkpoint_bytes(counts.proposal_net, self.settings.training.checkpoints.keep_last)
