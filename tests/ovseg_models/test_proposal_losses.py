import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from ovseg_models.matching import LossWeights, match_queries
from ovseg_models.proposal_losses import mask_losses, proposal_losses, total_query_weight, upsample_bilinear
from ovseg_models.proposal_net import ProposalOutput
from ovseg_models.targets import Targets, pack_targets

CLASSES = 5
SIDE = 16  # of the images; mask logits are a quarter


def draw_output(generator, batch, queries):
    mask_logits = 3 * torch.randn(batch, queries, SIDE // 4, SIDE // 4, generator=generator)
    embeddings = F.normalize(torch.randn(batch, queries, 8, generator=generator), dim=-1)
    return ProposalOutput(mask_logits.requires_grad_(), embeddings)


def draw(seed, counts, queries=6, aux=0):
    generator = torch.Generator().manual_seed(seed)
    output = draw_output(generator, len(counts), queries)
    earlier = tuple(draw_output(generator, len(counts), queries) for _ in range(aux))
    output = ProposalOutput(output.mask_logits, output.proposal_embeddings, earlier)
    class_logits = [
        (2 * torch.randn(len(counts), queries, CLASSES + 1, generator=generator)).requires_grad_()
        for _ in range(1 + aux)
    ]
    targets = [
        Targets(
            torch.randint(0, CLASSES, (count,), generator=generator),
            torch.rand(count, SIDE, SIDE, generator=generator) > 0.5,
        )
        for count in counts
    ]
    return output, class_logits, targets


def compute(output, class_logits, targets, num_masks=1.0, **arguments):
    return proposal_losses(output, class_logits, targets, image_size=(SIDE, SIDE), num_masks=num_masks, **arguments)


def naive_focal(logits, mask):
    total = 0.0
    for logit, truth in zip(logits.flatten().tolist(), mask.flatten().tolist(), strict=True):
        prob = 1 / (1 + math.exp(-logit))
        total += 0.25 * (1 - prob) ** 2 * -math.log(prob) if truth else 0.75 * prob**2 * -math.log(1 - prob)
    return total / logits.numel()


def naive_dice(logits, mask):
    probs = logits.sigmoid()
    return 1 - (2 * (probs * mask).sum() + 1) / (probs.sum() + mask.sum() + 1)


def naive_terms(mask_logits, class_logits, targets, num_masks, no_object=0.1):
    """Classification, focal and dice of one decoder output: image by image, target by target."""
    numerator = denominator = focal = dice = 0.0
    for image, target in enumerate(targets):
        batch = pack_targets(
            [target],
            image_size=(SIDE, SIDE),
            mask_size=tuple(mask_logits.shape[2:]),
            num_classes=CLASSES,
            device=torch.device("cpu"),
        )
        (matches,) = match_queries(
            [mask_logits[image, None]], [class_logits[image, None]], batch, weights=LossWeights()
        )
        target_of = dict(zip(matches.queries.tolist(), matches.targets.tolist(), strict=True))
        for query in range(mask_logits.shape[1]):
            row = target_of.get(query)
            expected = CLASSES if row is None else int(target.class_ids[row])
            weight = no_object if row is None else 1.0
            numerator -= weight * class_logits[image, query].log_softmax(-1)[expected].item()
            denominator += weight
            if row is not None:
                logits = F.interpolate(mask_logits[image, query][None, None], size=(SIDE, SIDE), mode="bilinear")[0, 0]
                focal += naive_focal(logits, target.masks[row])
                dice += naive_dice(logits, target.masks[row]).item()
    return numerator / denominator, focal / num_masks, dice / num_masks


def test_mask_losses_and_their_gradients_equal_naive_twins():
    torch.manual_seed(0)
    logits = (4 * torch.randn(3, 5, 4)).requires_grad_()
    masks = (torch.rand(3, 5, 4) > 0.5).float()
    focal, dice = mask_losses(logits, masks)
    for row in range(3):
        assert focal[row].item() == pytest.approx(naive_focal(logits[row], masks[row]), rel=1e-5)
        assert dice[row].item() == pytest.approx(naive_dice(logits[row], masks[row]).item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(focal.sum() + dice.sum(), logits)
    probs = logits.sigmoid()
    truth = torch.where(masks.bool(), probs, 1 - probs)
    plain_focal = (torch.where(masks.bool(), 0.25, 0.75) * (1 - truth) ** 2 * -truth.log()).mean((1, 2)).sum()
    plain_dice = sum(naive_dice(logits[row], masks[row]) for row in range(3))
    (expected,) = torch.autograd.grad(plain_focal + plain_dice, logits)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_pixels_that_do_not_count_add_nothing_to_the_mask_losses():
    torch.manual_seed(1)
    logits = (4 * torch.randn(3, 5, 4)).requires_grad_()
    counted = (torch.rand(3, 5, 4) > 0.4).float()
    masks = (torch.rand(3, 5, 4) > 0.5) * counted
    focal, dice = mask_losses(logits, masks, counted)
    for row in range(3):
        some = counted[row].bool()
        shares = some.float().mean().item()  # the mean is still over all pixels
        assert focal[row].item() == pytest.approx(shares * naive_focal(logits[row][some], masks[row][some]), rel=1e-5)
        assert dice[row].item() == pytest.approx(naive_dice(logits[row][some], masks[row][some]).item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(focal.sum() + dice.sum(), logits)
    assert not gradient[counted == 0].any()
    assert gradient[counted == 1].all()
    everywhere = mask_losses(logits, masks, torch.ones(3, 5, 4))
    for given, plain in zip(everywhere, mask_losses(logits, masks), strict=True):
        torch.testing.assert_close(given, plain)


def test_targets_that_leave_pixels_out_reach_matching_and_losses():
    output, class_logits, targets = draw(10, (3, 2))
    counted = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    counted[:, : SIDE // 2] = True
    left_out = [Targets(target.class_ids, target.masks & counted, counted) for target in targets]
    plain = [Targets(target.class_ids, target.masks & counted) for target in targets]
    found = compute(output, class_logits, left_out)
    assert found.total.item() != pytest.approx(compute(output, class_logits, plain).total.item(), rel=1e-3)
    far = output.mask_logits.detach().clone()
    far[..., SIDE // 8 + 1 :] = 9.0  # where no pixel counts, nor its neighbours in upsampling do
    elsewhere = compute(ProposalOutput(far, output.proposal_embeddings), class_logits, left_out)
    torch.testing.assert_close(elsewhere.total, found.total)
    found.total.backward()
    assert not output.mask_logits.grad[..., SIDE // 8 + 1 :].any()


@pytest.mark.parametrize(("found", "expected"), [((4, 6), (16, 24)), ((5, 3), (18, 11)), ((1, 7), (4, 7))])
def test_upsampling_and_its_gradient_equal_interpolate(found, expected):
    masks = torch.randn(3, *found, requires_grad=True)
    plain = F.interpolate(masks[:, None], size=expected, mode="bilinear", align_corners=False)[:, 0]
    upsampled = upsample_bilinear(masks, expected)
    torch.testing.assert_close(upsampled, plain)
    weights = torch.randn_like(plain)
    (gradient,) = torch.autograd.grad((upsampled * weights).sum(), masks)
    (plain_gradient,) = torch.autograd.grad((plain * weights).sum(), masks)
    torch.testing.assert_close(gradient, plain_gradient)


def test_mixed_precision_leaves_the_losses_in_full_precision():
    output, class_logits, targets = draw(9, (2, 3))
    plain = compute(output, class_logits, targets).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = compute(output, class_logits, targets).total
    assert torch.equal(mixed, plain)
    halved = ProposalOutput(output.mask_logits.bfloat16(), output.proposal_embeddings)
    torch.testing.assert_close(compute(halved, class_logits, targets).total, plain, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("counts", [(3, 1), (0, 4), (8, 2), (0, 0)])
def test_terms_equal_a_naive_twin(counts):
    output, class_logits, targets = draw(1, counts, aux=1)
    losses = compute(output, class_logits, targets, num_masks=2.5)
    for layer, logits, terms in zip(output.layers, class_logits, losses.layers, strict=True):
        expected = naive_terms(layer.mask_logits.detach(), logits.detach(), targets, 2.5)
        assert [term.item() for term in terms] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_total_weighs_the_terms_of_every_output():
    output, class_logits, targets = draw(2, (2, 3), aux=2)
    losses = compute(output, class_logits, targets)
    assert len(losses.layers) == 3
    expected = sum(terms.classification + 20 * terms.focal + terms.dice for terms in losses.layers)
    torch.testing.assert_close(losses.total, expected)
    single = [
        compute(ProposalOutput(layer.mask_logits, layer.proposal_embeddings), [logits], targets).total
        for layer, logits in zip(output.layers, class_logits, strict=True)
    ]
    torch.testing.assert_close(losses.total, sum(single))
    weights = LossWeights(classification=0.0, focal=0.0, dice=3.0)
    torch.testing.assert_close(
        compute(*draw(2, (2, 3)), weights=weights).total,
        3 * compute(*draw(2, (2, 3)), weights=weights).layers[0].dice,
    )


def test_mask_terms_of_a_batch_are_the_sums_of_its_images():
    output, class_logits, targets = draw(3, (2, 0, 4))
    together = compute(output, class_logits, targets).layers[0]
    alone = [
        compute(
            ProposalOutput(output.mask_logits[row, None], output.proposal_embeddings[row, None]),
            [class_logits[0][row, None]],
            [targets[row]],
        ).layers[0]
        for row in range(3)
    ]
    torch.testing.assert_close(together.focal, sum(terms.focal for terms in alone))
    torch.testing.assert_close(together.dice, sum(terms.dice for terms in alone))


def test_neither_the_order_of_queries_nor_that_of_targets_matters():
    output, class_logits, targets = draw(4, (3, 5))
    plain = compute(output, class_logits, targets).total
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    moved = ProposalOutput(output.mask_logits[:, order], output.proposal_embeddings[:, order])
    torch.testing.assert_close(compute(moved, [class_logits[0][:, order]], targets).total, plain)
    turned = [Targets(target.class_ids.flip(0), target.masks.flip(0)) for target in targets]
    torch.testing.assert_close(compute(output, class_logits, turned).total, plain)


def test_num_masks_divides_the_mask_terms_and_is_at_least_one():
    output, class_logits, targets = draw(5, (3, 5))
    one, four, none = (compute(output, class_logits, targets, num_masks=n).layers[0] for n in (1.0, 4.0, 0.0))
    torch.testing.assert_close(one.focal, 4 * four.focal)
    torch.testing.assert_close(one.dice, 4 * four.dice)
    torch.testing.assert_close(one.classification, four.classification)
    torch.testing.assert_close(one.dice, none.dice)


def test_without_targets_all_gradients_exist_and_are_finite():
    output, class_logits, targets = draw(6, (0, 0))
    losses = compute(output, class_logits, targets, num_masks=0)
    losses.total.backward()
    assert losses.layers[0].focal == losses.layers[0].dice == 0
    assert not output.mask_logits.grad.any()
    assert class_logits[0].grad.isfinite().all()
    assert class_logits[0].grad.any()


def test_extreme_logits_keep_losses_and_gradients_finite():
    output, class_logits, targets = draw(7, (3, 2))
    output = ProposalOutput((1e4 * output.mask_logits.detach()).requires_grad_(), output.proposal_embeddings)
    compute(output, class_logits, targets).total.backward()
    assert output.mask_logits.grad.isfinite().all()


def test_pixels_of_no_target_are_background_of_every_mask():
    output, class_logits, targets = draw(8, (2,))
    corner = [Targets(target.class_ids, target.masks[:, :8, :8]) for target in targets]
    padded = [Targets(t.class_ids, F.pad(t.masks, (0, 8, 0, 8))) for t in corner]
    torch.testing.assert_close(compute(output, class_logits, corner).total, compute(output, class_logits, padded).total)


def test_the_parts_of_a_batch_add_up_with_the_weight_of_the_whole():
    output, class_logits, targets = draw(3, (2, 0, 8, 3), aux=1)
    weight = total_query_weight([len(target.class_ids) for target in targets], 6, no_object_weight=0.1)
    whole = compute(output, class_logits, targets, num_masks=13)
    given = compute(output, class_logits, targets, num_masks=13, query_weight=weight)
    assert given.total.item() == pytest.approx(whole.total.item(), rel=1e-6)

    def rows(layer, part):
        return ProposalOutput(layer.mask_logits[part], layer.proposal_embeddings[part])

    total = 0.0
    for part in (slice(0, 1), slice(1, 4)):
        some = ProposalOutput(
            output.mask_logits[part],
            output.proposal_embeddings[part],
            tuple(rows(layer, part) for layer in output.aux),
        )
        logits = [layer[part] for layer in class_logits]
        total += compute(some, logits, targets[part], num_masks=13, query_weight=weight).total.item()
    assert total == pytest.approx(whole.total.item(), rel=1e-6)
