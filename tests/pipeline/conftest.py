"""Pairs of a few drawn scenes, mined once for the modules that only read them."""

import pytest

from pipeline.stages import run
from tests.pipeline.mine.mining_world import mining_settings


@pytest.fixture(scope="session")
def drawn_pairs(tmp_path_factory):
    """Pairs of ground-truth masks with the nouns of five captions' scenes: no proposal net is needed."""
    return run(
        "mine", mining_settings(tmp_path_factory.mktemp("drawn"), "mine.source=masks-1-caption", scenes=6)
    ).artifact
