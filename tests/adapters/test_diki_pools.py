"""Branches beside the attention of encoders, and what opens them."""

import copy

import pytest
import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel, GPT2Config, GPT2LMHeadModel, T5Config, T5Model

from lightning_mixcd.adapters._diki_gate import calibrated_weight
from lightning_mixcd.adapters._diki_pools import TaskPools
from lightning_mixcd.adapters._diki_towers import towers
from tests.adapters.encoders import bert, clip, images, texts, vit

INPUTS = {
    vit: {"pixel_values": images(5)[0]},
    bert: texts(5),
    clip: {"pixel_values": images(5)[0], **texts(4)},
}


def pools_of(model, *tasks, layers=2, length=4):
    model.pools = TaskPools(model, layers=layers, length=length)
    model.pools.eval()
    for task in tasks:
        model.pools.begin(task, seed=0)
        with torch.no_grad():
            for branch in model.pools.branches:
                branch.values.normal_(generator=torch.Generator().manual_seed(len(task)))
    return model.pools


def learn(model, task, x):
    """Begin a task, fit its Gaussian to images, give it values as if it had been trained."""
    pools = model.pools
    pools.begin(task, seed=len(pools.tasks))
    with torch.no_grad():
        pools.fit(pools.features_of(lambda: model(x)))
        for number, branch in enumerate(pools.branches):
            branch.values.normal_(generator=torch.Generator().manual_seed(number + 10 * len(pools.tasks)))


def outputs(model, inputs):
    found = model(**inputs)
    return found["logits_per_image"] if "logits_per_image" in found else found["logits"]


@pytest.mark.parametrize("make", [vit, bert, clip])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_model_starts_bit_by_bit_as_it_was(make, attention):
    model = make()
    model.set_attn_implementation(attention)
    expected = outputs(model, INPUTS[make])
    pools = pools_of(model)
    assert torch.equal(outputs(model, INPUTS[make]), expected)
    pools.begin("new", seed=0)
    pools.train()
    assert torch.equal(outputs(model, INPUTS[make]), expected)
    assert all(
        (b.keys.abs() <= 1).all() and b.keys.std() > 0.4 and not b.values.any() for b in pools.branches
    )


@pytest.mark.parametrize("make", [vit, bert, clip])
def test_first_gradient_is_of_values_alone(make):
    model = make()
    pools = pools_of(model)
    pools.begin("new", seed=0)
    pools.train()
    model.requires_grad_(False)
    pools.requires_grad_(True)
    outputs(model, INPUTS[make]).square().sum().backward()
    assert all(b.values.grad.any() and not b.keys.grad.any() for b in pools.branches)


def second_attention(query, keys, values, n_heads):
    """What the branch adds, head by head and row by row: `(B, L, d)`."""
    width = query.shape[-1] // n_heads
    rows = []
    for row in query:
        heads = []
        for head in range(n_heads):
            part = slice(head * width, (head + 1) * width)
            shares = torch.softmax(row[:, part] @ keys[:, part].T / width**0.5, dim=1)
            heads.append(shares @ values[:, part])
        rows.append(torch.cat(heads, 1))
    return torch.stack(rows)


def test_branch_is_a_second_attention_before_the_output_projection():
    model, x = vit(), images(5)[0]
    layer = model.vit.layers[0].attention
    seen = {}
    layer.q_proj.register_forward_hook(lambda m, i, o: seen.update(query=o))
    layer.o_proj.register_forward_pre_hook(lambda m, i: seen.update(attended=i[0]))
    model(x)
    before = seen["attended"]
    pools = pools_of(model, "new", layers=1)
    pools.train()
    model(x)
    branch = pools.branches[0]
    expected = before + second_attention(seen["query"], branch.keys, branch.values, 2)
    torch.testing.assert_close(seen["attended"], expected)


def test_padding_masks_the_models_own_attention_and_not_the_branch():
    model = bert()
    pools_of(model, "new").train()
    batch = texts(4)
    garbled = {**batch, "input_ids": torch.where(batch["attention_mask"] == 1, batch["input_ids"], 7)}
    torch.testing.assert_close(model(**batch).logits, model(**garbled).logits)


def test_parameters_of_the_papers_setting():
    with torch.device("meta"):
        model = CLIPModel(
            CLIPConfig(
                vision_config={
                    "hidden_size": 768,
                    "num_hidden_layers": 12,
                    "num_attention_heads": 12,
                    "patch_size": 16,
                },
                text_config={"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8},
            )
        )
        pools = TaskPools(model, layers=8, length=8)
    assert sum(p.numel() for p in pools.parameters()) == 8 * 2 * 8 * (768 + 512) == 163_840
    assert {path: len(parts) for path, parts in towers(model).items()} == {
        "vision_model": 12,
        "text_model": 12,
    }


@pytest.fixture
def learnt():
    model = vit()
    pools_of(model)
    learn(model, "zero", images(80, kind=0)[0])
    learn(model, "one", images(80, kind=1, seed=1)[0])
    return model.eval()


def test_each_row_goes_by_its_own_task(learnt):
    x = torch.cat([images(3, kind=0, seed=5)[0], images(4, kind=1, seed=5)[0]])
    found = learnt(x).logits
    branch = learnt.pools.branches[0]
    assert branch.task.tolist() == 3 * [0] + 4 * [1]
    weights = branch.weight
    # Row by row, and each as with its task forced to the same weight.
    torch.testing.assert_close(torch.cat([learnt(row[None]).logits for row in x]), found)
    for row, task, weight, logits in zip(x, [0] * 3 + [1] * 4, weights, found, strict=True):
        frozen, pools = vit(), None
        pools = pools_of(frozen, layers=2)
        pools.load_state_dict(learnt.pools.state_dict())
        pools.forced = pools.tasks[task]
        for part in pools.branches:
            part.values.data *= weight
            part.learnt_values *= weight
        torch.testing.assert_close(frozen(row[None]).logits[0], logits)


def test_weight_is_that_of_the_density(learnt):
    x = images(6, kind=1, seed=7)[0]
    learnt(x)
    base = vit()
    features = nn.functional.normalize(base.vit(x).last_hidden_state[:, 0], dim=1)
    density = learnt.pools.gaussians.log_density(features).amax(1)
    torch.testing.assert_close(learnt.pools.branches[0].weight, torch.sigmoid(density / 16 - 1))


def test_calibrated_weight_is_that_among_samples_of_the_rows_own_task(learnt):
    x = torch.cat([images(3, kind=0, seed=5)[0], images(4, kind=1, seed=5)[0]])
    learnt.pools.calibrated = True
    learnt(x)
    gaussians = learnt.pools.gaussians
    density = gaussians.log_density(nn.functional.normalize(vit().vit(x).last_hidden_state[:, 0], dim=1))
    expected = [
        calibrated_weight(of_row[task, None], gaussians.marks[task, None])
        for of_row, task in zip(density, [0] * 3 + [1] * 4, strict=True)
    ]
    torch.testing.assert_close(learnt.pools.branches[0].weight, torch.cat(expected), rtol=0, atol=1e-3)


def test_far_from_all_tasks_the_model_is_the_frozen_one(learnt):
    x = 100 * images(4, kind=2, seed=3)[0].flip(-1)
    learnt(x)
    assert (learnt.pools.branches[0].weight < 1e-6).all()
    torch.testing.assert_close(learnt(x).logits, vit()(x).logits, rtol=1e-5, atol=1e-6)


def test_vote_takes_the_task_of_most(learnt):
    x = torch.cat([images(3, kind=0, seed=5)[0], images(4, kind=1, seed=5)[0]])
    learnt.pools.vote = True
    learnt(x)
    branch = learnt.pools.branches[0]
    assert branch.task.tolist() == 7 * [1]
    assert (branch.weight[:3] < 0.1).all()


def test_forced_task_is_the_one_of_training_which_asks_no_gate(learnt):
    # Rows of an earlier task and rows far from all, as rehearsed ones may be, go through the newest task's
    # branch with weight 1, at one forward.
    x = torch.cat([images(3, kind=0)[0], 100 * images(4, kind=2, seed=3)[0]])
    learnt(x)
    forwards = []
    learnt.vit.register_forward_pre_hook(lambda *args: forwards.append(1))
    learnt.pools.train()
    found = learnt(x).logits
    assert len(forwards) == 1
    learnt.pools.eval()
    learnt.pools.forced = "one"
    assert torch.equal(learnt(x).logits, found)
    learnt.pools.forced = "zero"
    assert not torch.allclose(learnt(x).logits, found)
    learnt.pools.forced = "two"
    with pytest.raises(ValueError, match=r"task that was learnt, got 'two'\. There are \['zero', 'one'\]"):
        learnt(x)


def test_earlier_tasks_stay_as_they_were(learnt):
    x = images(5, kind=0, seed=5)[0]
    before = learnt(x).logits
    branch = learnt.pools.branches[0]
    assert branch.learnt_keys.shape == branch.learnt_values.shape == (1, 4, 16)
    learn(learnt, "two", images(80, kind=2, seed=2)[0])
    assert torch.equal(learnt(x).logits, before)
    assert [name for name, _ in learnt.pools.named_parameters()] == [
        f"branches.{layer}.{name}" for layer in range(2) for name in ("keys", "values")
    ]


def test_texts_of_clip_go_by_the_vote_of_the_images():
    model = clip()
    pools = pools_of(model)
    for kind, task in enumerate(["zero", "one"]):
        pools.begin(task, seed=kind)
        with torch.no_grad():
            pools.fit(pools.features_of(lambda kind=kind: model.get_image_features(images(60, kind=kind)[0])))
            for branch in pools.branches:
                branch.values.normal_()
    assert pools.gaussians.means.shape == (2, 12)
    x = torch.cat([images(2, kind=0, seed=5)[0], images(3, kind=1, seed=5)[0]])
    model(pixel_values=x, **texts(4))
    image, text = pools.branches[0], pools.branches[2]
    assert image.task.tolist() == [0, 0, 1, 1, 1]
    assert text.task.tolist() == [1]
    torch.testing.assert_close(text.weight, image.weight.mean()[None])
    assert (image.weight[0] != image.weight[1]).item()


def test_state_is_loaded_into_a_module_that_has_learnt_nothing(learnt, tmp_path):
    torch.save(learnt.state_dict(), tmp_path / "model.pt")
    other = vit()
    pools_of(other)
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    x = images(6, kind=1, seed=8)[0]
    assert other.pools.tasks == ["zero", "one"]
    assert torch.equal(other(x).logits, learnt(x).logits)


def test_speed_is_part_of_the_state():
    fast, other = vit(), vit()
    for model in (fast, other):
        pools_of(model)
    fast.pools.begin("new", seed=0, speed=8.0)
    for branch in fast.pools.branches:
        branch.values.data.fill_(0.1)
    other.load_state_dict(fast.state_dict())
    fast.pools.forced = other.pools.forced = "new"
    x = images(3)[0]
    assert torch.equal(other(x).logits, fast(x).logits)


def test_layers_have_keys_of_their_own():
    one, two = pools_of(vit(), "new").branches
    assert not torch.equal(one.keys, two.keys)


def test_copies_stand_for_themselves(learnt):
    x = images(6, kind=1, seed=8)[0]
    expected = learnt(x).logits
    twin = copy.deepcopy(learnt)
    for branch in learnt.pools.branches:
        branch.values.data.zero_()
    assert torch.equal(twin(x).logits, expected)
    assert not torch.equal(learnt(x).logits, expected)


def test_first_layers_get_a_branch_and_no_more():
    model = vit()
    pools = pools_of(model, layers=2)
    assert [hasattr(part, "_diki_branch") for part in towers(model)["vit"]] == [True, True, False]
    assert len(pools.branches) == 2
    assert len(pools_of(vit(), layers=8).branches) == 3


def test_tasks_begin_in_order(learnt):
    state = copy.deepcopy(learnt.pools.state_dict())
    learnt.pools.begin("one", seed=5)
    assert all(torch.equal(state[k], v) for k, v in learnt.pools.state_dict().items() if k != "_extra_state")
    with pytest.raises(ValueError, match=r"new one or the newest, got 'zero', after which 'one' was learnt"):
        learnt.pools.begin("zero", seed=0)
    with pytest.raises(ValueError, match=r"`features` of \['one'\] were fitted already"):
        learnt.pools.fit(torch.eye(16))


def test_features_are_the_frozen_models_in_training_mode_too(learnt):
    x = images(5, kind=1)[0]
    learnt.pools.train()
    found = learnt.pools.features_of(lambda: learnt(x))
    torch.testing.assert_close(found, nn.functional.normalize(vit().vit(x).last_hidden_state[:, 0], dim=1))
    assert learnt.pools.branches[0].training


def test_features_are_of_one_run_of_the_encoder(learnt):
    with pytest.raises(ValueError, match="encoder must run once for a batch, but it ran 2 times"):
        learnt.pools.features_of(lambda: [learnt(images(2)[0]), learnt(images(2)[0])])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: nn.Sequential(nn.Linear(2, 2)), r"found \[\]\. Use LoRA"),
        (
            lambda: nn.TransformerEncoderLayer(8, 2),
            r"found \['self_attn \(MultiheadAttention\)'\]\. Use LoRA",
        ),
        (
            lambda: GPT2LMHeadModel(GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=9)),
            r"found \['transformer.h.0.attn \(GPT2Attention\)'\]",
        ),
        (
            lambda: T5Model(T5Config(d_model=8, d_kv=4, num_heads=2, num_layers=1, d_ff=8, vocab_size=9)),
            r"found \['encoder.block.0.layer.0.SelfAttention \(T5Attention\)', 'decoder",
        ),
        (
            lambda: nn.ModuleDict({"a": vit(), "b": bert()}),
            r"found \['a.vit.layers.0.attention \(ViTAttention\)', .*'b.bert.encoder.layer.0.attention.self",
        ),
    ],
)
def test_models_that_do_not_fit_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        towers(make())


def test_speed_changes_nothing_but_the_speed():
    # What one step of Adam's size does to the outputs, with parameters as many times smaller.
    x, found = images(5)[0], []
    for speed in (1.0, 8.0):
        model = vit()
        pools = pools_of(model)
        pools.begin("new", seed=0, speed=speed)
        pools.train()
        with torch.no_grad():
            for branch in pools.branches:
                branch.values.fill_(0.3 / speed)
        found.append(model(x).logits)
        pools.begin("next", seed=1)
        found.append(pools.branches[0].learnt_keys)
        model.eval()
        pools.forced = "new"
        found.append(model(x).logits)
    for slow, fast in zip(found[:3], found[3:], strict=True):
        torch.testing.assert_close(slow, fast)
    torch.testing.assert_close(found[0], found[2])
