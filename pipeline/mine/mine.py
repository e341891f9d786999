"""Stage 2: mine pairs of masks and nouns, in steps of which each is kept (OVSeg, section 3.2).

Reads ``scenes`` and ``proposal_net``; writes ``proposals``, ``embeddings``, ``text_embeddings`` and ``pairs`` with
their card.
"""

import logging
from dataclasses import dataclass, replace
from typing import Any

from pipeline.clip_loading import warn_of_unknown
from pipeline.errors import StageError
from pipeline.mine.card import make_card
from pipeline.mine.embed_texts import plan_text_embeddings
from pipeline.mine.pair import PairJob
from pipeline.mine.statuses import mining_limits
from pipeline.mine.tagger.sources import load_tagger
from pipeline.planning import plan_of_embeddings, plan_of_pairs, plan_of_proposals
from pipeline.settings import Settings
from pipeline.settings.runner import compute_of, limits_of
from pipeline.shard_runner import StageReport, UnitJob, UnitPlan, run_stage
from pipeline.stage_inputs import clip_digest, prepare_missing
from pipeline.worker_device import WorkerCompute
from storage_schemas.artifact import Artifact
from storage_schemas.scenes import OK

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MineReport:
    """What a run of the stage did.

    Attributes:
        artifact: The pairs.
        steps: What was done in each step, by kind of artifact; a step that was not needed is absent.
    """

    artifact: Artifact
    steps: dict[str, StageReport]

    @property
    def units_done(self) -> int:
        """Units made by this run, over all steps."""
        return sum(step.units_done for step in self.steps.values())

    @property
    def units_skipped(self) -> int:
        """Units that were done before, over all steps."""
        return sum(step.units_skipped for step in self.steps.values())


def mine(settings: Settings) -> MineReport:
    """Mine pairs, as far as that is not done; data sets that are missing are prepared first.

    Args:
        settings: Of all stages.

    Raises:
        MissingInputError: If the proposal net is not trained.
        TaggerMissingError: If what the tagger needs is not installed; no picture has gone through a model then.
        SettingsError: If the settings don't fit the data set.
        StageError: If a unit could not be made, too many rows failed, or there is no pair at all.
    """
    stage = settings.mine
    if stage.captions_per_image:
        load_tagger(stage.nouns.tagger)
    net = settings.proposal_net
    names = [stage.dataset] if stage.uses_ground_truth_masks else [stage.dataset, net.dataset, net.validation_dataset]
    prepare_missing(settings, names)
    steps: dict[str, StageReport] = {}
    if not stage.uses_ground_truth_masks:
        proposing = plan_of_proposals(settings)
        _run(settings, proposing.job, proposing.artifact, steps)
    embedding = plan_of_embeddings(settings)
    _run(settings, embedding.job, embedding.artifact, steps)
    pairing = plan_of_pairs(settings)
    _run(settings, _with_texts(settings, pairing, steps), pairing.artifact, steps)
    counts = steps[pairing.artifact.identity.kind].manifest.counts
    if not counts.get(OK):
        message = f"{pairing.artifact.directory}: holds no pair, its rows are {counts}; see their reasons"
        raise StageError(message)
    make_card(pairing.artifact)
    return MineReport(pairing.artifact, steps)


def _with_texts(settings: Settings, plan: UnitPlan[PairJob], steps: dict[str, StageReport]) -> PairJob:
    """Embed the nouns that the pairs are made of, unless all pairs are made."""
    if not plan.artifact.status().todo:
        return plan.job
    nouns = plan.job.nouns.vocabulary(plan.job.regions.scenes)
    logger.info("pairs %s: %d different nouns", settings.name, len(nouns))
    warn_of_unknown(settings.clip, nouns, "nouns")
    texts = plan_text_embeddings(
        nouns,
        templates=settings.mine.pair.prompt_templates,
        clip=settings.clip,
        clip_digest=clip_digest(settings.clip),
        compute=WorkerCompute.of(settings.compute),
        name=settings.name,
        runs=settings.runs_dir,
    )
    if not nouns:
        return plan.job
    _run(settings, texts.job, texts.artifact, steps)
    return replace(plan.job, texts=texts.artifact)


def _run(settings: Settings, job: UnitJob[Any], artifact: Artifact, steps: dict[str, StageReport]) -> None:
    """Run one step, and note what it did."""
    limits = mining_limits(limits_of(settings))
    steps[artifact.identity.kind] = run_stage(job, artifact, compute=compute_of(settings), limits=limits)
