"""Sampling (docs/ppo.md items 1, 3): a loop without cache, exact probabilities, brute force."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from align.generation import Response, Sampling, generate, pad_left

V, EOS, PAD = 24, 1, 0
PROMPTS = [[5, 6, 7], [9], [4, 8, 12, 16, 20, 3, 2], [11, 10], [13, 3, 3, 3]]
"""Of different lengths; their responses end at different steps."""


def tiny_llama(seed: int = 0, spread: float = 12.0) -> LlamaForCausalLM:
    """A random Llama; a larger spread makes its predictions more certain."""
    config = LlamaConfig(
        vocab_size=V, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data *= spread
    return model.eval()


def bigram(logits: Tensor) -> LlamaForCausalLM:
    """A model whose next-token logits are `logits[token]`, whatever came before."""
    config = LlamaConfig(
        vocab_size=V, hidden_size=V, intermediate_size=4, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for layer in model.model.layers:
        for parameter in layer.parameters():
            parameter.data.zero_()  # both residual branches add nothing
    model.model.embed_tokens.weight.data = torch.eye(V)
    # RMSNorm of a one-hot vector is sqrt(V) at its place
    model.lm_head.weight.data = logits.T / math.sqrt(V)
    return model


def sampling(n: int, stops: set[int] | None = None, temperature: float = 1.0) -> Sampling:
    return Sampling(n, frozenset({EOS} if stops is None else stops), temperature, PAD)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def next_logprobs(model: nn.Module, ids: list[int], temperature: float = 1.0) -> Tensor:
    """Log-probabilities of the next token: one unpadded sequence, no cache."""
    return (model(torch.tensor([ids])).logits[0, -1] / temperature).log_softmax(-1)


def greedy_by_hand(model: nn.Module, prompt: list[int], n: int, stops: set[int]) -> Response:
    """The most likely token again and again."""
    ids: list[int] = []
    logprobs: list[float] = []
    while len(ids) < n and not (ids and ids[-1] in stops):
        following = next_logprobs(model, prompt + ids)
        ids.append(int(following.argmax()))
        logprobs.append(following.max().item())
    return Response(ids, logprobs, ids[-1] in stops)


def assert_same(found: Response, expected: Response) -> None:
    assert found.ids == expected.ids
    assert found.finished == expected.finished
    assert found.logprobs == pytest.approx(expected.logprobs, abs=2e-5)


def test_left_padding_keeps_real_tokens_on_the_right() -> None:
    ids, mask = pad_left([[5, 6, 7], [9], [PAD, 2]], PAD)
    assert ids.tolist() == [[5, 6, 7], [PAD, PAD, 9], [PAD, PAD, 2]]
    # A pad token that is part of a prompt counts: the mask comes from lengths.
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 1]]


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("stops", [{1}, {2, 4, 6, 7}, set(range(0, V, 2)), set()])
def test_greedy_responses_equal_a_loop_without_cache_or_padding(
    stops: set[int], static: bool
) -> None:
    # Item 1; the many stop sets end rows at different steps, so finished rows leave the batch.
    model = tiny_llama()
    found = generate(model, PROMPTS, replace(sampling(12, stops, 0), static=static))
    for prompt, response in zip(PROMPTS, found, strict=True):
        assert_same(response, greedy_by_hand(model, prompt, 12, stops))


def test_greedy_responses_of_a_model_with_learned_positions() -> None:
    # Item 1: GPT-2 adds a vector for each position, so that a shift by padding would show.
    shape = {"vocab_size": V, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(**shape)).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data *= 10
    found = generate(model, PROMPTS, sampling(8, {2, 4, 6, 7}, 0))
    for prompt, response in zip(PROMPTS, found, strict=True):
        assert_same(response, greedy_by_hand(model, prompt, 8, {2, 4, 6, 7}))


def test_greedy_responses_do_not_depend_on_the_batch() -> None:
    # Item 1: alone, in another order, with another filler, and with a far longer neighbour.
    model = tiny_llama(seed=3)
    rules = sampling(10, {2, 4, 6, 7, 9}, 0)
    together = generate(model, PROMPTS, rules)
    for prompt, response in zip(PROMPTS, together, strict=True):
        assert_same(generate(model, [prompt], rules)[0], response)
    backwards = generate(model, PROMPTS[::-1], rules)[::-1]
    filled = generate(model, PROMPTS, Sampling(10, rules.stop_ids, 0, pad_id=EOS))
    wide = generate(model, [*PROMPTS, list(range(2, V)) * 2], rules)
    for i, response in enumerate(together):
        for other in (backwards, filled, wide):
            assert_same(other[i], response)


def test_the_batch_shrinks_to_the_rows_that_still_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # The chain 2 -> 3 -> ... -> V - 1 ends where the stop id stands; prompts start at distances
    # 1, 2, 5 and 9 of it, so a row leaves after steps 1, 2 and 5.
    chain = torch.full((V, V), -30.0)
    chain[torch.arange(V - 1), torch.arange(1, V)] = 30.0
    model = bigram(chain)
    rows: list[int] = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    stop = 20
    found = generate(model, [[stop - d] for d in (2, 9, 1, 5)], sampling(12, {stop}, 0))
    assert [r.ids for r in found] == [list(range(stop - d + 1, stop + 1)) for d in (2, 9, 1, 5)]
    assert all(response.finished for response in found)
    # the prompt, then one step fewer than tokens: none is run after the last row's last token
    assert rows == [4, 3, 2, 2, 2, 1, 1, 1, 1]
    for ended, runs in ((1, [16, 16, 16]), (2, [16, 14, 14])):
        rows.clear()
        prompts = [[stop - 1]] * ended + [[stop - 3]] * (16 - ended)
        generate(model, prompts, sampling(12, {stop}, 0))
        assert rows == runs, "less than an eighth stays"


def test_what_all_prompts_share_runs_once() -> None:
    model = tiny_llama(seed=3)
    start = [5, 9, 3, 3, 11]
    prompts = [start + tail for tail in ([4], [7, 2, 6], [8, 8, 1, 2, 3])]
    plain = generate(model, prompts, sampling(70, set(), 0))
    run: list[tuple[int, ...]] = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: run.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    for shared in (1, 5):
        run.clear()
        found = generate(model, prompts, sampling(70, set(), 0), shared=shared)
        for response, other in zip(found, plain, strict=True):
            assert_same(response, other)
        # once the shared tokens; the rest, padded to the longest; then a token a step
        assert run == [(1, shared), (3, 10 - shared), *[(3, 1)] * 69]


def test_a_response_is_cut_at_its_length_limit() -> None:
    chain = torch.full((V, V), -30.0)
    chain[torch.arange(V - 1), torch.arange(1, V)] = 30.0
    model, passes = bigram(chain), []
    model.model.register_forward_pre_hook(lambda module, args: passes.append(1))
    found = generate(model, [[2], [6]], sampling(4, {10}, 0))
    assert len(passes) == 4  # the prompts and three tokens: none after the last
    assert found[0].ids == [3, 4, 5, 6]
    assert not found[0].finished
    assert found[1].ids == [7, 8, 9, 10]
    assert found[1].finished  # the stop token is the last one allowed


def test_a_callers_rule_ends_a_response_too() -> None:
    chain = torch.full((V, V), -30.0)
    chain[torch.arange(V - 1), torch.arange(1, V)] = 30.0
    # Ended once two tokens add up to more than 20: 9 + 10 do not, 10 + 11 do.
    found = generate(
        bigram(chain), [[8], [3]], sampling(5, {6}, 0), ended=lambda ids: sum(ids[-2:]) > 20
    )
    assert [r.ids for r in found] == [[9, 10, 11], [4, 5, 6]]
    assert all(response.finished for response in found)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_logprobs_are_those_of_the_distribution_sampled_from(temperature: float) -> None:
    # Item 3: at the sampling temperature, each token given what stands before it.
    model = tiny_llama(spread=8)
    found = generate(model, PROMPTS, sampling(9, {2, 4, 6}, temperature), rng())
    for prompt, response in zip(PROMPTS, found, strict=True):
        for t, token in enumerate(response.ids):
            expected = next_logprobs(model, prompt + response.ids[:t], temperature)[token].item()
            assert response.logprobs[t] == pytest.approx(expected, abs=2e-5)
        assert all(token not in (2, 4, 6) for token in response.ids[:-1])


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_sampled_frequencies_follow_the_softmax(temperature: float) -> None:
    # Item 3. Pearson's chi-square of 20000 first tokens; fails by chance once in 10^5 seeds.
    n, logits = 20_000, torch.zeros(V, V)
    logits[5] = torch.linspace(-2, 1.5, V)
    found = generate(bigram(logits), [[5]] * n, sampling(1, set(), temperature), rng(1))
    counts = torch.bincount(torch.tensor([r.ids[0] for r in found]), minlength=V).double()
    expected = n * (logits[5].double() / temperature).softmax(-1)
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    assert statistic < chi2.isf(1e-5, V - 1)


def test_sampled_pairs_follow_the_joint_distribution() -> None:
    # Brute force over all pairs of tokens: each draw is fresh, given the token before it.
    n = 20_000
    logits = torch.full((V, V), -1e9)
    logits[:4, :4] = torch.randn(4, 4, generator=rng(2))
    found = generate(bigram(logits), [[2]] * n, sampling(2, set()), rng(3))
    one = logits[:4, :4].double().softmax(-1)
    expected = n * one[2][:, None] * one
    counts = torch.zeros(4, 4).double()
    for response in found:
        counts[response.ids[0], response.ids[1]] += 1
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    assert statistic < chi2.isf(1e-5, 15)


def test_a_token_without_probability_is_never_drawn() -> None:
    # Not even by a draw of exactly 0 or of nearly 1.
    logits = torch.full((V, V), -math.inf)
    logits[:, [3, 7]] = 0.0

    edges = torch.tensor([[0.0], [1 - 2**-24]])  # the least and the largest of torch.rand
    model = bigram(torch.zeros(V, V))
    model.lm_head.forward = lambda hidden: logits[0].expand(*hidden.shape[:-1], V)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda *shape, generator: edges.expand(shape))
        found = generate(model, [[5], [5]], sampling(1, set()), rng())
    assert [response.ids for response in found] == [[3], [7]]


def test_a_seed_fixes_the_responses_and_the_global_stream_is_left_alone() -> None:
    model, rules = tiny_llama(spread=6), sampling(8)
    state = torch.random.get_rng_state()
    first = generate(model, PROMPTS, rules, rng(5))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    assert generate(model, PROMPTS, rules, rng(5)) == first
    assert generate(model, PROMPTS, rules, rng(6)) != first


def test_a_sampled_response_does_not_depend_on_when_its_neighbours_end() -> None:
    # Each row has its own draws: rows that leave the batch do not shift those of the others.
    model = tiny_llama(spread=6)
    rows = generate(model, PROMPTS, sampling(12, set()), rng(7))
    stops = {2, 4, 6, 8, 10}
    stopped = generate(model, PROMPTS, sampling(12, stops), rng(7))
    assert len({len(response.ids) for response in stopped}) > 2
    for free, cut in zip(rows, stopped, strict=True):
        assert cut.ids == free.ids[: len(cut.ids)]
        assert cut.logprobs == pytest.approx(free.logprobs[: len(cut.ids)], abs=2e-5)


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_given_draws_choose_by_the_inverse_of_the_distribution(temperature: float) -> None:
    # By hand: the first token at which the cumulative probability exceeds the row's draw.
    model, rules = tiny_llama(spread=6), sampling(6, {2, 4, 6}, temperature)
    draws = torch.rand(len(PROMPTS), 6, generator=rng(8))
    found = generate(model, PROMPTS, rules, draws=draws)
    assert len({len(response.ids) for response in found}) > 1
    for prompt, response, uniform in zip(PROMPTS, found, draws.tolist(), strict=True):
        ids: list[int] = []
        while len(ids) < 6 and not (ids and ids[-1] in rules.stop_ids):
            cumulative = next_logprobs(model, prompt + ids, temperature).exp().double().cumsum(0)
            ids.append(int((cumulative <= uniform[len(ids)]).sum()))
        assert response.ids == ids
    assert generate(model, PROMPTS, rules, rng(8)) == found  # what a generator would have drawn


def test_rows_may_be_sampled_in_any_company_with_their_own_draws() -> None:
    model, rules = tiny_llama(spread=6), sampling(8, {2, 4, 6})
    draws = torch.rand(len(PROMPTS), 8, generator=rng(9))
    together = generate(model, PROMPTS, rules, draws=draws)
    for rows in ([3], [4, 0], [2, 1, 3]):
        alone = generate(model, [PROMPTS[row] for row in rows], rules, draws=draws[rows])
        for row, response in zip(rows, alone, strict=True):
            assert_same(response, together[row])


def test_a_probe_reads_the_state_before_every_token() -> None:
    # Against one full pass over each finished sequence; tokens and log-probabilities stay those
    # of sampling without a probe.
    model, rules = tiny_llama(spread=6), sampling(9, {2, 4, 6}, 0.8)
    probe = nn.Linear(16, 1)
    plain = generate(model, PROMPTS, rules, rng(4))
    found = generate(model, PROMPTS, rules, rng(4), probe=probe)
    assert len({len(response.ids) for response in found}) > 2
    weight, bias = probe.weight[0].detach(), probe.bias.item()
    for prompt, response, other in zip(PROMPTS, found, plain, strict=True):
        assert_same(response, other)
        assert other.values == []
        with torch.no_grad():
            hidden = model.model(torch.tensor([prompt + response.ids])).last_hidden_state[0]
        expected = hidden[len(prompt) - 1 : -1] @ weight + bias
        assert response.values == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_process_steps_on_while_another_has_unfinished_responses() -> None:
    # Sharded weights: every process takes part in every pass. The other one is busy for `busy`
    # steps; the responses of this one stay those it would have had alone.
    model, rules = tiny_llama(spread=6), sampling(12, {2, 4, 6, 8, 10, 12, 14})
    alone = generate(model, PROMPTS, rules, rng(5))
    longest = max(len(response.ids) for response in alone)
    assert longest < 11
    for busy in (1, longest + 1, 99):
        asked: list[bool] = []
        passes: list[int] = []

        def anyone(mine: bool, busy: int = busy, asked: list[bool] = asked) -> bool:
            asked.append(mine)
            return mine or len(asked) < busy

        hook = model.model.register_forward_pre_hook(
            lambda module, inputs, passes=passes: passes.append(1)
        )
        found = generate(model, PROMPTS, rules, rng(5), anyone=anyone)
        hook.remove()
        for one, other in zip(found, alone, strict=True):
            assert_same(one, other)
        # one pass for the prompts, one for every token but the last anywhere
        assert len(passes) == min(max(busy, longest), 12)
        assert asked == [step + 1 < longest for step in range(len(passes))]
