"""Losses that hold a CLIP which is trained to the one that it was: what it says, or where its embeddings lie."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ovseg_models.precision import full_precision

_TEMPERATURE = 100.0


def similarity_holding_loss(
    tuned: Float[Tensor, "picture dim"], original: Float[Tensor, "picture dim"], texts: Float[Tensor, "text dim"]
) -> Float[Tensor, ""]:
    """Compare what both CLIPs say of unmasked pictures: MAFT's distillation.

    L = mean over pictures and texts of h(p - q), p and q the softmax over the texts of 100 times the cosines of the
    tuned and of the original, h(d) = d²/2 (SmoothL1, of which differences of probabilities never leave the square).

    Args:
        tuned: L2-normalised embeddings of the CLIP that is trained.
        original: Those of the same pictures by the original.
        texts: L2-normalised embeddings of names.

    References:
        Jiao et al., 2023 (MAFT), whose pictures are whole ones and whose names are the training classes.
    """
    with full_precision(tuned.device):
        names = _TEMPERATURE * texts.float().T
        said, before = (tuned.float() @ names).softmax(dim=1), (original.float() @ names).softmax(dim=1)
        return functional.smooth_l1_loss(said, before)


def embedding_holding_loss(
    tuned: Float[Tensor, "region dim"], original: Float[Tensor, "region dim"]
) -> Float[Tensor, ""]:
    """Compare where both CLIPs put a region: the mean of 1 - cosine.

    Args:
        tuned: L2-normalised embeddings of masked crops by the CLIP that is trained.
        original: Those of the unmasked crops of the same regions by the original.

    References:
        Wu et al., 2024 (CLIPSelf), whose student sees regions in a map of the whole picture.
    """
    return (1 - (tuned.float() * original.float()).sum(dim=1)).mean()
