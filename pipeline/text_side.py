"""What stage 3 may train of what crops are compared with, beside CLIP: weights of sentences, or tokens before names.

*Weights of sentences* act on similarities alone: S = scale * sum_t a_t <image, sentence t of the noun>, a number for
each of T sentences. CLIP's embeddings stay as they are, or the image tower learns slowly beside. With one sentence that
is a temperature. *Tokens before names* take the place of a sentence's words, in the space of token embeddings.

References:
    MaskCLIP++ (arXiv 2412.11464), whose affine map of similarities has a number for each sentence, and a bias; a bias
    has no place in a softmax over classes. SimBaseline (arXiv 2112.14757), whose prompts are learned on seen classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovseg_models.text_classifier import TextClassifier, encode_prompted_texts
from pipeline.clip_loading import LoadedClip
from pipeline.errors import PipelineError
from storage_schemas.artifact import Artifact
from storage_schemas.checkpoints import TEMPLATE_WEIGHTS, TEXT_PROMPTS, read_weights
from storage_schemas.digests import Json

_NAMES_AT_ONCE = 256

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TemplateWeights:
    """What was trained.

    Attributes:
        templates: The sentences.
        weights: A factor for each [sentence].
        scale: The model's factor on cosines, exp(logit_scale).
    """

    templates: tuple[str, ...]
    weights: Vectors
    scale: float

    unit: ClassVar[str] = TEMPLATE_WEIGHTS

    @classmethod
    def trained(cls, templates: tuple[str, ...], weights: Tensor, logit_scale: Tensor) -> "TemplateWeights":
        """Take the weights at the end of a training."""
        return cls(templates, weights.detach().cpu().numpy().copy(), float(logit_scale.detach().exp()))

    @classmethod
    def of(cls, artifact: Artifact) -> "TemplateWeights | None":
        """Read those of a finished ``adapted_clip``; None if it was trained without."""
        if TEMPLATE_WEIGHTS not in artifact.description.units:
            return None
        (facts,) = (unit.facts for unit in artifact.manifest().units if unit.unit == TEMPLATE_WEIGHTS)
        stored: Any = facts
        tensors = read_weights(artifact, TEMPLATE_WEIGHTS)
        return cls(tuple(stored["templates"]), tensors["template_weights"], float(stored["scale"]))

    def facts(self) -> dict[str, Json]:
        """Return what `of` reads beside the weights."""
        return {"templates": list(self.templates), "scale": self.scale}

    @property
    def temperature(self) -> float | None:
        """The factor on cosines that one sentence's weight is; None of several, which are no factor on them."""
        return self.scale * float(self.weights[0]) if len(self.templates) == 1 else None

    def class_vectors(
        self, base: LoadedClip, names: Sequence[str], templates: Sequence[str], device: torch.device
    ) -> Tensor:
        """Return the weighted sums of the sentences of each name; S is scale times their products [class dim].

        Args:
            base: The CLIP, whose text tower no stage trains.
            names: Of the classes.
            templates: Sentences that classes are named by; the weighted ones are expected.
            device: Where names are embedded.

        Raises:
            PipelineError: If classes are named by other sentences.
        """
        if tuple(templates) != self.templates:
            raise PipelineError(
                f"evaluate.prompt_templates: CLIP was finetuned with a weight for each of {len(self.templates)} "
                f"sentences, and classes are named by {len(templates)} others; set it to finetune.prompt_templates"
            )
        sentences = torch.from_numpy(sentence_embeddings(base, names, self.templates, device)).to(device)
        return torch.einsum("nsd,s->nd", sentences, torch.from_numpy(self.weights).to(device))


@dataclass(frozen=True)
class TextPrompts:
    """Tokens before each name.

    Attributes:
        weights: The tokens [prompt width].
    """

    weights: Vectors

    unit: ClassVar[str] = TEXT_PROMPTS
    temperature: ClassVar[None] = None

    @classmethod
    def of(cls, artifact: Artifact) -> "TextPrompts | None":
        """Read those of a finished ``adapted_clip``; None if it was trained without."""
        if TEXT_PROMPTS not in artifact.description.units:
            return None
        return cls(read_weights(artifact, TEXT_PROMPTS)[TEXT_PROMPTS])

    def facts(self) -> dict[str, Json]:
        """Return nothing: the tokens say all."""
        return {}

    @torch.no_grad()
    def class_vectors(self, base: LoadedClip, names: Sequence[str], device: torch.device) -> Tensor:
        """Embed names with the tokens before them, L2-normalised [name dim].

        Raises:
            PipelineError: If a name is too long to have them.
        """
        clip, prompts = base.clip.to(device), torch.from_numpy(self.weights).to(device)
        tokens = base.tokenize(list(names)).to(device)
        parts = tokens.split(_NAMES_AT_ONCE)
        try:
            return torch.cat([encode_prompted_texts(clip, part, prompts) for part in parts])
        except ValueError as error:
            longest = max(names, key=len)
            raise PipelineError(f"class names: {error}, or shorten names such as {longest!r:.80}") from error


TextSide: TypeAlias = TemplateWeights | TextPrompts


def text_side_of(artifact: Artifact) -> TextSide | None:
    """Read what a finished ``adapted_clip`` has of the text side; None for nothing."""
    return TemplateWeights.of(artifact) or TextPrompts.of(artifact)


def sentence_embeddings(
    clip: LoadedClip, names: Sequence[str], templates: Sequence[str], device: torch.device
) -> Vectors:
    """Embed names in each sentence by itself, L2-normalised [name sentence dim]."""
    classifier = TextClassifier(clip.clip.to(device), clip.tokenize, name_by_name=device.type == "cpu")
    return torch.stack([classifier.text_embeddings(names, (one,)) for one in templates], dim=1).cpu().numpy()
