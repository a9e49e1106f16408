"""DER and DER++, against a plain loop that never saw the module's own loss."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from lightning_mixcd import MixCD, Uniform
from lightning_mixcd.penalties import DER
from tests.penalties.replay import assert_same, base_net, fit, gradient_of, parted, replay
from tests.toys import finetune, weights


def slow_loss(net, ids, *, alpha, beta):
    (x, y), (px, py) = parted(ids)
    loss = cross_entropy(net(x), y)
    if len(px) == 0:
        return loss
    far = [
        (a - b) ** 2
        for new, old in zip(net(px), base_net()(px).tolist(), strict=True)
        for a, b in zip(new, old, strict=True)
    ]
    return loss + alpha * sum(far) / len(far) + beta * cross_entropy(net(px), py)


@pytest.mark.parametrize("strategy", [Uniform, MixCD])
@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.0), (1.0, 0.5), (0.0, 2.0)])
def test_as_a_loop(alpha, beta, strategy):
    module, _ = fit([DER(alpha, beta=beta)], strategy(), max_epochs=2)
    slow = replay(module.seen, lambda net, ids: gradient_of(net, slow_loss(net, ids, alpha=alpha, beta=beta)))
    assert_same(module, slow)


def test_batches_of_uneven_mixture():
    module, _ = fit([DER(1.0, beta=0.5)], mix_ratio=0.2, max_epochs=2)  # one or two rows a step
    assert len({len(step) for step in module.seen}) == 2
    slow = replay(module.seen, lambda net, ids: gradient_of(net, slow_loss(net, ids, alpha=1.0, beta=0.5)))
    assert_same(module, slow)


def test_accumulated_batches_count_as_their_mean():
    module, _ = fit([DER(1.0, beta=0.5)], accumulate_grad_batches=2, limit_train_batches=4)
    steps = list(zip(module.seen[::2], module.seen[1::2], strict=True))
    slow = replay(
        steps,
        lambda net, step: gradient_of(net, sum(slow_loss(net, ids, alpha=1.0, beta=0.5) for ids in step) / 2),
    )
    assert_same(module, slow)


def test_the_share_of_the_batch_as_weight_of_labels_is_plain_rehearsal_but_for_scale():
    # 8 and 4 rows: 8/12 of the new mean plus 4/12 of the old one, 1.5 times. Adam does not see the scale.
    der, _ = fit([DER(0.0, beta=0.5)])
    plain, _ = fit([])
    torch.testing.assert_close(weights(der), weights(plain), rtol=1e-3, atol=1e-4)


def test_rows_without_a_label_count_nowhere():
    x, y = finetune().tensors
    holes = torch.utils.data.TensorDataset(x, y.masked_fill(x[:, -1].long() % 4 == 1, -100))
    module, _ = fit([DER(1.0, beta=0.5)], data=holes)

    def gradients(net, ids):
        return gradient_of(
            net, slow_loss(net, [i for i in ids if i >= 1000 or i % 4 != 1], alpha=1.0, beta=0.5)
        )

    assert_same(module, replay(module.seen, gradients))


def test_no_forward_of_its_own():
    module, callback = fit([DER(beta=0.5)])
    assert module.rows_forwarded == 40 + 20
    assert callback.compute_units == 3 * (40 + 20)


def test_bf16_mixed():
    module, _ = fit([DER(1.0, beta=0.5)], precision="bf16-mixed")

    def gradients(net, ids):
        with torch.autocast("cpu", torch.bfloat16):
            loss = slow_loss(net, ids, alpha=1.0, beta=0.5)
        return gradient_of(net, loss)

    assert_same(module, replay(module.seen, gradients), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("name", ["alpha", "beta"])
@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan")])
def test_bad_weights_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must be in \[0, inf\), got {value}"):
        DER(**{name: value})


def test_batches_without_any_finetune_label_have_a_term():
    terms = []

    class Watched(DER):
        def loss(self, step):
            terms.append(super().loss(step))
            return terms[-1]

    x, y = finetune().tensors
    fit([Watched(1.0, beta=0.5)], data=torch.utils.data.TensorDataset(x, torch.full_like(y, -100)))
    assert torch.stack(terms).isfinite().all()
