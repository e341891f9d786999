"""An audit of pairs: what comes next, what it looks like, and what was said of it.

Reads ``pairs`` and the ``scenes`` that they were mined from; writes the verdicts beside the pairs.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image
from scipy.ndimage import binary_dilation

from pipeline.audit.precision import Findings, findings
from pipeline.audit.sample import order_of_looking, strata_of
from pipeline.errors import PipelineError
from pipeline.stored_pictures import pair_pictures, upright_picture
from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.lock import held
from storage_schemas.pairs import KIND, SCHEMA_VERSION, read_index, read_members
from storage_schemas.rle import decode_masks
from storage_schemas.scenes import Scene, SceneShard
from storage_schemas.status import AUDIT_DIRECTORY
from storage_schemas.verdicts import NAMES, SKIP, Verdict, read_verdicts, write_verdicts

_SAMPLED = ("pair", "status", "noun", "score", "area_px", "height_px", "width_px")
_SHOWN = ("pair", "key", "noun", "noun_start", "noun_end", "caption", "score", "margin")
_DIMMED, _LINE_RGB, _PAPER_RGB = 0.45, (255, 64, 160), (128, 128, 128)
_SIDE_MAX_PX = 1280


class Audit:
    """An audit of finished pairs, to be used within `opened`.

    Args:
        pairs: Finished.
        scenes: Those that the pairs were mined from; None shows crops in place of pictures.
        count: Pairs to look at; those of which nothing can be said are replaced.
        seed: Of the draw.

    Raises:
        ArtifactError: If they are not finished, or there are verdicts on other pairs beside them.
        PipelineError: If there is no pair, or verdicts of another draw are there.
    """

    def __init__(self, pairs: Artifact, scenes: Artifact | None = None, *, count: int, seed: int = 0) -> None:
        pairs.require(KIND, SCHEMA_VERSION)
        self._artifact, self._scenes, self._count, self._seed = pairs, scenes, count, seed
        self._manifest = pairs.manifest().digest()
        tables = [read_index(pairs, unit, columns=_SAMPLED) for unit in pairs.description.units]
        places = [
            np.stack([np.full(table.num_rows, unit), np.arange(table.num_rows)], axis=1)
            for unit, table in enumerate(tables)
        ]
        whole = pa.concat_tables(tables)
        usable = pc.equal(whole["status"], OK)
        sampled = whole.filter(usable)
        if not sampled.num_rows:
            raise PipelineError(f"{pairs.directory}: none of {whole.num_rows} rows is a pair; mine other scenes")
        self._places = np.concatenate(places)[usable.to_numpy()]  # unit and row of each usable pair [pair 2]
        self._strata = strata_of(sampled, seed=seed)
        self._of_row = {row: stratum for stratum in self._strata for row in stratum.rows.tolist()}
        names = sampled["pair"].to_pylist()
        self._names, self._rows = names, {name: row for row, name in enumerate(names)}
        self._verdicts = {verdict.pair: verdict for verdict in read_verdicts(pairs)}
        for verdict in self._verdicts.values():
            if verdict.seed != seed:
                raise PipelineError(
                    f"{pairs.directory}: has verdicts of --seed {verdict.seed}, found --seed {seed}; give that seed "
                    f"to go on, or move {AUDIT_DIRECTORY}/ away"
                )

    @contextmanager
    def opened(self) -> Iterator["Audit"]:
        """Hold the audit: one person at a time writes verdicts on the same pairs.

        Raises:
            HeldError: If another process holds it.
        """
        with held(self._artifact.local_directory / AUDIT_DIRECTORY, wait_s=0):
            yield self

    @property
    def judged(self) -> int:
        """Pairs of which something was said."""
        return sum(verdict.verdict != SKIP for verdict in self._verdicts.values())

    @property
    def expected(self) -> int:
        """Pairs that are looked at in all."""
        return min(self._count, len(self._names))

    def next_pair(self) -> str | None:
        """Return the pair to look at next; None if none is left."""
        skipped = {self._rows[name] for name, given in self._verdicts.items() if given.verdict == SKIP}
        order = (self._names[row] for row in order_of_looking(self._strata, self._count, skipped))
        return next((name for name in order if name not in self._verdicts), None)

    def judge(self, pair: str, verdict: str) -> None:
        """Say something of a pair, or something else of one; it is on the disk when this returns.

        Raises:
            PipelineError: If there is no such pair or verdict.
            WriteError: If the operating system refuses; nothing is changed then.
        """
        if pair not in self._rows or verdict not in NAMES:
            raise PipelineError(f"audit: found {verdict!r} of {pair!r}; a pair of these and one of {NAMES} is expected")
        stratum = self._of_row[self._rows[pair]]
        given = Verdict(
            pair=pair,
            verdict=verdict,
            stratum=stratum.name,
            stratum_pairs=len(stratum.rows),
            seed=self._seed,
            manifest=self._manifest,
        )
        kept = {name: each for name, each in self._verdicts.items() if name != pair}
        self._write({**kept, pair: given})

    def undo(self) -> str | None:
        """Take the last verdict back and return its pair; None if there is none."""
        if not self._verdicts:
            return None
        *before, last = self._verdicts
        self._write({name: self._verdicts[name] for name in before})
        return last

    def _write(self, verdicts: dict[str, Verdict]) -> None:
        write_verdicts(self._artifact, list(verdicts.values()))
        self._verdicts = verdicts

    def findings(self) -> Findings | None:
        """Sum up what was said so far."""
        return findings(list(self._verdicts.values()))

    def shown(self, pair: str) -> dict[str, Any]:
        """Return what a page shows of a pair, beside its pictures: noun, caption in three parts, numbers, stratum.

        Raises:
            PipelineError: If there is no such pair.
        """
        index, row = self._index_and_row(pair)
        found = {name: index[name][row].as_py() for name in _SHOWN}
        caption, start, end = found["caption"], found["noun_start"], found["noun_end"]
        marked = caption is not None and start is not None
        parts = [caption[:start], caption[start:end], caption[end:]] if marked else ["", found["noun"], ""]
        return {**found, "caption": parts, "stratum": self._of_row[self._rows[pair]].name}

    def crop(self, pair: str) -> bytes:
        """Return a pair's crop as PNG, dimmed outside its mask."""
        pixels, mask = self._stored_crop(pair)
        return _png(_dimmed(pixels, mask))

    def picture(self, pair: str) -> bytes:
        """Return the picture of a pair as PNG: dimmed outside its mask, with a line around it.

        Where the scenes are not at hand, the crop lies in its place on a grey ground.

        Raises:
            PipelineError: If the picture is damaged or not among the scenes.
        """
        index, row = self._index_and_row(pair)
        height, width = (int(index[name][row].as_py()) for name in ("height_px", "width_px"))
        (mask,) = decode_masks([index["mask_counts"][row].as_py()], height, width)
        if self._scenes is None:
            left, top, right, bottom = index["box_xyxy"][row].as_py()
            pixels = np.empty((height, width, 3), np.uint8)
            pixels[:] = _PAPER_RGB
            pixels[top:bottom, left:right] = self._stored_crop(pair)[0]
        else:
            scene = self._scene(index["key"][row].as_py())
            pixels = np.array(upright_picture(scene).resize((width, height), Image.Resampling.BILINEAR))
        drawn = _dimmed(pixels, mask)
        thickness = 1 + max(height, width) // 640
        line = binary_dilation(mask, iterations=thickness) & ~mask
        drawn[line] = _LINE_RGB
        return _png(drawn)

    def _stored_crop(self, pair: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Decode what is stored of a pair: crop and mask."""
        index, row = self._index_and_row(pair)
        unit = self._artifact.description.units[self._places[self._rows[pair]][0]]
        return pair_pictures(next(read_members(self._artifact, unit, index, [row])))

    def _index_and_row(self, pair: str) -> tuple[pa.Table, int]:
        """Return the table in which a pair is, and its row."""
        if pair not in self._rows:
            raise PipelineError(f"audit: there is no pair {pair!r} in {self._artifact.directory}; load the page again")
        unit, row = self._places[self._rows[pair]].tolist()
        return self._index(unit), row

    @cached_property
    def _index(self) -> Any:
        return lru_cache(maxsize=4)(lambda unit: read_index(self._artifact, self._artifact.description.units[unit]))

    def _scene(self, key: str) -> Scene:
        """Read the scene of a pair."""
        if self._scenes is None or key not in self._scene_places:
            raise PipelineError(f"audit: scene {key!r} is not in the scenes; give those of the pairs by --scenes")
        unit, row = self._scene_places[key]
        return next(SceneShard(self._scenes, unit).scenes([row], labels=False))

    @cached_property
    def _scene_places(self) -> dict[str, tuple[str, int]]:
        """Shard and row of each scene."""
        units = self._scenes.description.units if self._scenes is not None else ()
        indexes = {unit: SceneShard(cast("Artifact", self._scenes), unit).index["key"].to_pylist() for unit in units}
        return {key: (unit, row) for unit, keys in indexes.items() for row, key in enumerate(keys)}


def _dimmed(pixels: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Darken what is outside a mask [height width 3]."""
    return np.where(mask[..., None], pixels, (pixels * np.float32(_DIMMED)).astype(np.uint8))


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Write pixels as PNG, no larger than a screen."""
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE_MAX_PX, _SIDE_MAX_PX))
    data = io.BytesIO()
    image.save(data, format="PNG", compress_level=1)
    return data.getvalue()
