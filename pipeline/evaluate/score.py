"""Stage 4: scores predictions on a labelled data set, zero-shot; for ablations from stored branches.

Reads ``scenes``, ``proposal_net`` and ``adapted_clip``; writes ``scores``, and for ablations ``branches`` before.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ovseg_models.prompt_templates import prompt_templates
from pipeline.evaluate.labelled_images import NO_LABEL, LabelledScenes
from pipeline.evaluate.variants import (
    GROUND_TRUTH,
    IMPORTED,
    ORIGINAL,
    PROPOSALS,
    ClipView,
    Variant,
    ablation_variants,
    error_source_variants,
    main_variant,
    views_of,
)
from pipeline.graph import Node, ParameterCounts, Source, Step
from pipeline.settings import (
    ComputeSettings,
    EvaluatedDatasetSettings,
    EvaluateSettings,
    SettingsError,
    result_settings,
)
from pipeline.shard_runner import Execution, StageReport
from pipeline.stage_names import StageName
from pipeline.text_embeddings import TextSource, embed_names
from pipeline.worker_device import WorkerCompute
from storage_schemas import branches, scores
from storage_schemas.checkpoints import ADAPTED_CLIP, TEMPLATE_WEIGHTS
from storage_schemas.digests import Json
from storage_schemas.scenes import ScenesAttributes, labelled_scenes
from storage_schemas.scores import ScoresAttributes

if TYPE_CHECKING:
    from ovseg_models.memory import Memory
    from pipeline.evaluate.jobs import BranchJob, ScoreJob
    from pipeline.evaluate.nets import NetSources
    from pipeline.evaluate.prediction import StoredSources

logger = logging.getLogger(__name__)

BACKGROUND = "background"
"""Name of the class that is whatever the others are not, such as that of pascal-voc-21."""

_OPTIONS = ("short_side_px", "max_side_px", "prompt_templates", "precision", "temperature")
SCORE_BYTES = 12_000
_PRODUCER_VERSION = 3  # of branches and scores alike: the nets' outputs


@dataclass(frozen=True, kw_only=True)
class Score(Step):
    """Scores predictions on one data set.

    Attributes:
        dataset: The data set and its ensemble weight.
        ablate: Score the paper's ablations too, from stored branches.
        clip_names_alone: The proposal net cannot name what it finds, as it was trained with another CLIP.
    """

    settings: EvaluateSettings
    dataset: EvaluatedDatasetSettings
    compute: ComputeSettings
    ablate: bool = False
    clip_names_alone: bool = False

    kind = scores.KIND
    schema_version = scores.SCHEMA_VERSION
    producer_version = _PRODUCER_VERSION
    stage: StageName = "evaluate"
    tolerated = frozenset({NO_LABEL})
    labels_of = ("scenes",)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """What is predicted how, the main variant first."""
        weight = 1.0 if self.clip_names_alone else self.dataset.ensemble_weight
        unseen_only = self.dataset.ensemble_on == "unseen" and not self.clip_names_alone
        if not self.ablate:
            main = main_variant(self.settings, weight, unseen_only=unseen_only)
            return (main, *(error_source_variants(self.settings) if self.settings.error_sources else ()))
        found = ablation_variants(self.settings, weight, unseen_only=unseen_only)
        if self.clip_names_alone:
            found = tuple(each for each in found if each.ensemble_weight == 1 or each.oracle_threshold is not None)
        return found

    @property
    def _clip_names_proposals(self) -> bool:
        """Whether CLIP has a say on proposals."""
        view = self.variants[0].view
        return view is not None and view.regions == PROPOSALS and self.variants[0].oracle_threshold is None

    def inputs_among(self, nets: Mapping[str, Source]) -> dict[str, Source]:
        """Return the nets that a variant needs.

        Args:
            nets: ``"proposal_net"`` or, in its place, ``"proposals"``, and adapted CLIPs by the names that views have.
        """
        clips = {view.clip for view in views_of(self.variants)} - {ORIGINAL}
        proposes = any(variant.needs_proposals for variant in self.variants)
        found = "proposals" if self.settings.proposals == IMPORTED else "proposal_net"
        return {role: nets[role] for role in (*([found] if proposes else []), *sorted(clips))}

    def check(self, node: Node) -> None:
        """Check that there are labels, as soon as that is known.

        Raises:
            SettingsError: If no scene has a labelled pixel.
        """
        check_labels(node, self.dataset)
        self._check_sentences(node)
        self._check_background(node)
        scenes = node["scenes"]
        without = self.ablate or self.settings.error_sources or not self.settings.masked_crops
        if self.settings.memory and (without or not self._clip_names_proposals):
            message = (
                "names proposals by CLIP's masked crops, and these settings do without them: --ablate, error_sources, "
                "masked_crops off, ensemble_weight 0, oracle_labels or masks of the ground truth; leave one of them out"
            )
            raise SettingsError([f"evaluate.memory: {message}"])
        if self.dataset.ensemble_on == "unseen" and scenes.is_complete():
            marks = set(ScenesAttributes.of(scenes.artifact).seen)
            if not marks >= {"seen", "unseen"}:
                message = "has no classes marked as seen and as unseen, which ensemble_on 'unseen' tells apart"
                raise SettingsError([f"evaluate.datasets: {self.dataset.dataset}: {message}; set it to 'all'"])

    def _check_background(self, node: Node) -> None:
        """Check that words for the background have a class to mean, and are none themselves.

        Raises:
            SettingsError: If not.
        """
        words = self.dataset.background_names
        if not words or not node["scenes"].is_complete():
            return
        names, where = class_names_of(node), f"evaluate.datasets: {self.dataset.dataset}: background_names"
        if BACKGROUND not in names:
            message = f"the data set has no class {BACKGROUND!r}; pascal-voc-21 has one, pascal-voc-20 ignores it"
            raise SettingsError([f"{where}: {message}; leave them out"])
        odd = [word for place, word in enumerate(words) if word in set(names) - {BACKGROUND} or word in words[:place]]
        if odd:
            raise SettingsError([f"{where}: {odd[0]!r} is a class, or there twice; name what is no class, each once"])

    def _check_sentences(self, node: Node) -> None:
        """Check that classes are named by the sentences that stage 3 trains weights for."""
        tuned = node.get("adapted")
        if tuned is None or TEMPLATE_WEIGHTS not in tuned.step.units(tuned):
            return
        settings: Any = cast("Any", tuned.step).settings
        weighted, named = (prompt_templates(of.prompt_templates) for of in (settings, self.settings))
        if len(weighted) > 1 and weighted != named:
            message = (
                f"evaluate.prompt_templates: CLIP is finetuned with a weight for each of {len(weighted)} sentences, "
                f"and classes are named by {len(named)} others; set it to finetune.prompt_templates"
            )
            raise SettingsError([message])

    def fingerprint(self, node: Node) -> Mapping[str, Json]:
        """Return the variants, and the settings that change the nets' outputs."""
        del node
        memory = memory_of(self.settings)
        remembered: dict[str, Json] = {} if memory is None else {"memory": memory.digest()}
        variants: list[Json] = [variant.to_json() for variant in self.variants]
        words: dict[str, Json] = {}
        if self.dataset.background_names:
            words["background_names"] = list(self.dataset.background_names)
        return {**branch_options(self.settings), "variants": variants, **remembered, **words}

    def attributes(self, node: Node) -> Mapping[str, Json]:
        """Return the classes and the variants."""
        return scores_attributes(node, self.dataset, self.variants)

    def job(self, node: Node) -> "ScoreJob":
        """Return what scores a shard, from the nets themselves."""
        from pipeline.evaluate.jobs import ScoreJob

        return ScoreJob(
            scenes=labelled_scenes_of(node),
            variants=self.variants,
            background=class_names_of(node).index(BACKGROUND) if self.dataset.background_names else None,
            nets=replace(
                net_sources(node, self.settings, self.compute, named_classes(node, self.dataset)),
                clip_names_alone=self.clip_names_alone,
                memory=memory_of(self.settings),
            ),
        )

    def make(self, node: Node, execution: Execution) -> StageReport:
        """Score; branches that others share are stored first, if there is something to score.

        Raises:
            SettingsError: If no scene has a labelled pixel.
        """
        if not node.status().finished:
            self.check(node)
            if self.clip_names_alone and self.settings.proposals == "net" and self.dataset.ensemble_weight != 1:
                logger.warning(
                    "%s: the proposal net was trained with another CLIP (proposal_net.clip) than the one that names: "
                    "it finds the masks, and %s alone names them, with ensemble weight 1 in place of %s",
                    *(node.label, node.clip.settings.architecture, self.dataset.ensemble_weight),
                )
            if any(variant.oracle_threshold is None for variant in self.variants):
                names, templates = named_classes(node, self.dataset), self.settings.prompt_templates
                what = f"class names of {self.dataset.dataset}"
                embed_names(node, names, templates, self.compute, execution, what=what)
        stored = self._stored(node, execution)
        return execution.run(replace(self.job(node), stored=stored), node.artifact, tolerated=self.tolerated)

    def _stored(self, node: Node, execution: Execution) -> "StoredSources":
        """Return where branches are stored, each an artifact of its own; make them if there is something to score.

        For ablations that is every branch, so that another ensemble weight makes none of them again, and another mask
        threshold CLIP's alone. Where the settings share proposals it is the proposal net's alone, which evaluations of
        other CLIPs then read. Imported masks are read where they lie.
        """
        from pipeline.evaluate.prediction import StoredSources

        def branch(view: ClipView | None, proposals: Node | None) -> Node:
            of_labels = view is not None and view.regions == GROUND_TRUTH
            roles = ["scenes", "clip", *([] if of_labels else ["proposal_net"])]
            roles += [view.clip] if view is not None and view.clip != ORIGINAL else []
            sources = {role: node.sources[role] for role in roles}
            step = StoreBranch(
                self.settings,
                self.compute,
                view,
                None if of_labels else proposals,
                self.clip_names_alone,
                named_classes(node, self.dataset) if self.dataset.background_names else (),
            )
            name = f"{node.name.removesuffix('-ablation')}-{'proposals' if view is None else view.slug}"
            made = Node(step, name, node.runs, sources)
            if not node.status().finished:
                made.make(execution)
            return made

        shared = self.settings.share_proposals and any(variant.needs_proposals for variant in self.variants)
        if not (self.ablate or shared) or self.settings.proposals == IMPORTED:
            return StoredSources()
        proposals = branch(None, None)
        views = {view: branch(view, proposals).artifact for view in views_of(self.variants)} if self.ablate else {}
        return StoredSources(proposals.artifact, views)

    def size_bytes(self, counts: ParameterCounts, scenes: int) -> int:
        """Estimate from COCO's pictures."""
        del counts
        return scenes * SCORE_BYTES


@dataclass(frozen=True)
class StoreBranch(Step):
    """Stores the outputs of one branch for each scene.

    Attributes:
        view: How CLIP sees the regions; None for the proposal net's branch.
        proposals: The proposal net's branch, whose masks CLIP's regions are; None where they are the label map's.
        clip_names_alone: The proposal net cannot name what it finds.
        names: What is named, where that is not the classes alone.
    """

    settings: EvaluateSettings
    compute: ComputeSettings
    view: ClipView | None
    proposals: Node | None
    clip_names_alone: bool = False
    names: tuple[str, ...] = ()

    kind = branches.KIND
    schema_version = branches.SCHEMA_VERSION
    producer_version = _PRODUCER_VERSION
    stage: StageName = "evaluate"
    tolerated = frozenset({NO_LABEL})

    def fingerprint(self, node: Node) -> Mapping[str, Json]:
        """Return the view, and the settings that change the nets' outputs."""
        del node
        view = None if self.view is None else self.view.to_json()
        alone: dict[str, Json] = {"clip_names_alone": True} if self.clip_names_alone else {}
        names: dict[str, Json] = {"names": list(self.names)} if self.names else {}
        return {**branch_options(self.settings), "view": view, **alone, **names}

    def job(self, node: Node) -> "BranchJob":
        """Return what stores a shard."""
        from pipeline.evaluate.jobs import BranchJob

        return BranchJob(
            scenes=labelled_scenes_of(node),
            nets=replace(
                net_sources(node, self.settings, self.compute, self.names or class_names_of(node)),
                clip_names_alone=self.clip_names_alone,
            ),
            view=self.view,
            proposals=None if self.proposals is None else self.proposals.artifact,
        )


def check_labels(node: Node, dataset: EvaluatedDatasetSettings) -> None:
    """Check that there are labels, if that is known.

    Raises:
        SettingsError: If no scene has a labelled pixel.
    """
    scenes = node["scenes"]
    if scenes.is_complete() and not labelled_scenes(scenes.artifact):
        message = "no scene has a labelled pixel; 'ovseg prepare ... --check' reports what the data set holds"
        raise SettingsError([f"evaluate.datasets: {dataset.dataset}: {message}"])


def scores_attributes(node: Node, dataset: EvaluatedDatasetSettings, variants: Sequence[Variant]) -> Mapping[str, Json]:
    """Return the classes and the variants of scores."""
    labels = ScenesAttributes.of(node["scenes"].artifact)
    return ScoresAttributes(
        dataset=dataset.dataset,
        vocabulary=labels.vocabulary,
        class_names=labels.class_names,
        seen=labels.seen,
        main_variant=variants[0].name,
        variants={variant.name: variant.to_json() for variant in variants},
    ).to_json()


def labelled_scenes_of(node: Node) -> LabelledScenes:
    """Return the scenes that a node of stage 4 reads, with what is known of their labels."""
    scenes = node["scenes"].artifact
    labels = ScenesAttributes.of(scenes)
    return LabelledScenes(
        artifact=scenes,
        class_count=len(labels.class_names),
        ignore_label=labels.ignore_label,
        seen=tuple(mark == "seen" for mark in labels.seen),
    )


def class_names_of(node: Node) -> tuple[str, ...]:
    """Return the classes of the scenes that a node of stage 4 reads."""
    return ScenesAttributes.of(node["scenes"].artifact).class_names


def named_classes(node: Node, dataset: EvaluatedDatasetSettings) -> tuple[str, ...]:
    """Return what is named: the classes in order, the first word for the background in its place, then the others."""
    names, words = class_names_of(node), dataset.background_names
    if not words:
        return names
    return (*(words[0] if name == BACKGROUND else name for name in names), *words[1:])


def net_sources(
    node: Node, settings: EvaluateSettings, compute: ComputeSettings, class_names: tuple[str, ...]
) -> "NetSources":
    """Return where the nets of a node of stage 4 come from, and how they are run."""
    from pipeline.evaluate.nets import NetSources

    return NetSources(
        proposal_net=node["proposal_net"].artifact if "proposal_net" in node else None,
        imported=node["proposals"].artifact if settings.proposals == IMPORTED and "proposals" in node else None,
        clip=node.clip.settings,
        adapted={
            role: source.artifact
            for role, source in node.sources.items()
            if isinstance(source, Node) and source.step.kind == ADAPTED_CLIP
        },
        class_names=class_names,
        texts=TextSource.of(node, settings.prompt_templates),
        short_side_px=settings.short_side_px,
        max_side_px=settings.max_side_px,
        precision=settings.precision,
        temperature=settings.temperature,
        batch_crops=settings.batch_crops,
        compute=WorkerCompute.of(compute),
    )


def memory_of(settings: EvaluateSettings) -> "Memory | None":
    """Read the remembered masks that settings name.

    Raises:
        SettingsError: If the file is not there or damaged.
    """
    if not settings.memory:
        return None
    from ovseg_models.memory import Memory

    try:
        return Memory.load(Path(settings.memory))
    except (ValueError, OSError) as error:
        raise SettingsError([f"evaluate.memory: {error}"]) from error


def branch_options(settings: EvaluateSettings) -> dict[str, Json]:
    """Return the settings that change the nets' outputs."""
    options = result_settings(settings)
    return {"options": {name: options[name] for name in _OPTIONS if name in options}}
