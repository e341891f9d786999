"""The chain of stages: what each of them will do, from settings alone, and the artifacts that settings imply.

This module alone knows which stage reads what. Per stage it has a function ``plan_of_KIND(settings)``, which raises
`MissingInputError` while an input is not finished, and an entry in ``PLANNERS`` for ``ovseg status``.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pipeline.errors import PipelineError
from pipeline.evaluate.plan import Inputs as EvaluationInputs
from pipeline.evaluate.plan import ScoresPlan, decisive_settings, net_sources, plan_scores
from pipeline.evaluate.report.report import plan_report
from pipeline.evaluate.variants import view_of
from pipeline.evaluate.weight_choice import WeightChoiceJob, plan_weight_choice
from pipeline.finetune.plan import AdaptedClipPlan, plan_adapted_clip
from pipeline.finetune.plan import Inputs as FinetuneInputs
from pipeline.mine.embed import EmbedJob, plan_embeddings
from pipeline.mine.inputs import checked_scenes, net_size, noun_identity, noun_source
from pipeline.mine.pair import PairJob, plan_pairs
from pipeline.mine.propose import ObjectnessVocabulary, ProposeJob, plan_proposals
from pipeline.mine.regions import LabelRegions, ProposalRegions, RegionSource
from pipeline.prepare.layout import LayoutError
from pipeline.prepare.prepare import plan_prepare
from pipeline.settings import Settings, SettingsError
from pipeline.shard_runner import UnitPlan
from pipeline.stage_inputs import MissingInputError, clip_digest, finished_digest, scenes_of
from pipeline.train_proposals.plan import Inputs, ProposalNetPlan, plan_proposal_net
from pipeline.worker_device import WorkerCompute
from storage_schemas import embeddings, pairs, proposals, reports, scenes, scores
from storage_schemas.artifact import Artifact
from storage_schemas.checkpoints import ADAPTED_CLIP, PROPOSAL_NET
from storage_schemas.errors import StorageError


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedArtifact:
    """One artifact that settings imply.

    Attributes:
        label: ``KIND/NAME``.
        artifact: Where it lies or will lie; None as long as an input is missing on which its digest depends.
        reason: Which input is missing; empty if none is.
        dataset: What the settings call the folder whose scenes these are; empty for all else, whose name tells enough.
            It is for people: the artifact of every folder is called ``folder``, since its name is part of its digest.
    """

    label: str
    artifact: Artifact | None
    reason: str = ""
    dataset: str = ""


Planner = Callable[[Settings], Iterable[PlannedArtifact]]
"""What a stage knows of its artifacts; it reads manifests of inputs, and makes nothing."""


def plan_scenes(settings: Settings) -> Iterator[PlannedArtifact]:
    """Plan the scenes of each data set."""
    for name, dataset in settings.datasets.items():
        try:
            artifact = plan_prepare(dataset, settings.runs_dir).artifact
        except LayoutError as error:
            yield PlannedArtifact(label=f"{scenes.KIND}/{name}", artifact=None, reason=str(error))
        else:
            own_name = name if dataset.dataset == "folder" else ""
            yield PlannedArtifact(label=f"{scenes.KIND}/{artifact.identity.name}", artifact=artifact, dataset=own_name)


def plan_of_proposal_net(settings: Settings) -> ProposalNetPlan:
    """Plan stage 1.

    Raises:
        MissingInputError: If the scenes to train or to validate on are not prepared.
        PipelineError: If the settings name no data set or no CLIP that is to be had, or don't fit the data set.
    """
    section = settings.proposal_net
    scenes_to_learn = scenes_of(settings, section.dataset)
    to_validate = scenes_of(settings, section.validation_dataset) if section.validation_dataset else None
    made_by = "ovseg prepare"
    inputs = Inputs(
        scenes=scenes_to_learn,
        scenes_digest=finished_digest(scenes_to_learn, made_by=made_by),
        validation=to_validate,
        validation_digest=finished_digest(to_validate, made_by=made_by) if to_validate else "",
        clip_digest=clip_digest(settings.clip),
    )
    return plan_proposal_net(section, inputs, name=settings.name, runs=settings.runs_dir)


class StagePlan(Protocol):
    """What every stage's plan has."""

    @property
    def artifact(self) -> Artifact:
        """Where the result lies or will lie."""
        ...


def planned(kind: str, settings: Settings, plan_of: Callable[[Settings], StagePlan]) -> PlannedArtifact:
    """Plan one artifact; where that is not possible yet, say why."""
    try:
        artifact = plan_of(settings).artifact
    except PipelineError as error:
        return PlannedArtifact(label=f"{kind}/{settings.name}", artifact=None, reason=str(error))
    return PlannedArtifact(label=f"{kind}/{settings.name}", artifact=artifact)


def plan_stage_1(settings: Settings) -> Iterator[PlannedArtifact]:
    """Plan the proposal net, if the settings name what to train it on."""
    if settings.proposal_net.dataset:
        yield planned(PROPOSAL_NET, settings, plan_of_proposal_net)


def plan_of_proposals(settings: Settings) -> UnitPlan[ProposeJob]:
    """Plan step 1 of mining.

    Raises:
        MissingInputError: If the scenes to mine are not prepared, or the proposal net is not trained.
        PipelineError: If the settings don't fit the data set.
    """
    mined, digest = _mined_scenes(settings)
    stage_1 = plan_of_proposal_net(settings)
    net_digest = finished_digest(stage_1.artifact, made_by="ovseg train-proposals")
    learned = [name for index, name in enumerate(stage_1.labels.class_names) if index not in stage_1.held_out]
    job = ProposeJob(
        scenes=mined,
        proposal_net=stage_1.artifact,
        vocabulary=ObjectnessVocabulary(
            class_names=tuple(learned), templates=settings.proposal_net.prompt_templates, clip=settings.clip
        ),
        settings=settings.mine.propose,
        compute=WorkerCompute.of(settings.compute),
    )
    inputs = {"scenes": digest, "proposal_net": net_digest}
    return plan_proposals(job, inputs, name=settings.name, runs=settings.runs_dir)


def plan_of_embeddings(settings: Settings) -> UnitPlan[EmbedJob]:
    """Plan step 2 of mining.

    Raises:
        MissingInputError: If the scenes to mine or their proposals are not finished.
        PipelineError: If the settings don't fit the data set.
    """
    return _plan_of_embeddings(settings, *_regions(settings))


def _plan_of_embeddings(settings: Settings, regions: RegionSource, inputs: dict[str, str]) -> UnitPlan[EmbedJob]:
    """Plan step 2 of mining for regions that are known."""
    job = EmbedJob(
        units=regions.scenes.description.units,
        regions=regions,
        size=net_size(settings.mine),
        clip=settings.clip,
        settings=settings.mine.embed,
        compute=WorkerCompute.of(settings.compute),
    )
    digest = clip_digest(settings.clip)
    return plan_embeddings(job, inputs, clip_digest=digest, name=settings.name, runs=settings.runs_dir)


def plan_of_pairs(settings: Settings) -> UnitPlan[PairJob]:
    """Plan step 3 of mining; the nouns' embeddings are not among its inputs, for they follow from the others.

    Raises:
        MissingInputError: If the scenes to mine, their proposals or embeddings are not finished.
        PipelineError: If the settings don't fit the data set.
    """
    regions, inputs = _regions(settings)
    embedded = _plan_of_embeddings(settings, regions, inputs).artifact
    labels = scenes.ScenesAttributes.of(regions.scenes)
    job = PairJob(
        regions=regions,
        embeddings=embedded,
        nouns=noun_source(settings.mine, labels),
        texts=None,
        settings=settings.mine.pair,
        size=net_size(settings.mine),
    )
    models = {"clip": clip_digest(settings.clip), "proposals": inputs.get("proposals", "")}
    return plan_pairs(
        job,
        {**inputs, "embeddings": finished_digest(embedded, made_by="ovseg mine")},
        decisive={"clip": models["clip"], "nouns": noun_identity(settings.mine)},
        attributes={
            "source": settings.mine.source,
            "dataset": regions.scenes.identity.name,
            "licence": labels.licence,
            "models": models,
        },
        name=settings.name,
        runs=settings.runs_dir,
    )


def _regions(settings: Settings) -> tuple[RegionSource, dict[str, str]]:
    """Return where the regions of mining come from, and the digests of the artifacts that hold them."""
    mined, digest = _mined_scenes(settings)
    if settings.mine.uses_ground_truth_masks:
        return LabelRegions(mined, net_size(settings.mine)), {"scenes": digest}
    proposed = plan_of_proposals(settings).artifact
    inputs = {"scenes": digest, "proposals": finished_digest(proposed, made_by="ovseg mine")}
    return ProposalRegions(mined, proposed), inputs


def _mined_scenes(settings: Settings) -> tuple[Artifact, str]:
    """Return the scenes to mine, and the digest of their manifest."""
    mined = scenes_of(settings, settings.mine.dataset)
    digest = finished_digest(mined, made_by="ovseg mine")  # which prepares them itself
    checked_scenes(mined, settings.mine)
    return mined, digest


def plan_stage_2(settings: Settings) -> Iterator[PlannedArtifact]:
    """Plan the artifacts of mining, if the settings name what to mine."""
    if not settings.mine.dataset:
        return
    if not settings.mine.uses_ground_truth_masks:
        yield planned(proposals.KIND, settings, plan_of_proposals)
    yield planned(embeddings.KIND, settings, plan_of_embeddings)
    yield planned(pairs.KIND, settings, plan_of_pairs)


def plan_of_adapted_clip(settings: Settings) -> AdaptedClipPlan:
    """Plan stage 3.

    Raises:
        MissingInputError: If the pairs, or the scenes to validate on, are not finished.
        PipelineError: If the settings name no data set or no CLIP that is to be had.
    """
    section = settings.finetune
    pairs, pairs_digest = finished_pairs(settings)
    to_validate = scenes_of(settings, section.validation_dataset) if section.validation_dataset else None
    inputs = FinetuneInputs(
        pairs=pairs,
        pairs_digest=pairs_digest,
        validation=to_validate,
        validation_digest=finished_digest(to_validate, made_by="ovseg prepare") if to_validate else "",
        clip_digest=clip_digest(settings.clip),
    )
    return plan_adapted_clip(section, inputs, name=settings.name, runs=settings.runs_dir)


def finished_pairs(settings: Settings) -> tuple[Artifact, str]:
    """Return the pairs that stage 3 trains on, and the digest of their manifest.

    Raises:
        MissingInputError: If they are not finished.
        PipelineError: If the settings name no data set or no CLIP that is to be had.
    """
    pairs = _pairs_of(settings)
    return pairs, finished_digest(pairs, made_by="ovseg mine")


def _pairs_of(settings: Settings) -> Artifact:
    """Return the pairs that stage 3 trains on.

    Raises:
        MissingInputError: If there are none.
    """
    directory = settings.finetune.pairs_dir
    if not directory and settings.mine.dataset:
        return plan_of_pairs(settings).artifact
    if not directory:
        message = "finetune.pairs_dir: is empty; name the directory of an artifact of pairs"
        raise MissingInputError(message)
    try:
        return Artifact.open(Path(directory))
    except StorageError as error:
        message = f"finetune.pairs_dir: {directory} holds no artifact of pairs ({error}); correct the path"
        raise MissingInputError(message) from error


def plan_stage_3(settings: Settings) -> Iterator[PlannedArtifact]:
    """Plan the adapted CLIP, if the settings name what to train it on."""
    if settings.mine.dataset or settings.finetune.pairs_dir:
        yield planned(ADAPTED_CLIP, settings, plan_of_adapted_clip)


def plans_of_scores(settings: Settings, *, ablate: bool = False) -> tuple[ScoresPlan, ...]:
    """Plan stage 4, one evaluation per data set.

    Args:
        settings: Of all stages.
        ablate: Score the paper's ablations too.

    Raises:
        MissingInputError: If the scenes, the proposal net or an adapted CLIP are not finished.
        PipelineError: If the settings name no data set or no CLIP that is to be had.
    """
    net = plan_of_proposal_net(settings).artifact
    digests = {"proposal_net": finished_digest(net, made_by="ovseg train-proposals")}
    adapted = _adapted_clips(settings, ablate=ablate)
    for name, artifact in adapted.items():
        told = "" if name == "adapted" else f" --set finetune.mode={name}"
        digests[name] = finished_digest(artifact, made_by=f"ovseg finetune{told}")
    plans = []
    for dataset in settings.evaluate.datasets:
        labelled = scenes_of(settings, dataset.dataset)
        inputs = EvaluationInputs(
            scenes=labelled,
            proposal_net=net,
            adapted=adapted,
            digests={**digests, "scenes": finished_digest(labelled, made_by="ovseg prepare")},
            clip_digest=clip_digest(settings.clip),
        )
        plans.append(plan_scores(settings, dataset, inputs, ablate=ablate))
    return tuple(plans)


def _adapted_clips(settings: Settings, *, ablate: bool) -> dict[str, Artifact]:
    """Return the adapted CLIPs that an evaluation compares, by the names that its views have for them.

    Raises:
        MissingInputError: If the pairs that one is trained on are not finished.
    """
    artifacts = {"adapted": plan_of_adapted_clip(settings).artifact} if settings.evaluate.clip == "adapted" else {}
    for mode in settings.evaluate.sweep.finetune_modes if ablate else ():
        finetuning = settings.finetune.model_copy(update={"mode": mode})
        artifacts[mode] = plan_of_adapted_clip(settings.model_copy(update={"finetune": finetuning})).artifact
    return artifacts


def plan_of_weight_choice(settings: Settings) -> UnitPlan[WeightChoiceJob]:
    """Plan the choice of an ensemble weight on pairs that were mined from the sweep's validation data set.

    Raises:
        MissingInputError: If the pairs, the proposal net or the adapted CLIP are not finished.
        SettingsError: If pairs are not mined from proposals, which both branches have to name.
    """
    section = settings.evaluate
    name = section.sweep.validation_dataset
    if settings.mine.uses_ground_truth_masks:
        message = (
            "mine.source: pairs of proposals are wanted for evaluate.sweep.validation_dataset; choose such a source"
        )
        raise SettingsError([f"{message} (got {settings.mine.source!r})"])
    mined = settings.model_copy(update={"mine": settings.mine.model_copy(update={"dataset": name})})
    net, adapted = plan_of_proposal_net(settings).artifact, _adapted_clips(settings, ablate=False)
    made_by = f"ovseg mine --set mine.dataset={name}"
    proposed = plan_of_proposals(mined).artifact
    digests = {
        "proposal_net": finished_digest(net, made_by="ovseg train-proposals"),
        "proposals": finished_digest(proposed, made_by=made_by),
        **{role: finished_digest(artifact, made_by="ovseg finetune") for role, artifact in adapted.items()},
    }
    paired = plan_of_pairs(mined).artifact
    digests["pairs"] = finished_digest(paired, made_by=made_by)
    inputs = EvaluationInputs(
        scenes=scenes_of(settings, name),
        proposal_net=net,
        adapted=adapted,
        digests=digests,
        clip_digest=clip_digest(settings.clip),
    )
    job = WeightChoiceJob(
        pairs=paired,
        proposals=proposed,
        nets=net_sources(settings, inputs, ()),
        view=view_of(section, section.clip),
        ensemble_weights=tuple(sorted(section.sweep.ensemble_weights)),
        limit=section.sweep.validation_pairs,
    )
    decisive = decisive_settings(settings, inputs)
    return plan_weight_choice(job, name=settings.name, runs=settings.runs_dir, decisive=decisive, inputs=digests)


def plan_stage_4(settings: Settings) -> Iterator[PlannedArtifact]:
    """Plan the scores of each data set to be evaluated on, and the report."""
    for dataset in settings.evaluate.datasets:
        one = settings.model_copy(update={"evaluate": settings.evaluate.model_copy(update={"datasets": (dataset,)})})
        plan = planned(scores.KIND, one, lambda given: plans_of_scores(given)[0])
        yield replace(plan, label=f"{plan.label}-{dataset.dataset}")
    if settings.evaluate.datasets:
        yield planned(reports.KIND, settings, lambda given: plan_report(given, plans_of_scores(given)))


PLANNERS: tuple[Planner, ...] = (plan_scenes, plan_stage_1, plan_stage_2, plan_stage_3, plan_stage_4)


def planned_artifacts(settings: Settings) -> Iterator[PlannedArtifact]:
    """Plan the artifacts of all stages, in the order of the dataflow."""
    for planner in PLANNERS:
        yield from planner(settings)
