"""Overlap audit: pictures and class names of the test data that occur in the training data.

Which training data: all scenes that a trained net of the evaluation was made of, found by going back through its
inputs. What CLIP was pretrained on is not known here, nor what other people's models were trained on.

A picture counts as the same by its file's bytes, or by a perceptual hash (`ovseg_models.picture_hash`). Class names are
compared in normal form (case, hyphens, plural s), each of a class's comma- or bar-separated names and their synonyms by
itself, with the class names of stage 1 and with the nouns of the pairs.
"""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow.compute as pc

from ovseg_models.picture_hash import (
    MAX_COLOUR_DIFFERENCE,
    MIN_AGREEMENT,
    PictureHash,
    same_pictures,
    too_flat,
)
from pipeline.errors import PipelineError
from pipeline.evaluate.picture_hashes import HashPictures
from pipeline.graph import Finished, Node, Refused
from pipeline.prepare.vocabulary import name_aliases, normalised
from pipeline.scenes_of_pairs import scenes_of
from pipeline.settings import ComputeSettings, Settings
from pipeline.shard_runner import Execution
from storage_schemas import pairs as pair_tables
from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.picture_hashes import PictureHashTable, read_picture_hashes
from storage_schemas.scenes import KIND as SCENES
from storage_schemas.scenes import ScenesAttributes

logger = logging.getLogger(__name__)

LISTED = 100
"""Pictures in common that a report lists for each training data set; all are counted."""

_PAIRS_OF = frozenset({"pairs", "embeddings", "proposals"})
_NAME_SEPARATORS = re.compile(r"[,|]")
_COMPARED_AT_ONCE = 2048

Aliases = Mapping[str, Sequence[str]]


class TrainingScenes(NamedTuple):
    """Scenes that training has seen.

    Attributes:
        node: The scenes.
        uses: What for, such as ``"stage 1"``.
    """

    node: Node
    uses: tuple[str, ...]


def audit_pictures(scores: Node, compute: ComputeSettings, execution: Execution) -> None:
    """Hash the pictures of a data set and of all that the evaluated nets were trained on, as far as that is not done.

    Args:
        scores: Of the data set; its inputs lead back to the training data.
    """
    trained = training_scenes(scores)
    for scenes in [scores["scenes"], *(one.node for one in trained)] if trained else []:
        if scenes.is_complete():
            node = _hashes_of(scenes, compute)
            if not node.status().finished:
                logger.info("overlap audit: the pictures of %s are hashed once", scenes.name)
                node.make(execution)


def overlap_numbers(scores: Node, settings: Settings, aliases: Aliases = MappingProxyType({})) -> dict[str, Any] | None:
    """Return what test and training data have in common; None where no training is known.

    Args:
        scores: Of the data set, after `audit_pictures`.
        aliases: Other names of a name, beside those of ``vocabularies/aliases.tsv``.

    Returns:
        * ``trainings``, one for each data set that training saw: ``name``, ``uses``, ``pictures``, ``same_file`` and
          ``same_picture`` (test pictures found by bytes; by hash alone), ``rows`` (at most `LISTED`: ``test`` and
          ``training`` keys, ``how``, ``agreement``, ``colour_difference``), or ``missing``: why it was not compared.
        * ``pictures``: of the test data; ``too_flat``: those that are compared by their bytes alone.
        * ``shared``: test pictures that occur in any of them.
        * ``classes``: each class that training knows by name: ``index``, ``name``, and ``known``: ``as``, ``of``
          (``"stage 1"`` or ``"pairs"``), ``how`` (``"name"`` or ``"synonym"``) and, of pairs, how many ``pairs``.
        * ``unknown_classes``: number of classes that no training data names.
        * ``limits``: of the perceptual hash.
    """
    trained = training_scenes(scores)
    if not trained and "proposal_net" not in scores and not _pairs_of(scores):
        return None
    trainings = []
    own = _hashes_of(scores["scenes"], settings.compute)
    test_tables = list(_tables(own.artifact)) if trained and own.is_complete() else []
    shared: set[str] = set()
    for node, uses in trained:
        entry: dict[str, Any] = {"name": node.name, "uses": list(uses)}
        hashes = _hashes_of(node, settings.compute)
        if not node.is_complete() or not hashes.is_complete() or not own.is_complete():
            trainings.append(entry | {"missing": "its scenes are not on this disk"})
            continue
        found, pictures = _same(test_tables, hashes.artifact)
        by_file = {row["test"] for row in found if row["how"] == "same file"}
        keys = {row["test"] for row in found}
        shared |= keys
        entry |= {"pictures": pictures, "same_file": len(by_file), "same_picture": len(keys - by_file)}
        trainings.append(entry | {"rows": found[:LISTED]})
    class_names = ScenesAttributes.of(scores["scenes"].artifact).class_names
    classes = known_classes(class_names, _training_names(scores), {**name_aliases(), **aliases})
    return {
        "pictures": sum(len(table.keys) for table in test_tables),
        "too_flat": int(sum(too_flat(table.signs).sum() for table in test_tables)),
        "shared": len(shared),
        "trainings": trainings,
        "classes": classes,
        "unknown_classes": len(class_names) - len(classes),
        "limits": {"agreement": MIN_AGREEMENT, "colour_difference": MAX_COLOUR_DIFFERENCE},
    }


def training_scenes(scores: Node) -> list[TrainingScenes]:
    """Return the scenes that the nets of an evaluation were trained on, each once, with what they were used for."""
    uses: dict[Node, dict[str, None]] = defaultdict(dict)
    for role, trained in scores.sources.items():
        if not isinstance(trained, Node) or role in {"scenes", "proposals"}:  # masks of others are of the test data
            continue
        for node in [trained, *trained.upstream()]:
            for name, source in node.sources.items():
                refused = isinstance(source, Node) and isinstance(source.step, Refused)  # the settings name none
                if isinstance(source, Node) and source.step.kind == SCENES and not refused:
                    uses[source][_use(node.step.kind, name)] = None
    for pairs in _pairs_of(scores):
        if "scenes" not in pairs.sources:  # mined elsewhere
            try:
                scenes = scenes_of(pairs.artifact, None)
            except PipelineError as error:
                logger.warning("overlap audit: pictures of the pairs are not compared (%s)", error)
                continue
            known = next((node for node in uses if node.is_complete() and node.artifact == scenes), None)
            step = Finished(SCENES, str(scenes.directory), "finetune.pairs_dir")
            node = known or Node(step, scenes.identity.name, pairs.runs, {})
            uses[node]["pairs"] = None
    return [TrainingScenes(node, tuple(of)) for node, of in uses.items()]


def known_classes(
    class_names: Sequence[str], trained: Mapping[str, Mapping[str, int | None]], aliases: Aliases
) -> list[dict[str, Any]]:
    """Return the classes that training knows by a name of theirs, or by a synonym of one.

    Args:
        class_names: By class index; a class may have several names, separated by commas or bars.
        trained: Names in training by what holds them, each with the number of its pairs, None where nothing counts.
        aliases: Other names of a name; they hold in both directions.
    """
    synonyms: dict[str, set[str]] = defaultdict(set)
    for name, others in aliases.items():
        for other in others:
            synonyms[normalised(name)].add(normalised(other))
            synonyms[normalised(other)].add(normalised(name))
    forms = {of: defaultdict[str, list[str]](list) for of in trained}
    for of, names in trained.items():
        for name in names:
            for part in _names_in(name):
                forms[of][part].append(name)
    classes = []
    for index, class_name in enumerate(class_names):
        own = _names_in(class_name)
        others = [synonym for name in own for synonym in sorted(synonyms.get(name, ())) if synonym not in own]
        known: list[dict[str, Any]] = []
        for of, by_form in forms.items():
            for how, candidates in (("name", own), ("synonym", others)):
                for name in dict.fromkeys(name for form in candidates for name in by_form.get(form, ())):
                    count = trained[of][name]
                    known.append({"as": name, "of": of, "how": how} | ({} if count is None else {"pairs": count}))
        if known:
            classes.append({"index": index, "name": class_name, "known": known})
    return classes


def _names_in(class_name: str) -> list[str]:
    """Return the normal forms of a class's names, each once."""
    return list(dict.fromkeys(normalised(part) for part in _NAME_SEPARATORS.split(class_name) if part.strip()))


def _use(kind: str, role: str) -> str:
    """Return what scenes were used for, from what reads them, and in which role."""
    if role == "validation":
        return "stage 1, validation" if kind == "proposal_net" else "stage 3, validation"
    return "stage 1" if kind == "proposal_net" else "pairs" if kind in _PAIRS_OF else "stage 3"


def _pairs_of(scores: Node) -> list[Node]:
    """Return the pairs to which the evaluated CLIPs were adapted."""
    nodes = dict.fromkeys(node for node in scores.upstream() if node.step.kind == pair_tables.KIND)
    return list(nodes)


def _training_names(scores: Node) -> dict[str, dict[str, int | None]]:
    """Return the class names of stage 1, without those held out, and the nouns of pairs with their numbers."""
    names: dict[str, dict[str, int | None]] = {}
    net = scores.get("proposal_net")
    if net is not None and net.get("scenes") is not None and net["scenes"].is_complete():
        step: Any = net.step
        taught = ScenesAttributes.of(net["scenes"].artifact).class_names
        names["stage 1"] = {name: None for name in taught if name not in step.settings.held_out_classes}
    nouns: Counter[str] = Counter()
    for pairs in _pairs_of(scores):
        for unit in pairs.artifact.description.units if pairs.is_complete() else ():
            table = pair_tables.read_index(pairs.artifact, unit, columns=["noun", "status"])
            counted = table.filter(pc.field("status") == OK)["noun"].value_counts().to_pylist()
            nouns.update({row["values"]: row["counts"] for row in counted})
    if nouns:
        names["pairs"] = dict(sorted(nouns.items()))
    return names


def _hashes_of(scenes: Node, compute: ComputeSettings) -> Node:
    """Return the hashes of a data set's pictures, made or not."""
    return Node(HashPictures(compute), scenes.name, scenes.runs, {"scenes": scenes}, command="ovseg evaluate")


def _tables(hashes: Artifact) -> Iterator[PictureHashTable]:
    """Yield the hashes of a data set, shard by shard."""
    return (read_picture_hashes(hashes, unit) for unit in hashes.description.units)


def _same(test: Sequence[PictureHashTable], training: Artifact) -> tuple[list[dict[str, Any]], int]:
    """Return the pictures of the test data that occur in training data, and how many pictures the latter holds.

    A shard of the training data at a time, so that the memory does not grow with it; of a test picture that occurs
    several times each place is a row.
    """
    of_file: dict[bytes, list[str]] = defaultdict(list)
    for table in test:
        for digest, key in zip(table.file_digests, table.keys, strict=True):
            of_file[digest].append(key)
    rows, pictures = [], 0
    for shard in _tables(training):
        pictures += len(shard.keys)
        equal = {
            (test_key, key): {"how": "same file", "agreement": 1.0, "colour_difference": 0.0}
            for digest, key in zip(shard.file_digests, shard.keys, strict=True)
            for test_key in of_file.get(digest, ())
        }
        for table in test:
            for start in range(0, len(shard.keys), _COMPARED_AT_ONCE):
                stop = start + _COMPARED_AT_ONCE
                some = PictureHash(shard.signs[start:stop], shard.colours[start:stop])
                found = same_pictures(PictureHash(table.signs, table.colours), some)
                for one, other, agreement, difference in zip(*(part.tolist() for part in found), strict=True):
                    row = {"how": "same picture", "agreement": agreement, "colour_difference": difference}
                    equal.setdefault((table.keys[one], shard.keys[start + other]), row)
        rows += [{"test": test_key, "training": key, **row} for (test_key, key), row in sorted(equal.items())]
    return sorted(rows, key=lambda row: (row["test"], row["training"])), pictures
