"""One base with many adapters (docs/ppo.md items 1, 4, 18, 20): bits, gradients, files."""

import math
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from align.config import LoraConfig
from align.errors import UserError
from align.part_files import restore_part, save_part
from align.quiet import quiet_peft
from align.shared import SharedBase, initial_head

V, H = 40, 16
LORA = LoraConfig(r=4, alpha=8)
IDS = torch.randint(3, V, (3, 7), generator=torch.Generator().manual_seed(1))
ALL = torch.ones_like(IDS)


def tiny_llama(seed: int = 0, **more: object) -> LlamaForCausalLM:
    """A random Llama whose predictions differ from token to token."""
    settings = {
        "vocab_size": V, "hidden_size": H, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**settings | more))
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data *= 8
    return model.eval()


def fill(shared: SharedBase, *names: str) -> None:
    """Give adapters random weights in both matrices, so that they change what the base says."""
    generator = torch.Generator().manual_seed(len(names))
    for name in names:
        for parameter in shared.adapter_parameters(name):
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3


def two_parts(model: LlamaForCausalLM | None = None) -> SharedBase:
    """Policy and critic with random adapters, as PPO has them; the policy is active."""
    shared = SharedBase(model or tiny_llama())
    shared.add_adapter("critic", LORA, trainable=True, seed=1)
    shared.add_head("critic", weight=torch.linspace(-1, 1, H)[None], trainable=True)
    shared.add_adapter("policy", LORA, trainable=True, seed=2)
    fill(shared, "critic", "policy")
    return shared


@torch.no_grad()
def logits(shared: SharedBase, name: str | None, ids: Tensor = IDS, mask: Tensor = ALL) -> Tensor:
    with shared.active(name):
        return shared.vocabulary_head(shared.hidden(ids, mask))


@torch.no_grad()
def values(shared: SharedBase) -> Tensor:
    with shared.active("critic"):
        return shared.heads["critic"](shared.hidden(IDS, ALL).float())


def trained(shared: SharedBase) -> set[str]:
    return {name for name, p in shared.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", [None, "policy", "critic"])
def test_padding_and_batch_size_change_nothing(name: str | None) -> None:
    # Item 1: each row alone and unpadded, against both sides padded with two kinds of garbage.
    shared = two_parts()
    rows = [IDS[0, :3], IDS[1, :7], IDS[2, :5]]
    alone = [logits(shared, name, row[None], torch.ones_like(row)[None])[0] for row in rows]
    for side in ("left", "right"):
        for filler in (0, 2, V - 1):
            ids, mask = torch.full((3, 9), filler), torch.zeros(3, 9, dtype=torch.long)
            for i, row in enumerate(rows):
                at = slice(9 - len(row), 9) if side == "left" else slice(0, len(row))
                ids[i, at], mask[i, at] = row, 1
            together = logits(shared, name, ids, mask)
            assert bool(torch.isfinite(together).all())
            for i, one in enumerate(alone):
                torch.testing.assert_close(together[i][mask[i].bool()], one, atol=1e-5, rtol=1e-5)


def test_learned_positions_do_not_count_padding() -> None:
    # Item 1, where a shift shows: GPT-2 adds a vector for each position, Llama only turns.
    shape = {"vocab_size": V, "n_embd": H, "n_layer": 2, "n_head": 2, "n_positions": 16}
    shared = SharedBase(GPT2LMHeadModel(GPT2Config(**shape)).eval())
    alone = logits(shared, None, IDS[:1, :4], ALL[:1, :4])
    for side in ("left", "right"):
        space = (5, 0) if side == "left" else (0, 5)
        ids = nn.functional.pad(IDS[:1, :4], space, value=2)
        mask = nn.functional.pad(ALL[:1, :4], space)
        padded = logits(shared, None, ids, mask)[0][mask[0].bool()]
        torch.testing.assert_close(padded, alone[0], atol=1e-5, rtol=1e-5)


def test_hidden_and_logits_are_those_of_the_model_itself() -> None:
    model = tiny_llama()
    with torch.no_grad():
        expected = model(IDS).logits
    assert torch.equal(logits(SharedBase(model), None), expected)


def test_the_reference_is_bit_equal_to_the_base() -> None:
    # Item 20.
    model = tiny_llama()
    with torch.no_grad():
        expected = deepcopy(model)(IDS).logits
    shared = two_parts(model)
    assert torch.equal(logits(shared, None), expected)
    assert not torch.allclose(logits(shared, "policy"), expected, atol=1e-2)
    assert not torch.allclose(logits(shared, "critic"), logits(shared, "policy"), atol=1e-2)


def test_the_reference_of_a_bfloat16_base_is_bit_equal_to_it() -> None:
    # Item 20; the adapters stay in float32.
    model = tiny_llama().to(torch.bfloat16)
    with torch.no_grad():
        expected = deepcopy(model)(IDS).logits
    shared = two_parts(model)
    assert torch.equal(logits(shared, None), expected)
    kinds = {p.dtype for p in shared.trainable_parameters("policy")}
    assert kinds == {p.dtype for p in shared.trainable_parameters("critic")} == {torch.float32}
    assert values(shared).dtype == torch.float32


def test_a_fresh_adapter_changes_no_bit() -> None:
    # Item 15: the first KL to the reference is exactly 0.
    shared = SharedBase(tiny_llama())
    shared.add_adapter("policy", LORA, trainable=True)
    assert torch.equal(logits(shared, "policy"), logits(shared, None))


def test_an_adapter_adds_the_scaled_product_to_its_layers() -> None:
    # LoRA by its definition (Hu 2021): W + alpha / r * B A, put into a copy by hand.
    model = tiny_llama()
    plain = deepcopy(model)
    shared = two_parts(model)
    state = shared.adapter_state("policy")
    for key, a in state.items():
        if key.endswith("lora_A.weight"):
            name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            b = state[key.replace("lora_A", "lora_B")]
            plain.get_submodule(name).weight.data += 8 / 4 * b @ a
    with torch.no_grad():
        expected = plain(IDS).logits
    torch.testing.assert_close(logits(shared, "policy"), expected, atol=1e-4, rtol=1e-4)
    assert len(state) == 2 * 2 * 7  # A and B of seven layers in two blocks


@pytest.mark.parametrize(("stepped", "other"), [("critic", "policy"), ("policy", "critic")])
def test_a_step_of_one_part_leaves_the_other_bit_equal(stepped: str, other: str) -> None:
    # Item 20, with a real optimizer over both parts, as the trainer has it.
    shared = two_parts()
    parts = [*shared.trainable_parameters("policy"), *shared.trainable_parameters("critic")]
    optimizer = torch.optim.AdamW(parts, lr=0.1)

    def output(name: str) -> Tensor:
        return logits(shared, "policy") if name == "policy" else values(shared)

    before = {name: output(name) for name in ("policy", "critic")}
    base = logits(shared, None)
    with shared.active(stepped):
        hidden = shared.hidden(IDS, ALL)
        last = (
            shared.vocabulary_head(hidden)
            if stepped == "policy"
            else shared.heads["critic"](hidden)
        )
        last.pow(2).mean().backward()
    assert all(p.grad is None for p in shared.trainable_parameters(other))
    assert all(p.grad is not None for p in shared.trainable_parameters(stepped))
    optimizer.step()
    assert torch.equal(output(other), before[other])
    assert torch.equal(logits(shared, None), base)
    assert not torch.allclose(output(stepped), before[stepped], atol=1e-2)


def test_exactly_the_named_parameters_train_after_every_switch() -> None:
    # Item 20: peft switches gradients off and on with the adapters; they stay pinned here.
    shared = two_parts()
    shared.add_adapter("reward", LORA)
    shared.add_head("reward", weight=torch.ones(1, H))

    def expected(name: str) -> set[str]:
        return {key for key, _ in shared.named_parameters() if f".{name}." in key}

    wanted = expected("policy") | expected("critic")
    assert len(wanted) == 2 * 28 + 2
    for name in ("reward", None, "critic", "policy", None):
        shared.activate(name)
        assert trained(shared) == wanted
    held = {id(p) for part in ("policy", "critic") for p in shared.trainable_parameters(part)}
    assert held == {id(p) for p in shared.parameters() if p.requires_grad}
    assert shared.trainable_parameters("reward") == []


def test_the_adapter_before_returns_whatever_happens() -> None:
    # Item 20.
    shared = two_parts()
    expected = logits(shared, "policy")
    with pytest.raises(IndexError), shared.active(None), shared.active("critic"):
        shared.hidden(IDS + V, ALL)  # ids that the embedding does not have
    assert shared.active_adapter == "policy"
    with torch.no_grad():
        assert torch.equal(shared.vocabulary_head(shared.hidden(IDS, ALL)), expected)
    with shared.active(None):
        with shared.active("critic"):
            pass
        assert shared.active_adapter is None
        with torch.no_grad():
            assert torch.equal(
                shared.vocabulary_head(shared.hidden(IDS, ALL)), logits(shared, None)
            )


def test_an_unknown_adapter_is_refused() -> None:
    shared = two_parts()
    with pytest.raises(KeyError, match="nobody"):
        shared.activate("nobody")
    assert shared.active_adapter == "policy"


def test_dropout_never_acts() -> None:
    # Item 4: attention dropout of the base, nn.Dropout of GPT-NeoX and an adapter's own dropout.
    lora = LoraConfig(r=4, dropout=0.9)
    shape = {"vocab_size": V, "hidden_size": H, "num_hidden_layers": 1, "num_attention_heads": 2}
    neox = GPTNeoXForCausalLM(GPTNeoXConfig(**shape, intermediate_size=32, hidden_dropout=0.9))
    for model in (tiny_llama(attention_dropout=0.9), neox):
        shared = SharedBase(model)
        shared.add_adapter("policy", lora, trainable=True)
        fill(shared, "policy")
        shared.train()
        assert not any(module.training for module in shared.modules())
        first = logits(shared, "policy")
        assert torch.equal(logits(shared, "policy"), first)


def test_a_fresh_adapter_depends_on_its_seed_alone() -> None:
    def start(seed: int) -> dict[str, Tensor]:
        shared = SharedBase(tiny_llama())
        shared.add_adapter("policy", LORA, seed=seed)
        return shared.adapter_state("policy")

    state = torch.random.get_rng_state()
    first = start(3)
    torch.rand(5)
    state_after = start(3)
    assert all(torch.equal(first[key], state_after[key]) for key in first)
    other = start(4)
    assert not any(torch.equal(first[key], other[key]) for key in first if "lora_A" in key)
    torch.random.set_rng_state(state)
    start(5)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_head_starts_as_zero_or_as_given() -> None:
    # Item 18.
    shared = SharedBase(tiny_llama().to(torch.bfloat16))
    hidden = torch.randn(5, H)
    assert shared.add_head("critic")(hidden).tolist() == [[0.0]] * 5
    weight = torch.arange(float(H))
    head = shared.add_head("reward", weight=weight)
    torch.testing.assert_close(head(hidden)[:, 0], hidden @ weight)
    assert not any(p.requires_grad for p in shared.heads.parameters())
    assert {p.dtype for p in shared.heads.parameters()} == {torch.float32}


def test_a_reward_head_starts_with_the_published_spread() -> None:
    # Item 18: N(0, 1 / sqrt(H + 1)); with 9999 draws the sample's sd is within 4 * .71 % of .01.
    weight = initial_head(9999, seed=0)
    assert weight.shape == (1, 9999)
    assert weight.std().item() == pytest.approx(0.01, rel=0.03)
    assert abs(weight.mean().item()) < 4 * 0.01 / math.sqrt(9999)
    assert torch.equal(weight, initial_head(9999, seed=0))
    assert not torch.equal(weight, initial_head(9999, seed=1))


def test_saved_parts_come_back_bit_equal(tmp_path: Path) -> None:
    # Item 21: the critic's head is saved with it.
    shared = two_parts()
    expected = logits(shared, "policy"), values(shared)
    save_part(shared, "policy", tmp_path / "policy")
    save_part(shared, "critic", tmp_path / "critic")
    fill(shared, "policy")
    fill(shared, "critic")
    shared.heads["critic"].weight.data.zero_()
    assert not torch.equal(logits(shared, "policy"), expected[0])
    restore_part(shared, "policy", tmp_path / "policy")
    restore_part(shared, "critic", tmp_path / "critic")
    assert torch.equal(logits(shared, "policy"), expected[0])
    assert torch.equal(values(shared), expected[1])
    assert shared.active_adapter == "policy"


def test_saved_adapters_are_read_by_peft_and_by_us(tmp_path: Path) -> None:
    shared = two_parts()
    expected = logits(shared, "policy")
    save_part(shared, "policy", tmp_path)
    with quiet_peft():
        theirs = PeftModel.from_pretrained(tiny_llama(), tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(theirs(input_ids=IDS).logits, expected)
    ours = SharedBase(tiny_llama())
    ours.add_adapter("other", folder=tmp_path)
    assert torch.equal(logits(ours, "other"), expected)
    assert trained(ours) == set()


def test_adapter_state_goes_in_and_out() -> None:
    shared = two_parts()
    expected = logits(shared, "policy")
    state = {key: value.clone() for key, value in shared.adapter_state("policy").items()}
    shared.load_adapter_state("critic", state)
    assert torch.equal(logits(shared, "critic"), expected)
    part = dict(list(state.items())[:1])
    with pytest.raises(UserError, match="27 weights missing"):
        shared.load_adapter_state("critic", part)


def test_a_folder_without_a_fitting_adapter_is_refused(tmp_path: Path) -> None:
    save_part(two_parts(), "policy", tmp_path / "good")
    shared = SharedBase(tiny_llama())
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        shared.add_adapter("a", folder=tmp_path)
    no_weights = shutil.copytree(tmp_path / "good", tmp_path / "no_weights")
    (no_weights / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"adapter_model\.safetensors"):
        shared.add_adapter("b", folder=no_weights)
    wider = SharedBase(tiny_llama(hidden_size=32))
    with pytest.raises(UserError, match="shapes"):
        wider.add_adapter("c", folder=tmp_path / "good")
    state = load_file(tmp_path / "good" / "adapter_model.safetensors")
    save_file(dict(list(state.items())[:3]), no_weights / "adapter_model.safetensors")
    with pytest.raises(UserError, match="25 weights missing"):
        SharedBase(tiny_llama()).add_adapter("d", folder=no_weights)


def test_the_base_never_trains() -> None:
    model = tiny_llama()
    model.train()
    model.requires_grad_(True)
    shared = SharedBase(model)
    assert trained(shared) == set()
    assert isinstance(shared.causal.get_input_embeddings(), nn.Embedding)
    assert shared.active_adapter is None


def test_a_part_may_have_weights_of_its_own() -> None:
    # Item 20: each part says what its own model says, whichever adapters the base carries.
    other = tiny_llama(seed=5, num_hidden_layers=1)
    with torch.no_grad():
        expected = other(IDS).logits
    shared = two_parts()
    policy = logits(shared, "policy")
    shared.add_model("reference", other)
    assert shared.reference == "reference"
    assert torch.equal(logits(shared, "reference"), expected)
    assert torch.equal(logits(shared, "policy"), policy)
    assert shared.has_part("reference")
    assert shared.adapters == ["critic", "policy"]
    assert trained(shared) == {n for n, _ in shared.named_parameters() if is_part(n)}
    assert shared.causal is other  # the newest part is in force
    with shared.active(None):
        assert shared.causal is shared.base


def is_part(name: str) -> bool:
    return ".policy." in name or ".critic." in name


def test_the_base_itself_may_train_unless_it_carries_adapters() -> None:
    model = tiny_llama()
    shared = SharedBase(model)
    shared.add_model("policy", model, trainable=True)
    assert {id(p) for p in shared.trainable_parameters("policy")} == {
        id(p) for p in model.parameters()
    }
    assert all(p.requires_grad for p in model.parameters())
    # another part on top of it does not undo that
    shared.add_model("reference", tiny_llama(seed=1))
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in shared.model_of("reference").parameters())
    carrier = two_parts()
    with pytest.raises(UserError, match=r"base cannot train: it carries the adapters \['critic"):
        carrier.add_model("policy", carrier.base, trainable=True)


def test_the_adapters_of_the_base_are_off_where_a_model_is_in_force() -> None:
    # What trains fully is the base itself: adapters on it must not leak into that part.
    model = tiny_llama()
    with torch.no_grad():
        expected = model(IDS).logits
    shared = two_parts(model)
    shared.add_model("whole", shared.base)
    assert torch.equal(logits(shared, "whole"), expected)
    assert not torch.allclose(logits(shared, "policy"), expected, atol=1e-2)


def test_blocks_forget_only_in_training_passes_and_learn_the_same() -> None:
    shared = two_parts(tiny_llama(attention_dropout=0.9)).train()
    blocks = shared.base.model.layers
    runs: list[int] = []
    for block in blocks:
        block.mlp.register_forward_pre_hook(lambda module, inputs: runs.append(1))

    def gradient() -> Tensor:
        with shared.active("policy"), shared.recomputing():
            shared.vocabulary_head(shared.hidden(IDS, ALL)).pow(2).mean().backward()
        parameters = shared.trainable_parameters("policy")
        found = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        shared.zero_grad()
        return found

    expected = gradient()
    assert len(runs) == 2  # one forward of both blocks
    shared.activation_checkpointing_enable()
    assert torch.equal(gradient(), expected)
    assert len(runs) == 2 + 4  # a forward, and another for the backward pass
    # whatever happens inside, sampling afterwards keeps its cache
    modes: dict[bool, set[bool]] = {True: set(), False: set()}

    def fail() -> None:
        for block in blocks:
            for module in block.modules():
                modes[module is block].add(module.training)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), shared.recomputing():
        fail()
    assert modes == {True: {True}, False: {False}}
    assert not any(module.training for module in shared.modules())
    with torch.no_grad(), shared.active("policy"):
        assert shared.causal(IDS, use_cache=True).past_key_values.get_seq_length() == 7


def test_saved_models_come_back_bit_equal(tmp_path: Path) -> None:
    # Item 21, for parts with weights of their own and for one that is a head alone.
    shared = two_parts()
    shared.add_model("judge", tiny_llama(seed=3))
    shared.add_head("judge", weight=torch.linspace(0, 1, H))
    shared.add_head("lone", weight=torch.linspace(2, 3, H))
    expected = logits(shared, "judge")
    for name in ("judge", "lone"):
        save_part(shared, name, tmp_path / name)
    assert [path.name for path in (tmp_path / "lone").iterdir()] == ["head.safetensors"]
    for parameter in [*shared.model_of("judge").parameters(), *shared.heads.parameters()]:
        parameter.data.zero_()
    policy = logits(shared, "policy")
    for name in ("judge", "lone"):
        restore_part(shared, name, tmp_path / name)
    assert torch.equal(logits(shared, "judge"), expected)
    assert torch.equal(logits(shared, "policy"), policy)
    assert torch.equal(shared.heads["judge"].weight[0], torch.linspace(0, 1, H))
    assert torch.equal(shared.heads["lone"].weight[0], torch.linspace(2, 3, H))
