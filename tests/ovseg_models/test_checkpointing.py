"""What is computed again in the backward pass gives the same bits as what is kept, with less to keep."""

import copy

import pytest
import torch

from ovseg_models.checkpointing import Blocks
from ovseg_models.proposal_losses import proposal_losses
from ovseg_models.proposal_presets import build_proposal_net
from ovseg_models.targets import Targets
from tests.tiny_segmenter import PROPOSAL_NET

SWIN = {"embed_dim": 8, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8), "window_size": 4}
BACKBONES = {
    "swin": ("swin_tiny_patch4_window7_224", {"timm_arguments": SWIN, "drop_path_rate": 0.3}),
    "resnet with batch norms that train": ("resnet10t", {"timm_arguments": {"channels": [8, 8, 8, 8]}}),
    "resnet with frozen ones": ("resnet10t", {"freeze_at": 2, "frozen_batch_norm": True}),
    "timm's own switch": ("convnext_atto", {"timm_arguments": {"depths": (1, 1, 2, 1), "dims": (8, 8, 8, 8)}}),
}


def trained_once(net: torch.nn.Module, *, checkpointing: bool) -> tuple[dict[str, torch.Tensor], int]:
    """Return the loss of two pictures, its gradients and the net's buffers, and the bytes that were kept."""
    net.set_grad_checkpointing(checkpointing)
    torch.manual_seed(3)  # of dropout and dropped paths
    images, kept = torch.randn(2, 3, 64, 64), {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    targets = [Targets(torch.tensor([0, 2]), torch.rand(2, 64, 64) > 0.5) for _ in images]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = net(images)
        names = torch.nn.functional.normalize(torch.randn(3, PROPOSAL_NET["embedding_dim"]), dim=1)
        logits = [net.class_logits(layer.proposal_embeddings, names) for layer in output.layers]
        losses = proposal_losses(output, logits, targets, image_size=(64, 64), num_masks=4, checkpointing=checkpointing)
    losses.total.backward()
    found = {name: parameter.grad for name, parameter in net.named_parameters() if parameter.grad is not None}
    return {**found, **dict(net.named_buffers()), "loss": losses.total.detach()}, sum(kept.values())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_checkpointing_changes_no_bit_and_keeps_less(backbone: str) -> None:
    name, arguments = BACKBONES[backbone]
    torch.manual_seed(0)
    net = build_proposal_net(**{**PROPOSAL_NET, "dropout": 0.1, "backbone": name, "backbone_arguments": arguments})
    twin = copy.deepcopy(net)
    (kept_all, bytes_all), (again, bytes_again) = (
        trained_once(net, checkpointing=False),
        trained_once(twin, checkpointing=True),
    )
    assert bytes_again < 0.8 * bytes_all, (bytes_again, bytes_all)
    assert again.keys() == kept_all.keys()
    for entry, tensor in kept_all.items():
        assert torch.equal(again[entry], tensor), entry


def test_each_block_of_a_stage_is_checkpointed() -> None:
    net = build_proposal_net("r101c")
    net.set_grad_checkpointing(True)
    stages = [module for module in net.backbone.modules() if isinstance(module, Blocks)]
    assert [len(stage) for stage in stages] == [3, 4, 23, 3]
    assert all(stage.checkpointing for stage in stages)
    net.set_grad_checkpointing(False)
    assert not any(stage.checkpointing for stage in stages)


def test_a_backbone_whose_batch_norms_would_count_twice_is_refused() -> None:
    net = build_proposal_net(**{**PROPOSAL_NET, "backbone": "mobilenetv3_small_100", "backbone_arguments": {}})
    with pytest.raises(ValueError, match=r"MobileNetV3Features: .*set frozen_batch_norm, or leave it off"):
        net.set_grad_checkpointing(True)
    net.set_grad_checkpointing(False)
