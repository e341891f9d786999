"""A CLIP small enough to be run hundreds of times."""

import pytest


@pytest.fixture
def tiny_clip_config() -> dict:
    """open_clip's configuration of 4 layers, 16 px crops in 4 x 4 patches, and 2 layers for open_clip's tokens."""
    return {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "patch_size": 4, "width": 16, "head_width": 8, "layers": 4},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 2},
    }
