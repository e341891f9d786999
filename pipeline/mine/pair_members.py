"""The pictures of a pair: the box of its region, not masked, and the mask inside the box."""

import io
import zlib
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from pipeline.mine.regions import NetSize, net_picture
from pipeline.settings import PairSettings
from storage_schemas.pairs import Pair
from storage_schemas.rle import decode_masks
from storage_schemas.scenes import Scene

_JPEG_QUALITY = 95  # Pillow advises against more: files grow, and pixels hardly change
_PNG_LEVEL = 1  # higher ones take several times as long and save a tenth on photographs


@dataclass(frozen=True, slots=True)
class RegionCutter:
    """Cuts regions out of one picture; a region that serves several nouns is encoded once.

    Attributes:
        picture: As the proposal net saw it, RGB.
        settings: How crops are encoded.
    """

    picture: Image.Image
    settings: PairSettings
    _encoded: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)

    @classmethod
    def of(cls, scene: Scene, size: NetSize, settings: PairSettings) -> "RegionCutter":
        """Decode a scene's picture.

        Raises:
            UndecodableError: If its bytes are damaged.
        """
        return cls(net_picture(scene, size), settings)

    def completed(self, pair: Pair) -> Pair:
        """Return a pair with its crop and mask; one without a region comes back as it is."""
        if pair.region is None or pair.mask_counts is None or pair.box_xyxy is None:
            return pair
        if pair.region not in self._encoded:
            left, top, right, bottom = pair.box_xyxy
            mask = decode_masks([pair.mask_counts], pair.height_px, pair.width_px)[0, top:bottom, left:right]
            self._encoded[pair.region] = self._crop(pair.box_xyxy), _png(Image.fromarray(mask.astype(np.uint8) * 255))
        crop, mask_png = self._encoded[pair.region]
        return replace(pair, crop=crop, crop_mask_png=mask_png, crop_suffix=self.settings.crop_format)

    def _crop(self, box_xyxy: tuple[int, int, int, int]) -> bytes:
        """Encode a box of the picture."""
        crop = self.picture.crop(box_xyxy)
        if self.settings.crop_format == "png":
            return _png(crop)
        buffer = io.BytesIO()
        crop.save(buffer, format="JPEG", quality=_JPEG_QUALITY, subsampling=0)
        return buffer.getvalue()


def _png(image: Image.Image) -> bytes:
    """Encode losslessly, for speed."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=_PNG_LEVEL, compress_type=zlib.Z_DEFAULT_STRATEGY)
    return buffer.getvalue()
