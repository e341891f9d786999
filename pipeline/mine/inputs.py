"""What mining's settings ask of a data set, and where they say that nouns come from."""

from pipeline.graph import Node
from pipeline.mine.regions import LabelRegions, NetSize, ProposalRegions, RegionSource
from pipeline.mine.scene_nouns import CaptionNouns, ClassNouns, NounSource, stop_words
from pipeline.mine.tagger.sources import tagger_identity
from pipeline.mine.word_lists import word_list
from pipeline.settings import MineSettings, SettingsError, result_settings
from storage_schemas.digests import Json, sha256_of_json
from storage_schemas.scenes import ScenesAttributes


def check_data_set(scenes: Node, settings: MineSettings) -> None:
    """Check that a data set has what the source of pairs is made of, before any scene of it is made.

    Raises:
        SettingsError: If there is no label, or no caption, and they are needed.
    """
    _refuse_without(scenes, settings, scenes.step.label_count(scenes) != 0, scenes.step.caption_count(scenes) != 0)


def check_scenes(scenes: Node, settings: MineSettings) -> None:
    """Check the same of finished scenes, of which a label or a caption may have turned out to be unusable.

    Raises:
        SettingsError: If no scene has labels, or no scene has a caption, and they are needed.
    """
    labelled, captioned = (
        any(sidecar.facts.get(fact) for sidecar in scenes.manifest().units) for fact in ("labelled", "captions")
    )
    _refuse_without(scenes, settings, labelled, captioned)


def _refuse_without(scenes: Node, settings: MineSettings, labelled: bool, captioned: bool) -> None:
    missing = "captions" if settings.captions_per_image and not captioned else ""
    missing = "labels" if settings.uses_ground_truth_masks and not labelled else missing
    if missing:
        message = f"mine.source: {missing} are expected, no scene of {scenes.name!r} has any"
        raise SettingsError([f"{message}; choose another source or data set (got {settings.source!r})"])


def net_size(settings: MineSettings) -> NetSize:
    """Return the size at which pictures are seen, and their regions lie."""
    return NetSize(settings.propose.short_side_px, settings.propose.max_side_px)


def regions_of(node: Node, settings: MineSettings) -> RegionSource:
    """Return where the regions of a step's node come from."""
    scenes, size = node["scenes"].artifact, net_size(settings)
    if "proposals" in node:
        return ProposalRegions(scenes, node["proposals"].artifact, size)
    return LabelRegions(scenes, size)


def noun_source(settings: MineSettings, labels: ScenesAttributes) -> NounSource:
    """Return where nouns come from."""
    if settings.captions_per_image:
        return CaptionNouns(settings.nouns, settings.captions_per_image)
    return ClassNouns(labels.class_names)


def noun_identity(settings: MineSettings) -> Json:
    """Return what decides the nouns of a scene; nothing of captions where class names take their place.

    Raises:
        TaggerMissingError: If what the tagger needs is not installed.
    """
    if not settings.captions_per_image:
        return "class names"
    nouns = settings.nouns
    lists = {
        "stop_words": sorted(stop_words(nouns)),
        "fixed_expressions": list(word_list("fixed_expressions")) if nouns.fixed_expressions else [],
        "no_nouns": list(word_list("no_nouns")),
    }
    return {
        **result_settings(nouns),
        "word_lists": sha256_of_json(lists),
        "captions_per_image": settings.captions_per_image,
        "tagger_weights": tagger_identity(settings.nouns.tagger),
    }
