"""Scenes that several tests read."""

import pytest

from storage_schemas.scene_collection import SceneCollection
from tests.pipeline.planned import prepare_scenes, scenes_of
from tests.pipeline.train_proposals.tiny_training import tiny_settings


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SceneCollection:
    """Ten labelled scenes of 64 px in two shards."""
    settings = tiny_settings(tmp_path_factory.mktemp("scenes"))
    prepare_scenes(settings, ["train"])
    return SceneCollection(scenes_of(settings, "train"), labelled=True)
