"""Which scene a picture of a source of masks is: by its id, or by its name."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

from pipeline.prepare.data_root import composed
from storage_schemas.artifact import Artifact
from storage_schemas.scenes import SCHEMA
from storage_schemas.tables import read_table


class ScenePictures:
    """The scenes of an artifact, numbered through its shards, and found by what others call their pictures.

    Args:
        scenes: Finished.
    """

    def __init__(self, scenes: Artifact) -> None:
        self._paths: list[PurePosixPath] = []
        self._of_id: dict[str, int] = {}
        self._of_stem: dict[str, list[int]] = defaultdict(list)
        self.first_of_unit: dict[str, int] = {}
        for unit in scenes.description.units:
            self.first_of_unit[unit] = len(self._paths)
            index = read_table(scenes.directory / f"{unit}.parquet", SCHEMA, columns=["key", "image_id", "source_path"])
            for key, image_id, source_path in zip(*(column.to_pylist() for column in index.columns), strict=True):
                path = PurePosixPath(composed(source_path or key))
                number = len(self._paths)
                self._paths.append(path)
                self._of_id.setdefault(image_id, number)
                for stem in dict.fromkeys((path.stem, key, image_id)):
                    self._of_stem[stem].append(number)

    def __len__(self) -> int:
        return len(self._paths)

    def by_id(self, image_id: object) -> int | None:
        """Return the number of the scene with the data set's own id, a number or a text."""
        found = self._of_id.get(str(image_id))
        return self.by_name(image_id) if found is None and isinstance(image_id, str) else found

    def by_name(self, name: str) -> int | None:
        """Return the number of the scene whose picture has this file name or path, or this stem.

        Of several with one stem it is the one whose path agrees, from its end, in more parts than that of any other.
        """
        path = PurePosixPath(composed(name.replace("\\", "/")))
        numbers = self._of_stem.get(path.stem) or self._of_stem.get(path.name) or ()
        if len(numbers) < 2:
            return numbers[0] if numbers else None
        agreeing = [_common_end(path.with_suffix("").parts, self._paths[one].with_suffix("").parts) for one in numbers]
        most = max(agreeing)
        return numbers[agreeing.index(most)] if agreeing.count(most) == 1 else None

    def names(self, count: int) -> list[str]:
        """Return the names of the first pictures, for messages."""
        return [str(path) for path in self._paths[:count]]


def _common_end(one: Sequence[str], other: Sequence[str]) -> int:
    """Count the parts at the end that two paths share."""
    shared = 0
    for mine, theirs in zip(reversed(one), reversed(other), strict=False):
        if mine != theirs:
            break
        shared += 1
    return shared
