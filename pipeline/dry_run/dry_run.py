"""What a run would do: units per artifact, the disk that they take, and what is missing."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ovseg_models.proposal_presets import build_proposal_net
from pipeline.clip_loading import check_namers, clip_without_numbers, one_passes
from pipeline.dataflow import dataflow
from pipeline.dry_run.crop_cost import CropCost, PassCost, operations_per_second
from pipeline.dry_run.weights import Finding, clip_is_here, weights_findings
from pipeline.errors import PipelineError
from pipeline.finetune.finetune import units_of_phases
from pipeline.graph import Finished, Graph, Node, ParameterCounts
from pipeline.prepare.data_root import LayoutError
from pipeline.settings import Settings
from pipeline.stage_names import StageName
from pipeline.states import ArtifactState, shown_bytes, state_of_node
from pipeline.worker_device import chosen_device
from storage_schemas.checkpoints import IMAGE_TOWER, MASK_PROMPTS, MASK_QUERIES, PROPOSAL_NET, TEXT_PROMPTS
from storage_schemas.manifest import MANIFEST_FILE
from storage_schemas.verification import nothing_kept


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a run would do, write and need.

    Attributes:
        states: Artifacts in the order of the dataflow, with estimates.
        findings: What is missing, or will have to be fetched.
        disk: The existing directory whose disk is written to.
        free_bytes: What is free there.
        architecture: Of the CLIP that names.
        device: Where it would run; the CPU, if the settings' device is not here.
        crop: What a crop costs it; None where nothing is to be made with CLIP.
        passes: What one pass of a picture costs it, for each size in which the settings have masks named so.
    """

    states: tuple[ArtifactState, ...]
    findings: tuple[Finding, ...]
    disk: Path
    free_bytes: int
    architecture: str = ""
    device: str = "cpu"
    crop: CropCost | None = None
    passes: tuple[PassCost, ...] = ()

    @property
    def new_bytes(self) -> int:
        """What is known of what will be written, about."""
        return sum(state.new_bytes or 0 for state in self.states)

    @property
    def unknown_sizes(self) -> tuple[str, ...]:
        """Artifacts to make whose size is unknown."""
        return tuple(state.artifact for state in self.states if state.todo != 0 and state.new_bytes is None)

    @property
    def is_all_there(self) -> bool:
        """Whether nothing is missing that the run would stop at."""
        return not any(finding.is_missing for finding in self.findings)


def dry_run(settings: Settings, stages: Iterable[StageName]) -> DryRun:
    """Estimate what a run would do; nothing is downloaded, made or written.

    Args:
        stages: That it would go through.

    Raises:
        ValueError: If CLIP or the backbone is no known architecture.
        PipelineError: If the file of an architecture cannot be read.
    """
    graph = dataflow(settings)
    for clip in {node.clip for node in (*graph.nodes, *graph.others) if "clip" in node}:
        if not clip_is_here(clip.settings):
            clip.withheld = "CLIP's weights are not here, so what is done is unknown"
    with nothing_kept():
        chosen = [node for stage in stages for node in graph.of_stage(stage)]
        counts = parameter_counts(settings)
        states = tuple(_estimated(node, counts) for node in chosen)
        to_make = [node for node, state in zip(chosen, states, strict=True) if state.todo != 0]
        findings = [
            *_data_findings(graph),
            *weights_findings(settings),
            *_setting_findings(graph, to_make),
            *_naming_findings(settings, [node for node, state in zip(chosen, states, strict=True) if not state.reason]),
            *_device_findings(settings, to_make),
        ]
    disk = existing_parent(settings.runs_dir)
    found = DryRun(states=states, findings=(), disk=disk, free_bytes=shutil.disk_usage(disk).free)
    if any("clip" in node for node in to_make):
        try:
            device = chosen_device(settings.compute.device)
        except PipelineError:  # is among the findings
            device = torch.device("cpu")
        try:
            speed = operations_per_second(device, settings.mine.embed.precision)
            crop = CropCost.of(clip_without_numbers(settings.clip), speed)
            found = replace(found, architecture=settings.clip.architecture, device=str(device), crop=crop)
            with suppress(PipelineError):  # a CLIP without tokens is among the findings
                queries = settings.proposal_net.architecture.queries
                passes = [PassCost.of(one_pass, queries, speed) for one_pass in one_passes(settings)]
                found = replace(found, passes=tuple(passes))
        except RuntimeError as error:  # of torch, where the driver is too old, say, or another program has all memory
            reason = str(error).partition("\n")[0]
            findings.append(
                Finding("compute.device", f"'{device}' cannot compute ({reason}); choose another one", is_missing=True)
            )
    return replace(found, findings=(*findings, *_disk_findings(settings, found)))


def existing_parent(path: Path) -> Path:
    """Return the path, or the nearest directory above it that exists."""
    whole = path.absolute()
    return next(each for each in (whole, *whole.parents) if each.exists())


def _estimated(node: Node, counts: ParameterCounts) -> ArtifactState:
    """Return the state of an artifact with the units to make and what they will take."""
    state = state_of_node(node)
    scenes = node.step.scene_count(node)
    whole = None if scenes is None else node.step.size_bytes(counts, scenes)
    if state.reason:
        return replace(state, todo=node.unit_count(), is_estimate=True, new_bytes=whole)
    units = sum(state.units.values())
    todo = units - state.units["done"]
    if whole is not None:
        whole = round(whole * todo / max(1, units))
    return replace(state, todo=todo, new_bytes=whole if todo else 0)


def _data_findings(graph: Graph) -> Iterator[Finding]:
    """List the data sets that are not there or not as their layout says, or lack the labels that a stage needs."""
    for node in (node for node in graph.nodes if not node.sources):
        try:
            _ = node.artifact
        except LayoutError as error:
            text = f"{error}; docs/guides/data_preparation.md says where it comes from"
            yield Finding(f"datasets.{node.setting}", text, is_missing=True)
    for node in graph.nodes:
        for role in node.step.labels_of:
            source = node.get(role)
            if source is not None and source.step.label_count(source) == 0:
                text = f"no scene has a labelled pixel, and {node.label} needs labels; name a data set with labels"
                yield Finding(f"datasets.{source.setting}", text, is_missing=True)


def _setting_findings(graph: Graph, to_make: Iterable[Node]) -> Iterator[Finding]:
    """List what steps refuse before anything is made, and inputs that are nowhere."""
    for node in graph.others:
        if isinstance(node.step, Finished):
            try:
                node.step.artifact(node)
            except PipelineError as error:
                yield _finding_of(error)
    checked = dict.fromkeys(source for node in to_make for source in (*node.upstream(), node))
    for node in checked:
        try:
            if not node.is_complete():
                node.step.check(node)
        except LayoutError:
            continue  # the data set is not there, which is a finding by itself
        except PipelineError as error:
            yield _finding_of(error)


def _naming_findings(settings: Settings, ready: Iterable[Node]) -> Iterator[Finding]:
    """Say that CLIP or the proposal net cannot name masks as asked for, or that a net of another CLIP could be kept.

    Args:
        ready: Nodes whose inputs are finished.
    """
    try:
        check_namers(settings)
    except PipelineError as error:
        yield _finding_of(error)
    tuned, named = settings.finetune.namer, settings.evaluate.namer
    if settings.evaluate.clip == "adapted" and (tuned == "crops") != (named == "crops"):
        text = f"is {named!r}, and finetune.namer {tuned!r}: CLIP is tuned for other views than it is evaluated on"
        yield Finding("evaluate.namer", text, is_missing=False)
    if settings.clip_names_alone:
        text = "is another CLIP than 'clip': the proposal net finds the masks, and 'clip' alone names them"
        yield Finding("proposal_net.clip", f"{text} (ensemble weight 1)", is_missing=False)
    elif settings.proposal_net.clip is None:
        for node in ready:
            if node.step.kind != PROPOSAL_NET or node.is_complete():
                continue
            for directory, changes in node.artifact.earlier().items():
                of_clip_alone = len(changes) == 1 and changes[0].startswith("inputs.clip: ")
                if of_clip_alone and (directory / MANIFEST_FILE).exists():
                    text = (
                        f"stage 1 trains a net for the CLIP of 'clip'; {directory} differs in its CLIP alone: name "
                        "that CLIP here to keep the net and its proposals, and 'clip' alone names them"
                    )
                    yield Finding("proposal_net.clip", text, is_missing=False)


def _device_findings(settings: Settings, to_make: Iterable[Node]) -> Iterator[Finding]:
    """Report a device that is not here. Of a Dask cluster elsewhere nothing is known, but trainings stay here."""
    if any(node.step.trains or (node.step.computes and not settings.dask.address) for node in to_make):
        try:
            chosen_device(settings.compute.device)
        except PipelineError as error:
            yield _finding_of(error)


def _finding_of(error: PipelineError) -> Finding:
    where, _, text = str(error).partition(": ")
    return Finding(where, text, is_missing=True)


def _disk_findings(settings: Settings, found: DryRun) -> Iterator[Finding]:
    """Report a disk that is too small or cannot be written to."""
    if not found.disk.is_dir() or not os.access(found.disk, os.W_OK):
        text = f"{settings.runs_dir} cannot be made or written to; choose another directory"
        yield Finding("runs_dir", text, is_missing=True)
    if found.new_bytes > found.free_bytes:
        text = f"about {shown_bytes(found.new_bytes)} will be written, {shown_bytes(found.free_bytes)} are free there"
        yield Finding("runs_dir", f"{text}; make room, or choose a directory on another disk", is_missing=True)


def parameter_counts(settings: Settings) -> ParameterCounts:
    """Build both nets without any number in them, and count.

    Raises:
        PipelineError: If an architecture is unknown, or its file is not here or cannot be read.
        ValueError: If a backbone is unknown.
    """
    clip = clip_without_numbers(settings.clip)
    proposal_dim = clip_without_numbers(settings.proposal_net.clip or settings.clip).embedding_dim
    with torch.device("meta"):
        sizes = {"pretrained": False, "embedding_dim": proposal_dim}
        net = build_proposal_net(**settings.proposal_net.architecture.arguments() | sizes)
    image_tower = sum(each.numel() for each in clip.clip.visual.parameters())
    width = 0 if clip.tower is None else clip.tower.width
    layers = 0 if clip.tower is None else len(clip.tower.layers)
    trained = {
        IMAGE_TOWER: image_tower,
        MASK_PROMPTS: settings.finetune.prompt_depth * clip.crop.patches * width,
        MASK_QUERIES: layers * width * (width + 1),
        TEXT_PROMPTS: settings.finetune.text.length * clip.embedding_dim,  # about: texts are as wide or narrower
    }
    return ParameterCounts(
        proposal_net=sum(each.numel() for each in net.parameters()),
        image_tower=image_tower,
        adaptation=sum(trained.get(unit, 0) for unit in units_of_phases(settings.finetune.phases)),
        embedding_dim=clip.embedding_dim,
        proposal_dim=proposal_dim,
    )
