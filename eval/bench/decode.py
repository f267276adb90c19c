"""Benchmark: the decoding engine against transformers `generate`, in one run on one machine.

`python -m eval.bench.decode --model DIR --rows 32` prints, for random prompts: prompt tokens per second, decoded tokens
per second with every row alive, and seconds for whole conversations of three turns with replies of different lengths,
where the baseline is `generate` with left padding that encodes the conversation anew each turn. Ratios are what counts:
other work on the machine slows both. Run by hand; sizes are small enough for a minute on two cores.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from agents.engine import Engine
from agents.requests import Request

TURNS = ((24, 24), (12, 16), (8, 8))  # longest reply and tokens added before the next turn


def main() -> None:
    """Read the arguments, run the parts, write a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True, help="directory of a causal LM")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=96, help="tokens of the first prompt")
    parser.add_argument("--new", type=int, default=12, help="tokens decoded in the decode part")
    parser.add_argument("--parts", nargs="+", choices=["decode", "conversation"], default=["decode", "conversation"])
    args = parser.parse_args()
    cuda = torch.cuda.is_available()
    model: Any = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16 if cuda else torch.float32)
    model = model.to("cuda" if cuda else "cpu").eval()
    rng = random.Random(0)
    prompts = [_ids(rng, model, args.prompt) for _ in range(args.rows)]
    with Engine(model, slots=args.rows) as engine:
        if "decode" in args.parts:
            _decode(model, engine, prompts, args.new)
        if "conversation" in args.parts:
            _conversation(model, engine, prompts, rng)


def _decode(model: Any, engine: Engine, prompts: list[list[int]], new: int) -> None:
    """Time encoding and decoding apart, every row alive throughout; two rounds in turn, the better of each counts."""
    rows, tokens = len(prompts), sum(map(len, prompts))
    times: list[tuple[float, float, float, float]] = []
    for _ in range(2):
        first, rest = _timed_generate(model, prompts, new + 1)
        engine.reset()
        encode = _seconds(lambda: asyncio.run(_engine(engine, prompts, [1] * rows)))
        decode = _seconds(lambda: asyncio.run(_engine(engine, prompts, [new] * rows)))
        times.append((encode, first, decode, rest))
    encode_ours, encode_base, decode_ours, decode_base = (min(column) for column in zip(*times, strict=True))
    _line(f"prefill rows={rows}", tokens / encode_ours, tokens / encode_base, "tok/s")
    _line(f"decode rows={rows}", rows * new / decode_ours, rows * new / decode_base, "tok/s")


def _conversation(model: Any, engine: Engine, prompts: list[list[int]], rng: random.Random) -> None:
    """Time three turns: replies of random length up to the turn's limit, then the next turn's text."""
    engine.reset()
    plan = [[(rng.randint(limit // 3, limit), _ids(rng, model, added)) for limit, added in TURNS] for _ in prompts]
    written = sum(n for row in plan for n, _ in row)

    def ours() -> None:
        asyncio.run(_talk(engine, prompts, plan))

    def base() -> None:
        held = [list(p) for p in prompts]
        for turn in range(len(TURNS)):
            replies = _generate(model, held, max(row[turn][0] for row in plan))
            for ids, reply, row in zip(held, replies, plan, strict=True):
                ids += reply[: row[turn][0]] + row[turn][1]

    _line(f"conversations rows={len(prompts)}", written / _seconds(ours), written / _seconds(base), "tok/s end to end")


async def _talk(engine: Engine, prompts: list[list[int]], plan: list[list[tuple[int, list[int]]]]) -> None:
    async def one(ids: list[int], turns: list[tuple[int, list[int]]]) -> None:
        held = list(ids)
        for count, added in turns:
            completion = await engine.generate(Request(tuple(held), count))
            held += [*completion.token_ids, *added]

    await asyncio.gather(*(one(p, row) for p, row in zip(prompts, plan, strict=True)))


async def _engine(engine: Engine, prompts: list[list[int]], counts: list[int]) -> None:
    await asyncio.gather(*(engine.generate(Request(tuple(p), n)) for p, n in zip(prompts, counts, strict=True)))


def _timed_generate(model: Any, prompts: list[list[int]], new: int) -> tuple[float, float]:
    """Return the seconds to the first token and from there to the last."""
    steps = [time.perf_counter()]
    _generate(model, prompts, new, lambda: steps.append(time.perf_counter()))
    return steps[1] - steps[0], steps[-1] - steps[1]


def _generate(
    model: Any, prompts: list[list[int]], new: int, on_step: Callable[[], None] = lambda: None
) -> list[list[int]]:
    """Decode greedily with `generate`: one left-padded batch, no end token; `on_step` runs before each choice."""

    def step(_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        on_step()
        return scores

    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=new,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            logits_processor=[step],
        )
    return out[:, width:].tolist()


def _ids(rng: random.Random, model: Any, count: int) -> list[int]:
    return [rng.randrange(100, model.config.vocab_size) for _ in range(count)]


def _seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _line(name: str, ours: float, base: float, unit: str) -> None:
    sys.stdout.write(f"{name:28} engine {ours:8.1f}  generate {base:8.1f} {unit}  ratio {ours / base:.2f}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
