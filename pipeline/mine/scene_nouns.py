"""The nouns of a scene, from its captions or the classes of its labels, and what mining needs of a data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pipeline.graph import Node
from pipeline.mine.regions import (
    NO_CAPTION,
    NO_NOUN,
    SceneRegions,
)
from pipeline.mine.tagger.sources import tagger_identity
from pipeline.mine.word_lists import word_list
from pipeline.settings import MineSettings, NounSettings, SettingsError, result_settings
from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.digests import Json, sha256_of_json
from storage_schemas.scenes import Scene, ScenesAttributes, SceneShard

if TYPE_CHECKING:
    from pipeline.mine.nouns import NounExtractor

_CAPTIONS_AT_ONCE = 10_000


class SceneNoun(NamedTuple):
    """A noun of a scene.

    Attributes:
        noun: Lower-case lemma, or the word as written, as settings say; or class name.
        text: As the caption has it, or the class name.
        start: First character in the caption; None for a class name.
        end: One past the last character.
        caption_id: The caption's id; None for a class name.
        caption: The caption's text; None for a class name.
        region: The region that it names, where that is known (ground truth); None where it is to be found.
    """

    noun: str
    text: str
    start: int | None = None
    end: int | None = None
    caption_id: int | None = None
    caption: str | None = None
    region: int | None = None


class NounsFound(NamedTuple):
    """The nouns of a scene, each once; or why there are none."""

    nouns: Sequence[SceneNoun]
    status: str = OK
    reason: str = ""


class NounSource(Protocol):
    """Where the nouns of scenes come from; picklable."""

    def of(self, scene: Scene, regions: SceneRegions) -> NounsFound:
        """Return the nouns of one scene."""
        ...

    def vocabulary(self, scenes: Artifact) -> list[str]:
        """Return all nouns of an artifact of scenes, each once, ascending; no picture is read."""
        ...


@dataclass(frozen=True)
class CaptionNouns:
    """Nouns of the captions with the lowest ids; a noun of several captions counts for the first of them.

    Attributes:
        settings: Which words count as nouns.
        captions_per_image: How many captions of an image are read.
    """

    settings: NounSettings
    captions_per_image: int

    @cached_property
    def _extractor(self) -> "NounExtractor":
        from pipeline.mine.nouns import NounExtractor  # imports nltk, which takes seconds

        settings = self.settings
        return NounExtractor(
            tagger=settings.tagger,
            compound_nouns=settings.compound_nouns,
            fixed_expressions=settings.fixed_expressions,
            stop_words=stop_words(settings),
            lemmas=settings.lemmas,
            lower_case=settings.lower_case,
        )

    def of(self, scene: Scene, regions: SceneRegions) -> NounsFound:
        """Return the nouns of one scene in the order in which they are read; regions play no part."""
        del regions
        captions = scene.captions[: self.captions_per_image]
        if not captions:
            return NounsFound((), NO_CAPTION, "the scene has no caption")
        found: dict[str, SceneNoun] = {}
        nouns_of = self._extractor.extract_many([caption.text for caption in captions])
        for caption, nouns in zip(captions, nouns_of, strict=True):
            for noun in nouns:
                of_scene = SceneNoun(noun.lemma, noun.text, noun.start, noun.end, caption.caption_id, caption.text)
                found.setdefault(noun.lemma, of_scene)
        if not found:
            texts = "; ".join(repr(caption.text) for caption in captions)
            return NounsFound((), NO_NOUN, f"no noun is found in {texts}")
        return NounsFound(tuple(found.values()))

    def vocabulary(self, scenes: Artifact) -> list[str]:
        """Return all nouns of the captions."""
        nouns: set[str] = set()
        for unit in scenes.description.units:
            of_scenes = SceneShard(scenes, unit).captions()
            texts = [caption.text for captions in of_scenes for caption in captions[: self.captions_per_image]]
            for start in range(0, len(texts), _CAPTIONS_AT_ONCE):
                for found in self._extractor.extract_many(texts[start : start + _CAPTIONS_AT_ONCE]):
                    nouns.update(noun.lemma for noun in found)
        return sorted(nouns)

    def of_captions(self, scenes: Artifact, unit: str) -> dict[str, list[frozenset[str]]]:
        """Return by scene of a shard the nouns of each of its captions, however many are read for pairs."""
        shard = SceneShard(scenes, unit)
        of_scenes = shard.captions()
        texts = [caption.text for captions in of_scenes for caption in captions]
        found: list[frozenset[str]] = []
        for start in range(0, len(texts), _CAPTIONS_AT_ONCE):
            of_part = self._extractor.extract_many(texts[start : start + _CAPTIONS_AT_ONCE])
            found += [frozenset(noun.lemma for noun in nouns) for nouns in of_part]
        nouns = iter(found)
        keys = shard.index["key"].to_pylist()
        return {key: [next(nouns) for _ in captions] for key, captions in zip(keys, of_scenes, strict=True)}


@dataclass(frozen=True)
class ClassNouns:
    """Names of the classes whose masks are the regions.

    Attributes:
        class_names: By class index.
    """

    class_names: tuple[str, ...]

    def of(self, scene: Scene, regions: SceneRegions) -> NounsFound:
        """Return the names of a scene's classes; each has its region."""
        del scene
        names = [(index, self.class_names[index].strip()) for index in regions.indices.tolist()]
        return NounsFound(tuple(SceneNoun(name, name, region=index) for index, name in names))

    def vocabulary(self, scenes: Artifact) -> list[str]:
        """Return all class names, whether a scene shows them or not."""
        del scenes
        return sorted({name.strip() for name in self.class_names})


def stop_words(settings: NounSettings) -> frozenset[str]:
    """Return the stop words of the settings, and of the shipped list where they ask for it."""
    return frozenset({*settings.stop_words, *(word_list("stop_words") if settings.shipped_stop_words else ())})


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
