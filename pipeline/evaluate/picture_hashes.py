"""Hashes of a data set's pictures, made once per data set and kept.

Reads ``scenes``; writes ``picture_hashes``. No part of the dataflow: the overlap audit makes what it needs.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace

from PIL import Image

from ovseg_models.image_input import stored_rgb
from ovseg_models.picture_hash import picture_hash
from pipeline.graph import Node, ParameterCounts, Step
from pipeline.ordered_threads import in_threads, use_threads
from pipeline.settings import ComputeSettings
from pipeline.shard_runner import Execution, StageReport
from pipeline.stage_names import StageName
from pipeline.stored_pictures import UndecodableError, decoding, upright
from pipeline.worker_device import WorkerCompute
from storage_schemas import picture_hashes
from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.digests import Json
from storage_schemas.manifest import Sidecar
from storage_schemas.scenes import Scene, SceneShard

_DRAFT_PX = 64  # decoders of JPEG halve a picture cheaply while both sides stay above this
_ROW_BYTES = 600


@dataclass(frozen=True)
class HashPictures(Step):
    """Hashes each picture of a data set."""

    compute: ComputeSettings

    kind = picture_hashes.KIND
    schema_version = picture_hashes.SCHEMA_VERSION
    producer_version = 1
    stage: StageName = "evaluate"
    computes = False

    def fingerprint(self, node: Node) -> Mapping[str, Json]:
        """Return nothing: hashes follow from the pictures alone."""
        del node
        return {}

    def job(self, node: Node) -> "HashPicturesJob":
        """Return what hashes a shard."""
        return HashPicturesJob(node["scenes"].artifact, WorkerCompute.of(self.compute))

    def make(self, node: Node, execution: Execution) -> StageReport:
        """Hash what is not hashed; pictures that cannot be read are rows, and never end the evaluation."""
        limits = replace(execution.limits, max_failed_share=1.0)
        return replace(execution, limits=limits, reports=[]).run(self.job(node), node.artifact)

    def size_bytes(self, counts: ParameterCounts, scenes: int) -> int:
        """Return what rows of hashes take."""
        del counts
        return scenes * _ROW_BYTES


@dataclass(frozen=True, slots=True)
class HashPicturesJob:
    """Hashes the pictures of a shard."""

    scenes: Artifact
    compute: WorkerCompute

    def open(self) -> None:
        """Set the threads that decode."""
        use_threads(self.compute.decode_threads, processes=self.compute.processes)

    def run(self, state: None, artifact: Artifact, unit: str) -> Sidecar:
        """Make one shard."""
        del state
        shard = SceneShard(self.scenes, unit)
        with artifact.write_unit(unit) as writer:
            rows = list(in_threads(hash_row, shard.scenes(labels=False)))
            return picture_hashes.write_picture_hashes(writer, rows)


def hash_row(scene: Scene) -> dict[str, object]:
    """Hash a scene's picture, or say why that is not possible."""
    if scene.status != OK:
        return {"key": scene.key, "status": scene.status, "reason": scene.reason}
    try:
        with decoding(), Image.open(io.BytesIO(scene.image)) as stored:
            stored.draft("RGB", (_DRAFT_PX, _DRAFT_PX))  # of JPEG alone: an eighth of the sides, a third of the time
            image = upright(stored_rgb(stored), scene.exif_orientation)
    except UndecodableError as error:
        return {"key": scene.key, "status": "image_unreadable", "reason": f"the picture {error}"}
    found = picture_hash(image)
    return {
        "key": scene.key,
        "status": OK,
        "reason": "",
        "file_sha256": hashlib.sha256(scene.image).digest(),
        "signs": found.signs.tobytes(),
        "colours": found.colours.tobytes(),
    }
