"""The net that stage 1 starts from, and the vocabulary in whose embeddings it learns to answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ovseg_models.prompt_templates import prompt_templates
from ovseg_models.proposal_net import ProposalNet
from ovseg_models.proposal_presets import build_proposal_net
from ovseg_models.text_classifier import TextClassifier
from ovseg_models.weights_digest import text_tower_weights
from ovseg_models.weights_file import read_weights_file
from pipeline.clip_loading import LoadedClip
from pipeline.errors import PipelineError
from pipeline.settings import ProposalNetSettings
from pipeline.train_proposals.initial_weights import initial_weights_file
from pipeline.training.data_order import torch_seed


@dataclass(frozen=True)
class TextTower:
    """What stage 1 takes from CLIP.

    Attributes:
        width: Of the text transformer; it scales the no-object embedding at the start.
        classifier: Embeds class names.
    """

    width: int
    classifier: TextClassifier

    @classmethod
    def of(cls, loaded: LoadedClip, device: torch.device) -> "TextTower":
        """Take the text tower of a loaded CLIP, which is moved to a device."""
        (tokens,) = (
            tensor
            for name, tensor in text_tower_weights(loaded.clip).items()
            if name.endswith("token_embedding.weight")
        )
        return cls(tokens.shape[1], TextClassifier(loaded.clip.to(device), loaded.tokenize))

    def embeddings(self, class_names: Sequence[str], templates: str) -> Float[Tensor, "name dim"]:
        """Embed class names in the sentences that a setting names; L2-normalised, without gradient."""
        return self.classifier.text_embeddings(class_names, prompt_templates(templates)).detach()


def initial_net(settings: ProposalNetSettings, *, embedding_dim: int, text_width: int) -> ProposalNet:
    """Build the net as training finds it: random but for what the settings name.

    Args:
        settings: Of stage 1.
        embedding_dim: Of CLIP's space.
        text_width: Of CLIP's text transformer.

    Returns:
        A net in training mode on the CPU, the same for equal settings.

    Raises:
        PipelineError: If the backbone is unknown, or weights are not to be had or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(settings.training.seed, "initial net"))
        try:
            net = build_proposal_net(
                **settings.architecture.arguments(), embedding_dim=embedding_dim, no_object_std=text_width**-0.5
            )
        except (ValueError, OSError, RuntimeError) as error:
            message = f"proposal_net.architecture: {error}"
            raise PipelineError(message) from error
    start = initial_weights_file(settings)
    if start is not None:
        _load_whole(net, start)
    return net


def _load_whole(net: ProposalNet, path: Path) -> None:
    """Fill a net from a file.

    Raises:
        PipelineError: If it cannot be read, or is of another architecture.
    """
    try:
        net.load_state_dict({name: tensor.float() for name, tensor in read_weights_file(path).items()})
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        message = f"proposal_net.initial_weights: {path} does not fit proposal_net.architecture ({reason}); change one"
        raise PipelineError(message) from error
