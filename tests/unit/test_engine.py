"""The engine against transformers itself: same greedy tokens, same log-probabilities, whatever is batched or reused."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Iterator
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from agents.engine import Engine
from agents.packed import Chunk, build_layout
from agents.requests import Completion, Request
from agents.sampling import choose, scale, top
from agents.slots import common_prefix
from tests.unit.tiny import tiny_model
from tools.errors import ContextLengthError, ModelError

LENGTHS = (1, 3, 17, 40, 64, 5, 90, 33, 2, 28, 51, 12)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_model()


@pytest.fixture
def engine(model: LlamaForCausalLM) -> Iterator[Engine]:
    with Engine(model, slots=16, prefill_tokens=48) as engine:
        yield engine


def ids(length: int, seed: int = 0) -> tuple[int, ...]:
    rng = random.Random(f"{length} {seed}")
    return tuple(rng.randrange(3, 320) for _ in range(length))


def reference(model: LlamaForCausalLM, prompt: tuple[int, ...], n: int) -> list[int]:
    out: Any = model.generate(torch.tensor([prompt]), max_new_tokens=n, do_sample=False, use_cache=True)  # pyright: ignore
    return out[0, len(prompt) :].tolist()


def full_logprobs(model: LlamaForCausalLM, prompt: tuple[int, ...], completion: Completion, t: float) -> list[float]:
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion.token_ids])).logits[0, len(prompt) - 1 : -1]
    logp = (logits / t).log_softmax(-1)
    return logp[torch.arange(len(completion.token_ids)), list(completion.token_ids)].tolist()


async def many(engine: Engine, requests: list[Request]) -> list[Completion]:
    return await asyncio.wait_for(asyncio.gather(*(engine.generate(r) for r in requests)), 60)


async def one(waiting: Awaitable[Completion]) -> Completion:
    return await asyncio.wait_for(waiting, 60)


async def test_greedy_equals_generate_on_ragged_prompts_with_staggered_finishes(model, engine) -> None:
    requests = [Request(ids(n), 3 + 5 * (i % 4)) for i, n in enumerate(LENGTHS)]
    for request, completion in zip(requests, await many(engine, requests), strict=True):
        assert list(completion.token_ids) == reference(model, request.prompt, request.max_tokens)
        assert completion.finish_reason == "length"


async def test_more_requests_than_slots(model) -> None:
    requests = [Request(ids(n, seed=1), 2 + i % 7) for i, n in enumerate(LENGTHS * 2)]
    requests = [Request((*r.prompt, i), r.max_tokens) for i, r in enumerate(requests, start=3)]
    with Engine(model, slots=3, prefill_tokens=32) as engine:
        completions = await many(engine, requests)
    assert [list(c.token_ids) for c in completions] == [reference(model, r.prompt, r.max_tokens) for r in requests]


async def test_requests_that_join_while_others_decode(model, engine) -> None:
    async def later(i: int, n: int) -> Completion:
        await asyncio.sleep(0.004 * i)
        return await engine.generate(Request(ids(n, seed=2), 20))

    completions = await asyncio.gather(*(later(i, n) for i, n in enumerate(LENGTHS)))
    for n, completion in zip(LENGTHS, completions, strict=True):
        assert list(completion.token_ids) == reference(model, ids(n, seed=2), 20)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
async def test_logprobs_match_a_full_forward(model, engine, temperature) -> None:
    requests = [Request(ids(n, seed=3), 12, temperature) for n in LENGTHS]
    for request, completion in zip(requests, await many(engine, requests), strict=True):
        expected = full_logprobs(model, request.prompt, completion, temperature or 1.0)
        assert completion.logprobs == pytest.approx(expected, abs=1e-4)


async def test_next_turn_goes_on_in_place_and_equals_recomputation(model, engine) -> None:
    first = await one(engine.generate(Request(ids(40), 10)))
    prompt = ids(40) + first.token_ids + ids(9, seed=4)
    second = await one(engine.generate(Request(prompt, 10)))
    assert second.cached_tokens == 40 + 10 - 1  # the last token of a completion was never fed
    assert list(second.token_ids) == reference(model, prompt, 10)
    assert second.logprobs == pytest.approx(full_logprobs(model, prompt, second, 1.0), abs=1e-4)


async def test_prefix_copy_leaves_the_source_and_the_results_alone(model, engine) -> None:
    base = ids(60, seed=5)
    first = await one(engine.generate(Request(base, 8)))
    branches = [base + ids(7, seed=s) for s in (6, 7, 8)]
    completions = await many(engine, [Request(b, 8) for b in branches])
    assert [c.cached_tokens for c in completions] == [60, 60, 60]
    assert [list(c.token_ids) for c in completions] == [reference(model, b, 8) for b in branches]
    follow = base + first.token_ids + ids(4, seed=9)
    assert list((await one(engine.generate(Request(follow, 8)))).token_ids) == reference(model, follow, 8)


async def test_a_group_that_arrives_together_encodes_its_prompt_once(engine) -> None:
    before = engine.stats.cached_tokens
    completions = await many(engine, [Request(ids(80, seed=10), 6, 1.0) for _ in range(8)])
    assert engine.stats.cached_tokens - before == 7 * 79
    assert len({c.token_ids for c in completions}) > 1


async def test_identical_greedy_requests_are_computed_once(model, engine) -> None:
    request = Request(ids(30, seed=11), 6)
    before = engine.stats.sampled_tokens
    completions = await many(engine, [request] * 5)
    assert engine.stats.sampled_tokens - before == 6
    assert engine.stats.shared_requests == 4
    assert {c.token_ids for c in completions} == {tuple(reference(model, request.prompt, 6))}


async def test_stop_token_ends_and_is_included(model, engine) -> None:
    expected = reference(model, ids(20, seed=12), 20)
    stop = expected[7]
    completion = await one(engine.generate(Request(ids(20, seed=12), 20, stop=frozenset({stop}))))
    assert list(completion.token_ids) == expected[: expected.index(stop) + 1]
    assert completion.finish_reason == "stop"


async def test_top_logprobs_only_when_asked_and_sorted(engine) -> None:
    plain, asked = await many(engine, [Request(ids(9), 4), Request(ids(9), 4, top_logprobs=5)])
    assert plain.top_logprobs is None
    assert asked.top_logprobs is not None
    for token, logprob, best in zip(asked.token_ids, asked.logprobs, asked.top_logprobs, strict=True):
        assert len(best) == 5
        assert max(best.values()) == pytest.approx(best[token]) == pytest.approx(logprob)


async def test_sampled_frequencies_follow_the_distribution(model) -> None:
    prompt, n = ids(6, seed=13), 2000
    with Engine(model, slots=64) as engine:
        completions = await many(engine, [Request(prompt, 1, 1.5) for _ in range(n)])
    counts = Counter(c.token_ids[0] for c in completions)
    with torch.no_grad():
        p = (model(torch.tensor([prompt])).logits[0, -1] / 1.5).softmax(-1)
    for token in p.topk(5).indices.tolist():
        expected = float(p[token])
        assert abs(counts[token] / n - expected) < 5 * (expected * (1 - expected) / n) ** 0.5


async def test_one_seed_one_result_whatever_is_in_flight(model) -> None:
    request, other = Request(ids(25, seed=14), 15, 1.0), [Request(ids(n, seed=15), 9, 1.0) for n in LENGTHS]
    with Engine(model, seed=3) as engine:
        alone = await one(engine.generate(request))
    with Engine(model, seed=3) as engine:
        crowded = (await many(engine, [*other, request]))[-1]
    with Engine(model, seed=4) as engine:
        reseeded = await one(engine.generate(request))
    assert alone.token_ids == crowded.token_ids
    assert alone.token_ids != reseeded.token_ids


async def test_reset_after_the_weights_changed() -> None:
    model, prompt = tiny_model(seed=1), ids(50, seed=16)
    with Engine(model) as engine:
        before = await one(engine.generate(Request(prompt, 8)))
        model.load_state_dict(tiny_model(seed=2).state_dict())
        engine.reset()
        after = await one(engine.generate(Request(prompt, 8)))
    assert after.cached_tokens == 0
    assert list(after.token_ids) == reference(model, prompt, 8)
    assert before.token_ids != after.token_ids


async def test_reset_refuses_while_requests_are_in_flight(engine) -> None:
    task = asyncio.create_task(engine.generate(Request(ids(50), 400)))
    await asyncio.sleep(0.05)
    with pytest.raises(ModelError, match="in flight"):
        engine.reset()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    engine.reset()


async def test_worker_error_reaches_every_request_and_the_engine_lives_on(model, engine, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(model.model.layers[1], "forward", lambda *a, **k: 1 / 0)
        results = await asyncio.gather(
            *(engine.generate(Request(ids(n), 5)) for n in LENGTHS[:4]), return_exceptions=True
        )
    assert all(isinstance(r, ModelError) and "ZeroDivisionError" in str(r) for r in results)
    completion = await one(engine.generate(Request(ids(17), 5)))
    assert list(completion.token_ids) == reference(model, ids(17), 5)


async def test_cancelled_request_frees_its_row(model) -> None:
    with Engine(model, slots=1) as engine:
        task = asyncio.create_task(engine.generate(Request(ids(10), 500)))
        await asyncio.sleep(0.05)
        task.cancel()
        completion = await one(engine.generate(Request(ids(12), 3)))
    assert list(completion.token_ids) == reference(model, ids(12), 3)


async def test_refusals(model) -> None:
    engine = Engine(model)
    with pytest.raises(ModelError, match="not started"):
        await engine.generate(Request((5,), 3))
    with engine:
        with pytest.raises(ContextLengthError, match="fit the context"):
            await engine.generate(Request(ids(512), 3))
        completion = await one(engine.generate(Request(ids(508), 9)))
    assert (len(completion.token_ids), completion.finish_reason) == (4, "length")


async def test_close_fails_what_is_in_flight(model) -> None:
    engine = Engine(model).start()
    task = asyncio.create_task(engine.generate(Request(ids(10), 500)))
    await asyncio.sleep(0.02)
    await asyncio.to_thread(engine.close)
    with pytest.raises(ModelError, match="closed"):
        await task


def test_used_from_several_event_loops_and_the_model_stays_as_it_was() -> None:
    model = tiny_model()
    model.train()
    model.model.layers[0].eval()
    with Engine(model) as engine:
        results = [asyncio.run(many(engine, [Request(ids(20), 4)]))[0].token_ids for _ in range(2)]
    assert results[0] == results[1]
    assert model.config._attn_implementation == "sdpa"
    assert model.training and model.model.layers[1].training and not model.model.layers[0].training
    loss = model(torch.tensor([ids(20)]), labels=torch.tensor([ids(20)])).loss
    loss.backward()
    grad = model.lm_head.weight.grad
    assert grad is not None and torch.isfinite(grad).all()


def test_a_windowed_model_is_refused() -> None:
    model = tiny_model()
    model.config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(ModelError, match="sliding_attention"):
        Engine(model)


def test_bf16_runs_and_is_close_to_the_full_forward() -> None:
    model = tiny_model().bfloat16()
    with Engine(model) as engine:
        completion = asyncio.run(many(engine, [Request(ids(33), 6)]))[0]
    assert completion.logprobs == pytest.approx(full_logprobs(model, ids(33), completion, 1.0), abs=0.25)


def test_common_prefix() -> None:
    assert common_prefix([1, 2, 3, 4], (1, 2, 9, 4)) == 2
    assert common_prefix([1, 2], (1, 2, 3)) == 2
    assert common_prefix([], (1,)) == 0
    assert common_prefix([4], (5,)) == 0


def test_layout_cuts_runs_where_slots_lie_apart() -> None:
    chunks = [Chunk(0, 4, 1), Chunk(2, 6, 1), Chunk(9, 1, 1), Chunk(5, 3, 2)]
    layout = build_layout(chunks, torch.float32, torch.device("cpu"))
    assert [(r.first, r.last, r.low, r.high, r.length) for r in layout.runs] == [(0, 2, 0, 3, 7), (2, 3, 9, 10, 2)]
    assert layout.runs[0].select is not None and layout.runs[0].select.tolist() == [0, 2]
    assert (layout.runs[0].mask[:, 0, 0] == 0).sum(-1).tolist() == [5, 1, 7]
    assert [(s.first, s.last, s.slot, s.length) for s in layout.segments] == [(3, 5, 5, 5)]
    assert layout.position_N.tolist() == [4, 6, 1, 3, 4]
    assert layout.last_R.tolist() == [0, 1, 2, 4]


def test_choose_walks_the_cumulative_distribution() -> None:
    logits = torch.full((4, 600), -200.0)
    logits[:, [10, 300, 599]] = torch.tensor([0.5, 0.25, 0.25]).log()
    uniform = torch.tensor([0.0, 0.6, 1 - 2**-53, 0.6], dtype=torch.float64)
    tokens, logp, _ = choose(logits, torch.tensor([False, False, False, True]), uniform)
    assert tokens.tolist() == [10, 300, 599, 10]
    assert logp.exp().tolist() == pytest.approx([0.5, 0.25, 0.25, 0.5])


def test_scaled_logits_give_the_tempered_distribution() -> None:
    logits, temperature = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]]), torch.tensor([2.0, 0.0])
    scaled = scale(logits, temperature)
    assert scaled.tolist() == [[0.0, 1.0, 0.5], [3.0, 0.0, 0.0]]
    tokens, logp, norm = choose(scaled, temperature == 0, torch.tensor([0.999, 0.5], dtype=torch.float64))
    assert tokens.tolist() == [2, 0]
    assert (scaled - norm[:, None]).exp().sum(-1).tolist() == pytest.approx([1.0, 1.0])
    expected = [torch.tensor([0.0, 1.0, 0.5]).log_softmax(-1)[2].item(), logits[1].log_softmax(-1)[0].item()]
    assert logp.tolist() == pytest.approx(expected, abs=1e-5)


def test_top_is_bounded_by_the_vocabulary() -> None:
    assert top(torch.tensor([-2.0, -1.0]), 5) == {1: -1.0, 0: -2.0}
