import pytest
import torch

from ovseg_models.proposal_losses import proposal_losses
from ovseg_models.proposal_net import ProposalNet
from ovseg_models.proposal_presets import build_proposal_net
from ovseg_models.targets import Targets, targets_from_label_map

TINY = {
    "backbone": "resnet10t",
    "backbone_arguments": {"timm_arguments": {"channels": [8, 16, 24, 32], "stem_width": 8}},
    "embedding_dim": 12,
    "embedding_hidden_dim": 16,
    "queries": 7,
    "hidden_dim": 16,
    "mask_dim": 16,
    "norm_groups": 4,
    "heads": 2,
    "feedforward_dim": 24,
    "decoder_layers": 3,
    "dropout": 0.0,
}
SWIN = {
    "backbone": "swin_tiny_patch4_window7_224",
    "backbone_arguments": {
        "drop_path_rate": 0.0,
        "timm_arguments": {"embed_dim": 8, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8], "window_size": 4},
    },
}


def tiny_net(seed=0, **arguments) -> ProposalNet:
    torch.manual_seed(seed)
    return build_proposal_net(**TINY | arguments)


def unit_rows(*shape):
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


@pytest.mark.parametrize("arguments", [{}, SWIN], ids=["resnet", "swin"])
@pytest.mark.parametrize("size", [(64, 96), (50, 70)])
@torch.no_grad()
def test_shapes_strides_and_unit_embeddings(arguments, size):
    output = tiny_net(**arguments).eval()(torch.randn(2, 3, *size))
    assert output.mask_logits.shape == (2, 7, -(-size[0] // 4), -(-size[1] // 4))
    torch.testing.assert_close(output.proposal_embeddings.norm(dim=-1), torch.ones(2, 7))
    assert output.aux == ()
    assert output.layers == (output,)


@pytest.mark.parametrize("arguments", [{}, SWIN], ids=["resnet", "swin"])
@torch.no_grad()
def test_a_batch_equals_its_images_alone(arguments):
    net = tiny_net(**arguments).eval()
    images = torch.randn(2, 3, 64, 96)
    together = net(images)
    for row, image in enumerate(images):
        alone = net(image[None])
        torch.testing.assert_close(alone.mask_logits[0], together.mask_logits[row], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(alone.proposal_embeddings[0], together.proposal_embeddings[row])


@torch.no_grad()
def test_aux_outputs_come_in_training_or_on_request_and_change_nothing():
    net = tiny_net().eval()
    images = torch.randn(2, 3, 64, 64)
    plain, full = net(images), net(images, every_layer=True)
    assert len(full.aux) == 2
    torch.testing.assert_close(full.mask_logits, plain.mask_logits)
    torch.testing.assert_close(full.proposal_embeddings, plain.proposal_embeddings)
    assert not torch.allclose(full.aux[0].mask_logits, full.aux[1].mask_logits)
    assert len(net.train()(images).aux) == 2
    assert net(images, every_layer=False).aux == ()


@torch.no_grad()
def test_an_earlier_layer_is_what_a_shallower_net_gives():
    net = tiny_net().eval()
    shallow = tiny_net(decoder_layers=1).eval()
    shallow.load_state_dict({name: net.state_dict()[name] for name in shallow.state_dict()})
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(net(images, every_layer=True).aux[0].mask_logits, shallow(images).mask_logits)


@torch.no_grad()
def test_permuted_queries_permute_the_proposals():
    net = tiny_net().eval()
    images = torch.randn(2, 3, 64, 64)
    plain = net(images)
    order = torch.randperm(7)
    net.query_decoder.query_positions.weight.copy_(net.query_decoder.query_positions.weight[order].clone())
    moved = net(images)
    torch.testing.assert_close(moved.mask_logits, plain.mask_logits[:, order], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moved.proposal_embeddings, plain.proposal_embeddings[:, order], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_class_logits_are_a_hundred_cosines_with_no_object_last():
    net = tiny_net()
    net.no_object_embedding.mul_(7)  # its length plays no part
    proposals, texts = unit_rows(2, 7, 12), unit_rows(5, 12)
    logits = net.class_logits(proposals, texts)
    assert logits.shape == (2, 7, 6)
    for image, query, column in ((0, 0, 0), (1, 6, 4), (0, 3, 2)):
        expected = 100 * (proposals[image, query] * texts[column]).sum()
        torch.testing.assert_close(logits[image, query, column], expected, rtol=1e-4, atol=1e-4)
    no_object = net.no_object_embedding[0] / net.no_object_embedding.norm()
    torch.testing.assert_close(logits[1, 2, 5], 100 * (proposals[1, 2] * no_object).sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(net.class_logits(proposals[1, 2], texts), logits[1, 2], rtol=1e-4, atol=1e-4)


def test_class_logits_refuse_another_space():
    with pytest.raises(ValueError, match="text embeddings have 9 dimensions, expected 12; "):
        tiny_net().class_logits(unit_rows(2, 7, 12), unit_rows(5, 9))


def test_preprocess_normalises_and_pads_with_the_mean():
    net = tiny_net()
    first = torch.randint(0, 256, (3, 40, 33), dtype=torch.uint8)
    second = torch.randint(0, 256, (3, 20, 64), dtype=torch.uint8)
    batch = net.preprocess([first, second])
    assert batch.shape == (2, 3, 64, 64)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    expected = (first.float() - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(batch[0, :, :40, :33], expected)
    assert not batch[0, :, 40:].any()
    assert not batch[0, :, :, 33:].any()
    assert not batch[1, :, 20:].any()
    assert net.preprocess([torch.zeros(3, 64, 32, dtype=torch.uint8)]).shape == (1, 3, 64, 32)


def test_preprocess_refuses_no_image():
    with pytest.raises(ValueError, match="preprocess: got 0 images"):
        tiny_net().preprocess([])


def step_losses(net, images, targets, texts):
    output = net(images)
    class_logits = [net.class_logits(layer.proposal_embeddings, texts) for layer in output.layers]
    return proposal_losses(
        output,
        class_logits,
        targets,
        image_size=tuple(images.shape[2:]),
        num_masks=sum(len(target.class_ids) for target in targets),
    )


@pytest.mark.parametrize("arguments", [{}, SWIN, {"encoder_layers": 1}], ids=["resnet", "swin", "encoder"])
def test_the_loss_reaches_every_trainable_parameter(arguments):
    net = tiny_net(**arguments).train()
    for parameter in net.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.5)  # some norms start at 0 and would stop every gradient
    targets = [targets_from_label_map(torch.randint(0, 4, (64, 64)), ignore_label=255) for _ in range(2)]
    step_losses(net, torch.randn(2, 3, 64, 64), targets, unit_rows(4, 12)).total.backward()
    untouched = {name for name, parameter in net.named_parameters() if parameter.grad is None}
    still = {name for name, parameter in net.named_parameters() if name not in untouched and not parameter.grad.any()}
    assert untouched == set()
    # The queries start at zero, so the first self-attention gives each of them its bias whatever its weights are.
    assert still <= {"query_decoder.decoder_layers.0.self_attention.in_proj_weight"}


def draw_rectangles(count):
    """Pictures of one or two rectangles in the colours of their classes on a grey ground."""
    colours = torch.tensor([[230, 40, 40], [40, 230, 40], [40, 40, 230]], dtype=torch.uint8)
    images, targets = [], []
    for index in range(count):
        image = torch.full((3, 64, 64), 120, dtype=torch.uint8)
        labels = torch.full((64, 64), 255)
        for class_id in {index % 3, (2 * index + 1) % 3}:
            top, left = (int(value) for value in torch.randint(0, 36, (2,)))
            image[:, top : top + 28, left : left + 28] = colours[class_id][:, None, None]
            labels[top : top + 28, left : left + 28] = class_id
        images.append(image)
        targets.append(targets_from_label_map(labels, ignore_label=255))
    return images, targets


def test_a_few_steps_on_rectangles_lower_the_loss():
    net = tiny_net(seed=1).train()
    images, targets = draw_rectangles(8)
    batch, texts = net.preprocess(images), unit_rows(3, 12)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    totals = []
    for _ in range(25):
        losses = step_losses(net, batch, targets, texts)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        totals.append(losses.total.item())
    assert sum(totals[-3:]) < 0.6 * sum(totals[:3])


def test_images_without_targets_train_too():
    net = tiny_net().train()
    none = Targets(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 64, 64, dtype=torch.bool))
    losses = step_losses(net, torch.randn(1, 3, 64, 64), [none], unit_rows(4, 12))
    losses.total.backward()
    assert losses.total.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
