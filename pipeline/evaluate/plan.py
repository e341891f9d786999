"""What stage 4 will do: the identities of scores and of stored branches, and the jobs that make them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipeline.evaluate.jobs import BranchJob, LabelledScenes, ScoreJob, StoredSources
from pipeline.evaluate.nets import NetSources
from pipeline.evaluate.variants import (
    GROUND_TRUTH,
    ORIGINAL,
    ClipView,
    Variant,
    ablation_variants,
    main_variant,
    views_of,
)
from pipeline.settings import EvaluatedDatasetSettings, Settings, result_settings
from pipeline.shard_runner import UnitPlan
from pipeline.worker_device import WorkerCompute
from storage_schemas import branches, scores
from storage_schemas.artifact import Artifact
from storage_schemas.digests import Json
from storage_schemas.manifest import Description, Identity
from storage_schemas.scenes import ScenesAttributes
from storage_schemas.scores import ScoresAttributes

RECIPE = 2
"""Raise it when the same settings and inputs come to mean other branches or scores."""

_OPTIONS = ("short_side_px", "max_side_px", "prompt_templates", "precision")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What an evaluation on one data set reads, and the digests that stand for it.

    Attributes:
        scenes: Labelled, finished.
        proposal_net: Finished.
        adapted: Adapted CLIPs by the names that views have for them, finished.
        digests: Manifest digests: ``"scenes"``, ``"proposal_net"``, and those of ``adapted`` by their names.
        clip_digest: Of the original CLIP's weights.
    """

    scenes: Artifact
    proposal_net: Artifact
    adapted: Mapping[str, Artifact] = field(default_factory=dict)
    digests: Mapping[str, str]
    clip_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresPlan:
    """What an evaluation on one data set will do.

    Attributes:
        artifact: Where the scores lie or will lie.
        job: What makes a shard of them.
        branches: What has to be stored before; empty if the nets run while it is scored.
        inputs: What it reads.
    """

    artifact: Artifact
    job: ScoreJob
    branches: tuple[UnitPlan[BranchJob], ...]
    inputs: Inputs


def plan_scores(
    settings: Settings, dataset: EvaluatedDatasetSettings, inputs: Inputs, *, ablate: bool = False
) -> ScoresPlan:
    """Find out what an evaluation on one data set will do; reads and makes nothing.

    Args:
        settings: Of all stages.
        dataset: The data set and its ensemble weight.
        inputs: What is read.
        ablate: Score the paper's ablations too, from stored branches.
    """
    section = settings.evaluate
    if ablate:
        variants = ablation_variants(section, dataset.ensemble_weight)
    else:
        variants = (main_variant(section, dataset.ensemble_weight),)
    labels = ScenesAttributes.of(inputs.scenes)
    nets = net_sources(settings, inputs, labels.class_names)
    scenes = LabelledScenes(
        artifact=inputs.scenes, class_count=len(labels.class_names), ignore_label=labels.ignore_label
    )
    name = f"{settings.name}-{dataset.dataset}"
    stored = _Storing(settings, inputs, scenes, nets, name).plans(variants) if ablate else None
    attributes = ScoresAttributes(
        dataset=dataset.dataset,
        vocabulary=labels.vocabulary,
        class_names=labels.class_names,
        seen=labels.seen,
        main_variant=variants[0].name,
        variants={variant.name: variant.to_json() for variant in variants},
    )
    identity = Identity(
        kind=scores.KIND,
        name=f"{name}-ablation" if ablate else name,
        schema_version=scores.SCHEMA_VERSION,
        recipe=RECIPE,
        settings=decisive_settings(settings, inputs) | {"variants": [variant.to_json() for variant in variants]},
        inputs=_inputs_of(inputs, variants),
    )
    return ScoresPlan(
        artifact=_planned(settings.runs_dir, identity, inputs.scenes, attributes.to_json()),
        job=ScoreJob(scenes=scenes, variants=variants, nets=nets, stored=None if stored is None else stored.sources()),
        branches=() if stored is None else (stored.proposals, *stored.looks),
        inputs=inputs,
    )


@dataclass(frozen=True, slots=True)
class _StoredPlans:
    """What of one data set is stored: the proposal net's branch, and CLIP's of each view."""

    proposals: UnitPlan[BranchJob]
    looks: tuple[UnitPlan[BranchJob], ...]

    def sources(self) -> StoredSources:
        """Return where it will lie."""
        looks = {plan.job.view: plan.artifact for plan in self.looks if plan.job.view is not None}
        return StoredSources(self.proposals.artifact, looks)


@dataclass(frozen=True, slots=True)
class _Storing:
    """Plans the branches of one data set that are stored."""

    settings: Settings
    inputs: Inputs
    scenes: LabelledScenes
    nets: NetSources
    name: str

    def plans(self, variants: tuple[Variant, ...]) -> _StoredPlans:
        """Plan the proposal net's branch, then CLIP's of each view, each an artifact of its own.

        So another ensemble weight makes none of them again, and another mask threshold CLIP's alone.
        """
        proposals = self._plan(None, None)
        return _StoredPlans(proposals, tuple(self._plan(view, proposals.artifact) for view in views_of(variants)))

    def _plan(self, view: ClipView | None, proposals: Artifact | None) -> UnitPlan[BranchJob]:
        of_labels = view is not None and view.regions == GROUND_TRUTH
        roles = ["scenes"] + ([] if of_labels else ["proposal_net"])
        roles += [view.clip] if view is not None and view.clip != ORIGINAL else []
        identity = Identity(
            kind=branches.KIND,
            name=f"{self.name}-{'proposals' if view is None else view.slug}",
            schema_version=branches.SCHEMA_VERSION,
            recipe=RECIPE,
            settings=decisive_settings(self.settings, self.inputs) | {"view": None if view is None else asdict(view)},
            inputs={role: self.inputs.digests[role] for role in roles},
        )
        job = BranchJob(scenes=self.scenes, nets=self.nets, view=view, proposals=None if of_labels else proposals)
        return UnitPlan(_planned(self.settings.runs_dir, identity, self.inputs.scenes, {}), job)


def net_sources(settings: Settings, inputs: Inputs, class_names: tuple[str, ...]) -> NetSources:
    """Return where nets come from and how they are run."""
    section = settings.evaluate
    return NetSources(
        proposal_net=inputs.proposal_net,
        clip=settings.clip,
        adapted=dict(inputs.adapted),
        class_names=class_names,
        prompt_templates=section.prompt_templates,
        short_side_px=section.short_side_px,
        max_side_px=section.max_side_px,
        precision=section.precision,
        batch_crops=section.batch_crops,
        compute=WorkerCompute.of(settings.compute),
    )


def decisive_settings(settings: Settings, inputs: Inputs) -> dict[str, Json]:
    """Return the settings that change what the branches say."""
    options = result_settings(settings.evaluate)
    return {"options": {name: options[name] for name in _OPTIONS}, "clip": inputs.clip_digest}


def _inputs_of(inputs: Inputs, variants: tuple[Variant, ...]) -> dict[str, str]:
    """Return the digests of what variants need."""
    clips = {view.clip for view in views_of(variants)} - {ORIGINAL}
    nets = ["proposal_net"] if any(variant.needs_proposals for variant in variants) else []
    return {role: inputs.digests[role] for role in ("scenes", *nets, *sorted(clips))}


def _planned(runs: Path, identity: Identity, scenes: Artifact, attributes: Mapping[str, Json]) -> Artifact:
    """Return an artifact with the shards of the scenes."""
    units = scenes.description.units
    return Artifact.planned(runs, Description(identity=identity, units=units, attributes=attributes))
