"""The index of mined pairs: the embedding of each in a file that is mapped into memory, and what it is the pair of.

A folder of ``vectors.npy`` (half precision [pair dim]), ``pairs.parquet`` (one row per pair, in the same order) and
``index.json``, which states by digests what it was made of and which CLIP embedded the pairs. Reads ``pairs`` and,
where the same CLIP mined them, the stored ``embeddings``: no picture goes through a model then.
"""

import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ovseg_models.encoding import cut_regions, embed_crops
from ovseg_models.neighbours import Neighbour, mapped_vectors, nearest_rows
from ovseg_models.segmenter import Segmenter
from pipeline.errors import PipelineError
from pipeline.scenes_of_pairs import with_digest
from pipeline.stored_pictures import pair_pictures
from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK, column
from storage_schemas.embeddings import KIND as EMBEDDINGS
from storage_schemas.embeddings import read_embeddings
from storage_schemas.errors import SchemaError
from storage_schemas.pairs import KIND, SCHEMA_VERSION, read_index, read_members
from storage_schemas.tables import TableSchema, TableWriter, read_table

logger = logging.getLogger(__name__)

FORMAT, VERSION = "ovseg-pair-index", 1
VECTORS, ROWS, FACTS = "vectors.npy", "pairs.parquet", "index.json"
SCHEMA = TableSchema(
    "pair_index",
    VERSION,
    pa.schema(
        [
            column("unit", pa.string(), "Shard of the pair."),
            column("row", pa.int32(), "Its row in the shard's table."),
            column("pair", pa.string(), "Name of the pair."),
            column("noun", pa.string(), "Its noun."),
            column("noun_start", pa.int32(), "First character of the noun in the caption.", null=True),
            column("noun_end", pa.int32(), "One past its last character.", null=True),
            column("caption", pa.string(), "Text that names it; null for class names.", null=True),
            column("score", pa.float32(), "Cosine of mask and noun when it was mined.", null=True),
        ]
    ),
)
_OF_PAIRS = ("pair", "key", "region", "status", "noun", "noun_start", "noun_end", "caption", "score")
_SAME_COSINE, _TRIED = 0.999, 16
_BATCH, _DIMMED = 64, 0.45


@dataclass(frozen=True)
class PairIndex:
    """An index that can be searched.

    Attributes:
        folder: Where it is.
        facts: What ``index.json`` states.
        pairs: The pairs, of which pictures are read.
    """

    folder: Path
    facts: dict[str, Any]
    pairs: Artifact

    @classmethod
    def open(cls, folder: Path, pairs: Path | None = None) -> "PairIndex":
        """Open an index.

        Args:
            pairs: Directory of the pairs, where it is not where the index was made beside.

        Raises:
            PipelineError: If it is none, damaged, or the pairs are other ones.
        """
        try:
            facts = json.loads((folder / FACTS).read_bytes())
            if (facts["format"], facts["version"]) != (FORMAT, VERSION):
                raise PipelineError(f"{folder / FACTS}: is of another format or version; make the index again")
            place, manifest, size = facts["pairs_directory"], facts["pairs"], (facts["rows"], facts["dim"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PipelineError(
                f"{folder}: is no index of pairs ({error!r}); make one by 'ovseg pairs index'"
            ) from error
        artifact = Artifact.open(pairs if pairs is not None else folder / place, kind=KIND)
        if artifact.manifest().digest() != manifest:
            raise PipelineError(
                f"{artifact.directory}: has the digest {artifact.manifest().digest()[:12]}, the index {folder} was "
                f"made of pairs {manifest[:12]}; make the index again"
            )
        index = cls(folder, facts, artifact)
        if index.vectors.shape != size or index._rows.num_rows != size[0]:
            raise PipelineError(
                f"{folder}: has vectors {index.vectors.shape} and {index._rows.num_rows} rows, {size} is stated; make "
                "the index again"
            )
        return index

    @property
    def space(self) -> str:
        """Digest of the CLIP that embedded the pairs."""
        return str(self.facts["space"])

    @cached_property
    def vectors(self) -> npt.NDArray[np.float16]:
        """The embeddings [pair dim], mapped into memory.

        Raises:
            PipelineError: If the file is missing or damaged.
        """
        try:
            return mapped_vectors(self.folder / VECTORS)
        except (OSError, ValueError) as error:
            raise PipelineError(str(error)) from error

    @cached_property
    def _rows(self) -> pa.Table:
        return read_table(self.folder / ROWS, SCHEMA).combine_chunks()

    def nearest(self, embedding: Float[Tensor, " dim"], count: int) -> list[Neighbour]:
        """Return the pairs that are nearest to an embedding, the nearest first."""
        found = []
        for row, similarity in nearest_rows(self.vectors, embedding, count):
            stored = {name: self._rows[name][row].as_py() for name in self._rows.column_names}
            caption, start, end = stored["caption"], stored["noun_start"], stored["noun_end"]
            marked = caption is not None and start is not None
            found.append(
                Neighbour(
                    pair=stored["pair"],
                    noun=stored["noun"],
                    caption=(caption[:start], caption[start:end], caption[end:])
                    if marked
                    else ("", stored["noun"], ""),
                    score=stored["score"],
                    similarity=similarity,
                    picture=self._picture(stored["unit"], stored["row"]),
                )
            )
        return found

    def _picture(self, unit: str, row: int) -> Image.Image:
        """Read the crop of a pair, dimmed outside its mask."""
        table = read_index(self.pairs, unit, columns=("crop", "crop_mask"))
        crop, inside = pair_pictures(next(read_members(self.pairs, unit, table, [row])))
        return Image.fromarray(np.where(inside[..., None], crop, (crop * np.float32(_DIMMED)).astype(np.uint8)))


def make_index(pairs: Artifact, segmenter: Segmenter, folder: Path) -> str:
    """Make the index of finished pairs for the CLIP of a segmenter; it appears when it is complete.

    Stored embeddings are taken where this CLIP made them, which is tried on a few pairs. A CLIP that was adapted since,
    or embeddings that are gone, take one crop of each pair through CLIP.

    Args:
        folder: Must not exist.

    Returns:
        Where the embeddings are from, in words.

    Raises:
        PipelineError: If the folder is there, there is no pair, or the segmenter sees no crops.
        WriteError: If the operating system refuses.
    """
    pairs.require(KIND, SCHEMA_VERSION)
    if folder.exists():
        raise PipelineError(f"{folder}: is there already, a new folder is expected; choose another name or delete it")
    if segmenter.settings.namer != "crops":
        raise PipelineError("pairs index: the segmenter names masks in one pass, pairs hold crops; use namer 'crops'")
    manifest = pairs.manifest().digest()
    tables = {unit: read_index(pairs, unit, columns=_OF_PAIRS) for unit in pairs.description.units}
    rows = [
        {"unit": unit, "row": row, **stored}
        for unit, table in tables.items()
        for row, stored in enumerate(table.to_pylist())
        if stored["status"] == OK
    ]
    if not rows:
        raise PipelineError(f"{pairs.directory}: holds no pair with status 'ok'; mine other scenes")
    stored_ones = _embeddings_of(pairs)
    vectors = None if stored_ones is None else _stored_vectors(stored_ones, rows)
    source = "stored embeddings"
    if vectors is None or not _made_by(segmenter, pairs, rows, vectors):
        logger.info("%s: %d crops go through CLIP, which did not mine them", folder, len(rows))
        vectors, source = np.concatenate(list(_embedded(segmenter, pairs, rows))), "crops"
    temporary = folder.parent / f".tmp-{folder.name}-{secrets.token_hex(4)}"
    temporary.mkdir(parents=True)
    try:
        np.save(temporary / VECTORS, vectors)
        with (temporary / ROWS).open("wb") as file, TableWriter(file, SCHEMA) as table:  # type: ignore[arg-type]
            table.write_rows([{name: row[name] for name in SCHEMA.columns.names} for row in rows])
        facts = {
            "format": FORMAT,
            "version": VERSION,
            "space": segmenter.space,
            "rows": len(rows),
            "dim": vectors.shape[1],
            "pairs": manifest,
            "pairs_directory": os.path.relpath(pairs.directory.resolve(), folder.absolute()),
            "source": source,
            "embeddings": stored_ones.manifest().digest() if stored_ones is not None and source != "crops" else None,
        }
        (temporary / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return source


def _embeddings_of(pairs: Artifact) -> Artifact | None:
    """Return the embeddings from which pairs, or those that they were chosen from, were made; None if they are gone."""
    inputs, runs = pairs.identity.inputs, pairs.directory.parent.parent
    while "embeddings" not in inputs and "pairs" in inputs:
        whole = with_digest(runs, KIND, inputs["pairs"])
        inputs = whole.identity.inputs if whole is not None else {}
    return with_digest(runs, EMBEDDINGS, inputs["embeddings"]) if "embeddings" in inputs else None


def _stored_vectors(embeddings: Artifact, rows: Sequence[dict[str, Any]]) -> npt.NDArray[np.float16] | None:
    """Return the stored embedding of each pair [pair dim]; None if one is missing."""
    places = {(row["key"], row["region"]): place for place, row in enumerate(rows)}
    of_place: dict[int, npt.NDArray[np.float16]] = {}
    for unit in embeddings.description.units:
        for scene in read_embeddings(embeddings, unit):
            for region, status, vector in zip(scene.regions.tolist(), scene.statuses, scene.embeddings, strict=True):
                if status == OK and (scene.key, region) in places:
                    of_place[places[scene.key, region]] = vector
    by_region = [of_place.get(places[row["key"], row["region"]]) for row in rows]  # nouns may share a region
    known = [vector for vector in by_region if vector is not None]
    return np.stack(known) if len(known) == len(rows) else None


def _made_by(
    segmenter: Segmenter, pairs: Artifact, rows: Sequence[dict[str, Any]], vectors: npt.NDArray[np.float16]
) -> bool:
    """Return whether a segmenter's CLIP makes the stored embeddings of a few pairs."""
    tried = np.unique(np.linspace(0, len(rows) - 1, _TRIED).round().astype(np.int64))
    if vectors.shape[1] != segmenter.clip.embedding_dim:
        return False
    again = np.concatenate(list(_embedded(segmenter, pairs, [rows[place] for place in tried.tolist()])))
    cosines = (again.astype(np.float32) * vectors[tried].astype(np.float32)).sum(axis=1)
    return bool((cosines >= _SAME_COSINE).all())


def _embedded(
    segmenter: Segmenter, pairs: Artifact, rows: Sequence[dict[str, Any]]
) -> Iterator[npt.NDArray[np.float16]]:
    """Run the stored crops of pairs through CLIP, some at a time [pair dim]."""
    indexes: dict[str, pa.Table] = {}
    for start in range(0, len(rows), _BATCH):
        crops, patches = [], []
        for row in rows[start : start + _BATCH]:
            if row["unit"] not in indexes:  # rows are in order of their shards
                indexes = {row["unit"]: read_index(pairs, row["unit"], columns=("crop", "crop_mask"))}
            members = next(read_members(pairs, row["unit"], indexes[row["unit"]], [row["row"]]))
            pixels, mask = pair_pictures(members)
            picture = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
            cut = cut_regions(picture, torch.from_numpy(mask)[None].to(segmenter.device), segmenter.clip.crop)
            if len(cut.crops) != 1:
                raise SchemaError(f"{pairs.directory}: the mask of pair {row['pair']} is empty; mine the pairs again")
            crops.append(cut.crops)
            patches.append(cut.patch_mask)
        embeddings = embed_crops(
            segmenter.clip,
            torch.cat(crops),
            torch.cat(patches),
            use_mask_prompts=segmenter.settings.use_mask_prompts,
            at_once=segmenter.settings.clip_chunk,
        )
        yield embeddings.half().cpu().numpy()
