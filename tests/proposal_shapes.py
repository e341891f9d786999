"""Masks as a trained proposal net gives them: blobs of all sizes with soft edges and sure insides."""

import torch


def ellipse_logits(count: int, height_px: int, width_px: int, *, seed: int = 0) -> torch.Tensor:
    """Draw mask logits of ellipses, from a few hundredths of the picture's side to most of it.

    They lie at stride 4 of the size padded to a multiple of 32, within -9 to 9, with edges of about 10 px.
    """
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(count, 2, generator=generator)
    radii = 0.03 + 0.45 * torch.rand(count, 2, generator=generator) ** 2
    height, width = 8 * -(-height_px // 32), 8 * -(-width_px // 32)
    lines = ((torch.arange(height) + 0.5) / height)[:, None]
    columns = (torch.arange(width) + 0.5) / width
    inside = torch.stack(
        [
            1 - (((lines - y) / b) ** 2 + ((columns - x) / a) ** 2).sqrt()
            for (y, x), (a, b) in zip(centres, radii, strict=True)
        ]
    )
    return (160 * radii.mean(dim=1)[:, None, None] * inside).clamp(-9, 9)
