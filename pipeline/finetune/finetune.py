"""Stage 3: adapts CLIP to masked crops, by finetuning its image tower, by mask prompts, or by both.

Reads ``pairs``, CLIP, and labelled ``scenes`` to measure on; writes ``adapted_clip``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.graph import Node, ParameterCounts, Step
from pipeline.settings import ComputeSettings, FinetuneSettings, SettingsError, result_settings
from pipeline.shard_runner import Execution, StageReport
from pipeline.stage_names import StageName
from pipeline.training.trackers import check_trackers
from storage_schemas.checkpoints import (
    ADAPTED_CLIP,
    IMAGE_TOWER,
    MASK_PROMPTS,
    MASK_QUERIES,
    REPORT,
    SCHEMA_VERSION,
    TEMPLATE_WEIGHTS,
    TEXT_PROMPTS,
    checkpoint_bytes,
)
from storage_schemas.digests import Json


@dataclass(frozen=True, kw_only=True)
class Finetune(Step):
    """Adapts CLIP.

    Attributes:
        settings: Of stage 3.
        left_out: Classes that ground truth makes no pairs of: those that stage 1 is not shown.
    """

    settings: FinetuneSettings
    compute: ComputeSettings
    left_out: tuple[str, ...] = ()

    kind = ADAPTED_CLIP
    schema_version = SCHEMA_VERSION
    producer_version = 4
    stage: StageName = "finetune"
    trains = True
    labels_of = ("validation",)

    def fingerprint(self, node: Node) -> Mapping[str, Json]:
        """Return the settings that change the result; those of a part that no phase trains are none of them."""
        options: dict[str, Any] = result_settings(self.settings)
        del options["validation_dataset"]  # its scenes' digest is an input
        trained = self.units(node)
        if MASK_PROMPTS not in trained:
            del options["mpt"], options["prompt_depth"]
        if IMAGE_TOWER not in trained:
            del options["ft"]
        if not {IMAGE_TOWER, MASK_QUERIES} & set(trained):
            options.pop("holding", None)
        if TEMPLATE_WEIGHTS not in trained:
            options.pop("psm", None)
        if TEXT_PROMPTS not in trained:
            options.pop("text", None)
        if MASK_QUERIES not in trained:
            options.pop("query", None)
        if self.settings.namer == "crops":  # which see no whole picture
            options.pop("picture_side_px", None)
            options.pop("window_stride_px", None)
        options.pop("tuned_share", None)  # an average of what is trained here
        if self.settings.pair_source != "mined":
            options["ground_truth_without"] = sorted(self.left_out)
        return {"options": options}

    def units(self, node: Node) -> tuple[str, ...]:
        """Return the units of the weights that a phase trains, and the report."""
        del node
        return (*units_of_phases(self.settings.phases), REPORT)

    def check(self, node: Node) -> None:
        """Check that what is to be trained has a place in CLIP, hours before it is, and that trackers are installed.

        Raises:
            SettingsError: If it has none.
            PipelineError: If CLIP's architecture or a tracker's package is not available.
        """
        from ovseg_models.image_towers import tower_name
        from ovseg_models.mask_adapted_clip import MaskAdaptedClip
        from ovseg_models.one_pass import OnePass
        from ovseg_models.text_classifier import is_causal
        from pipeline.clip_loading import clip_without_numbers, namer_of

        check_trackers(self.compute.trackers)
        clip, named = clip_without_numbers(node.clip.settings), node.clip.settings.architecture
        trained, settings = self.units(node), self.settings
        namer = namer_of(clip, settings, where="finetune")
        if MASK_QUERIES in trained and isinstance(namer, OnePass) and not namer.has_mask_tokens:
            message = (
                f"finetune.mode: 'query' trains queries of mask tokens, and {named} pools its last tokens, so that "
                "masks have none; set it to 'ft'"
            )
            raise SettingsError([message])
        if MASK_PROMPTS in trained and clip.tower is None:
            message = (
                f"finetune.mode: {settings.mode!r} trains mask prompts, which have no meaning in {named}: its image "
                f"tower, a {tower_name(clip.clip.visual)}, has no patch tokens; set it to 'ft'"
            )
            raise SettingsError([message])
        depth = settings.prompt_depth if MASK_PROMPTS in trained else 0
        try:
            MaskAdaptedClip(clip.clip, prompt_depth=depth, blank_patches=settings.blank_patches)
        except ValueError as error:
            raise SettingsError([f"finetune: {str(error).removeprefix('MaskAdaptedClip: ')}"]) from error
        if TEXT_PROMPTS in trained:
            room = clip.clip.context_length - 2  # beside the start and the end of a text
            if not is_causal(clip.clip):
                message = (
                    f"finetune.mode: 'text' trains tokens before names, and the text tower of {named} does not read "
                    "from left to right as OpenAI's do; choose another mode or a model such as ViT-B-16"
                )
                raise SettingsError([message])
            if settings.text.length >= room:
                message = f"finetune.text.length: {settings.text.length} tokens leave no place for a name in {named}"
                raise SettingsError([f"{message}; less than {room} are expected"])

    def make(self, node: Node, execution: Execution) -> StageReport:
        """Adapt CLIP; see `pipeline.finetune.training.train`."""
        from pipeline.finetune.training import train

        return train(self.settings, self.compute, node, execution, left_out=self.left_out)

    def unit_count(self, node: Node) -> int:
        """Return the number of units, which no input decides."""
        return len(self.units(node))

    def size_bytes(self, counts: ParameterCounts, scenes: int) -> int:
        """Return what the weights and the kept checkpoints take."""
        del scenes
        return checkpoint_bytes(counts.adaptation, self.settings.checkpoints.keep_last)


def units_of_phases(phases: tuple[str, ...]) -> tuple[str, ...]:
    """Return the units of weights from what is trained, each phase ``"ft"``, ``"mpt"``, ``"ft+mpt"`` and so on."""
    parts = {part for phase in phases for part in phase.split("+")}
    units = {
        IMAGE_TOWER: "ft",
        MASK_PROMPTS: "mpt",
        TEMPLATE_WEIGHTS: "psm",
        TEXT_PROMPTS: "text",
        MASK_QUERIES: "query",
    }
    return tuple(unit for unit, part in units.items() if part in parts)
