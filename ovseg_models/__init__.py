"""Models of open-vocabulary segmentation with mask-adapted CLIP: tensors in, tensors out.

``from ovseg_models import Segmenter`` is all that an application needs. Names are imported when they are asked for, so
that importing one module of this package doesn't load all of them.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovseg_models.class_names import Vocabulary
    from ovseg_models.encoding import EncodedImage
    from ovseg_models.memory import Memory
    from ovseg_models.segmentation import MaskRow, Segment, Segmentation
    from ovseg_models.segmenter import Segmenter
    from ovseg_models.segmenter_settings import SegmenterSettings

    __version__: str

__all__ = [
    "EncodedImage",
    "MaskRow",
    "Memory",
    "Segment",
    "Segmentation",
    "Segmenter",
    "SegmenterSettings",
    "Vocabulary",
    "__version__",
]

_MODULES = {
    "EncodedImage": "encoding",
    "MaskRow": "segmentation",
    "Memory": "memory",
    "Segment": "segmentation",
    "Segmentation": "segmentation",
    "Segmenter": "segmenter",
    "SegmenterSettings": "segmenter_settings",
    "Vocabulary": "class_names",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name == "__version__":
        try:
            return importlib.metadata.version("ovseg-pipeline")
        except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
            return "unknown"
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names for tab completion, and the modules that are loaded."""
    return sorted({*globals(), *__all__})
