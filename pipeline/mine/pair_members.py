"""The pictures of a pair: the box of its region, not masked, and the mask inside the box."""

import io
import zlib
from dataclasses import dataclass, field, replace

from PIL import Image

from pipeline.mine.regions import NetSize, net_picture
from pipeline.settings import PairSettings
from storage_schemas.pairs import Pair
from storage_schemas.rle import decode_masks
from storage_schemas.scenes import Scene

_JPEG_QUALITY = 95  # Pillow advises against more: files grow, and pixels hardly change
_PNG_LEVEL = 1  # higher ones take several times as long and save a tenth on photographs
_SMALL_SIDE_PX = 256  # of "jpg-256": a random window of nine tenths of it still has CLIP's 224 px


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
            self._encoded[pair.region] = self._files(self.picture.crop(pair.box_xyxy), Image.fromarray(mask))
        crop, mask_png = self._encoded[pair.region]
        suffix = "png" if self.settings.crop_format == "png" else "jpg"
        return replace(pair, crop=crop, crop_mask_png=mask_png, crop_suffix=suffix)

    def _files(self, crop: Image.Image, mask: Image.Image) -> tuple[bytes, bytes]:
        """Encode a crop and its mask, of one size."""
        short_side = min(crop.size)
        if self.settings.crop_format == "jpg-256" and short_side > _SMALL_SIDE_PX:
            width, height = (round(side * _SMALL_SIDE_PX / short_side) for side in crop.size)
            crop = crop.resize((width, height), Image.Resampling.BICUBIC)
            mask = _smaller_mask(mask, width, height)
        buffer = io.BytesIO()
        if self.settings.crop_format == "png":
            # Most of a photograph has no equal strings further back: to look for them takes a third of the time, and
            # the files are a tenth larger and slower to decode.
            crop.save(buffer, format="PNG", compress_level=_PNG_LEVEL, compress_type=zlib.Z_RLE)
        else:
            crop.save(buffer, format="JPEG", quality=_JPEG_QUALITY, subsampling=0)
        mask_png = io.BytesIO()
        mask.convert("L").save(mask_png, "PNG", compress_level=_PNG_LEVEL, compress_type=zlib.Z_DEFAULT_STRATEGY)
        return buffer.getvalue(), mask_png.getvalue()


def _smaller_mask(mask: Image.Image, width_px: int, height_px: int) -> Image.Image:
    """Shrink a mask by the nearest pixels; one so thin that none is hit keeps what it touches."""
    smaller = mask.resize((width_px, height_px), Image.Resampling.NEAREST)
    if smaller.getbbox() is None:
        shares = mask.convert("L").resize((width_px, height_px), Image.Resampling.BOX)
        smaller = shares.point(lambda value: 255 * (value > 0))
    return smaller
