"""The choice of an ensemble weight on mined validation pairs, without any test label.

Reads ``pairs`` and ``proposals`` of pictures that no test set holds, a proposal net and CLIP; writes
``weight_choices``. Each pair's region is named by both branches among the nouns of all pairs; a weight is as good as
the share of regions whose own noun scores highest. A caution: mining gave each noun to the region that the original
CLIP liked best, so pairs lean towards CLIP's branch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.evaluate.score import branch_options, net_sources
from pipeline.evaluate.variants import ClipView, view_of
from pipeline.graph import Node, Step
from pipeline.settings import ComputeSettings, EvaluateSettings, SettingsError
from pipeline.shard_runner import Execution, StageReport
from pipeline.stage_names import StageName
from storage_schemas.digests import Json
from storage_schemas.weight_choices import KIND, SCHEMA_VERSION, UNIT

if TYPE_CHECKING:
    from pipeline.evaluate.weight_trial import WeightChoiceJob


@dataclass(frozen=True, kw_only=True)
class ChooseWeight(Step):
    """Chooses an ensemble weight on pairs that were mined from the sweep's validation data set.

    Attributes:
        mined_from: Source of the pairs, ``mine.source``.
        imported: Whether their masks are of others, which the proposal net's branch cannot name.
    """

    settings: EvaluateSettings
    compute: ComputeSettings
    mined_from: str
    imported: bool = False

    kind = KIND
    schema_version = SCHEMA_VERSION
    producer_version = 2
    stage: StageName = "evaluate"

    @property
    def view(self) -> ClipView:
        """How CLIP sees the regions."""
        return view_of(self.settings, self.settings.clip)

    @property
    def weights(self) -> tuple[float, ...]:
        """The weights to try, ascending."""
        return tuple(sorted(self.settings.sweep.ensemble_weights))

    def fingerprint(self, node: Node) -> Mapping[str, Json]:
        """Return the weights, and the settings that change the nets' outputs."""
        del node
        return {
            **branch_options(self.settings),
            "view": self.view.to_json(),
            "ensemble_weights": list(self.weights),
            "limit": self.settings.sweep.validation_pairs,
        }

    def units(self, node: Node) -> tuple[str, ...]:
        """Return the one unit."""
        del node
        return (UNIT,)

    def check(self, node: Node) -> None:
        """Check that pairs are mined from proposals, which both branches have to name.

        Raises:
            SettingsError: If they are not.
        """
        del node
        if self.mined_from.startswith("masks"):
            message = "pairs of proposals are expected for evaluate.sweep.validation_dataset; choose such a source"
            raise SettingsError([f"mine.source: {message} (got {self.mined_from!r})"])
        if self.imported:
            message = "masks of the proposal net are expected for evaluate.sweep.validation_dataset; leave it empty"
            raise SettingsError([f"mine.proposals: {message} (got 'imported')"])

    def job(self, node: Node) -> "WeightChoiceJob":
        """Return what tries the weights."""
        from pipeline.evaluate.weight_trial import WeightChoiceJob

        return WeightChoiceJob(
            pairs=node["pairs"].artifact,
            proposals=node["proposals"].artifact,
            scenes=None if self.settings.namer == "crops" else node["proposals"]["scenes"].artifact,
            nets=net_sources(node, self.settings, self.compute, ()),
            view=self.view,
            ensemble_weights=self.weights,
            limit=self.settings.sweep.validation_pairs,
        )

    def make(self, node: Node, execution: Execution) -> StageReport:
        """Try the weights, in this process."""
        return execution.run(self.job(node), node.artifact, inline=True)


def choice_numbers(rows: Sequence[dict[str, Any]]) -> dict[str, Json]:
    """Return accuracies, and the weight with the highest; of several equal ones the middle, the lower of two.

    Few pairs leave many weights equal, and the middle is as far as can be from those that are worse.

    Args:
        rows: Of the table, by ascending weight.
    """
    accuracies = [
        {"ensemble_weight": row["ensemble_weight"], "accuracy": row["correct"] / row["pairs"]} for row in rows
    ]
    highest = max(row["accuracy"] for row in accuracies)
    best = [row["ensemble_weight"] for row in accuracies if row["accuracy"] == highest]
    return {
        "rows": accuracies,
        "pairs": rows[0]["pairs"],
        "nouns": rows[0]["nouns"],
        "chosen": best[(len(best) - 1) // 2],
    }
