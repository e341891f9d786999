"""All readable scenes of an artifact as one numbered list, each of them one seek away."""

from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.errors import ArtifactError
from storage_schemas.scenes import Scene, SceneShard


class SceneCollection:
    """The scenes with status ``"ok"`` in order of shard and key, numbered from 0.

    Cheap to send to another process, which reads the indexes itself.

    Args:
        artifact: A finished artifact of scenes.
        labelled: Leave out scenes without a labelled pixel: those without a label map, and those that ignore all of it.
        captioned: Leave out scenes without a caption.
    """

    def __init__(self, artifact: Artifact, *, labelled: bool = False, captioned: bool = False) -> None:
        self.artifact = artifact
        self._labelled = labelled
        self._captioned = captioned

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(SceneCollection, labelled=self._labelled, captioned=self._captioned), (self.artifact,)

    def __len__(self) -> int:
        return len(self._places)

    def read(self, number: int, *, labels: bool = True) -> Scene:
        """Read one scene.

        Args:
            number: From 0.
            labels: Whether to read label and instance maps.

        Raises:
            CorruptUnitError: If the shard is shorter than its index says.
        """
        shard, row = self._places[number]
        scene: Scene = next(self._shards[shard].scenes([int(row)], labels=labels))
        return scene

    def place(self, number: int) -> tuple[str, str]:
        """Return the names of a scene's shard and of the scene, for messages."""
        shard, row = self._places[number]
        return self.artifact.description.units[shard], self._shards[shard].index["key"][int(row)].as_py()

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Number of each scene by its key."""
        keys = [shard.index["key"].to_pylist() for shard in self._shards]
        return {keys[shard][row]: number for number, (shard, row) in enumerate(self._places.tolist())}

    @cached_property
    def _shards(self) -> list[SceneShard]:
        return [SceneShard(self.artifact, unit) for unit in self.artifact.description.units]

    @cached_property
    def _places(self) -> npt.NDArray[np.int64]:
        """Number of the shard and row in it, per scene [scene 2].

        Raises:
            ArtifactError: If no scene is left.
        """
        places = []
        for number, shard in enumerate(self._shards):
            expected = np.array(shard.index["status"].to_pylist()) == OK
            if self._labelled:
                expected &= np.array([len(classes) > 0 for classes in shard.index["classes"].to_pylist()], np.bool_)
            if self._captioned:
                expected &= np.array([len(captions) > 0 for captions in shard.index["captions"].to_pylist()], np.bool_)
            rows = np.flatnonzero(expected)
            places.append(np.stack([np.full(len(rows), number), rows], axis=1))
        joined = np.concatenate(places).astype(np.int64)
        if len(joined) == 0:
            needs = (("a labelled pixel", self._labelled), ("a caption", self._captioned))
            parts = [name for name, asked in needs if asked]
            raise ArtifactError(
                f"{self.artifact.directory}: no scene has {' and '.join(parts) or 'a picture'}; correct the data set "
                "('ovseg prepare ... --check' reports what it holds), or choose another one"
            )
        return joined
