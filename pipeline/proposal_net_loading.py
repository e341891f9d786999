"""A proposal net as an artifact: written by stage 1, read by every stage after it."""

from collections.abc import Mapping
from typing import Any

import torch

from ovseg_models.proposal_net import ProposalNet
from ovseg_models.proposal_presets import build_proposal_net
from pipeline.errors import PipelineError
from storage_schemas.artifact import Artifact
from storage_schemas.checkpoints import PROPOSAL_NET, WEIGHTS, read_weights, write_weights
from storage_schemas.digests import Json
from storage_schemas.manifest import Sidecar


def write_proposal_net(artifact: Artifact, net: ProposalNet, facts: Mapping[str, Json]) -> Sidecar:
    """Write a net as the unit of weights; the artifact has to be held for writing.

    Args:
        artifact: Of kind ``proposal_net``.
        net: Built by `build_proposal_net`, on any device.
        facts: What else is known of it, such as what it was trained on; ``"arguments"`` is added.

    Raises:
        ValueError: If the net was not built from arguments.
        WriteError: If the operating system refuses.
    """
    if not net.arguments:
        raise ValueError("write_proposal_net: the net has no arguments to be built again from; use build_proposal_net")
    tensors = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in net.state_dict().items()}
    arguments: Any = net.arguments
    return write_weights(artifact, WEIGHTS, tensors, {**facts, "arguments": arguments})


def load_proposal_net(artifact: Artifact, device: str | torch.device = "cpu") -> ProposalNet:
    """Build the net of a finished artifact, in evaluation mode.

    Args:
        artifact: Of kind ``proposal_net``.
        device: Where to put it.

    Raises:
        PipelineError: If the artifact is of another kind, or its weights don't fit the net that its facts describe.
        ArtifactError: If it is not finished, or a file of it is not what was written.
    """
    if artifact.identity.kind != PROPOSAL_NET:
        message = f"{artifact.directory}: is an artifact of {artifact.identity.kind}, one of {PROPOSAL_NET} is expected"
        raise PipelineError(f"{message}; give the directory of one")
    (facts,) = (unit.facts for unit in artifact.manifest().units if unit.unit == WEIGHTS)
    arguments: Any = facts["arguments"]
    tensors = {name: torch.from_numpy(array) for name, array in read_weights(artifact, WEIGHTS).items()}
    try:
        net = build_proposal_net(**arguments)
        net.load_state_dict(tensors)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        message = f"{artifact.directory}: its weights do not fit this version's net ({reason}); train it again"
        raise PipelineError(message) from error
    return net.eval().to(device)
