"""Models of open-vocabulary segmentation with mask-adapted CLIP: tensors in, tensors out.

``from ovseg_models import Segmenter`` is all that an application needs. It is imported when it is asked for, so that
importing one module of this package doesn't load all of them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovseg_models.segmenter import Segmenter

__all__ = ["Segmenter"]


def __getattr__(name: str) -> Any:
    """Import `Segmenter` at its first use."""
    if name != "Segmenter":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ovseg_models.segmenter import Segmenter

    return Segmenter
