"""vLLM behind TRL's own classes, with a fake engine and a fake server; what a GPU would do is not tested here."""

import asyncio
import json
import math
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from torch.nn import Identity

from agents.requests import Request
from tests.unit.tiny import TEMPLATE, tiny_tokenizer
from tools.errors import ConfigError, ContextLengthError, ModelError
from train import vllm_decoders
from train.engines import Vllm, check_engine
from train.grpo import batches, vllm_arguments
from train.settings import GrpoConfig
from train.vllm_decoders import Colocated, Served, completion

END = 2


def settings(**values: Any) -> GrpoConfig:
    return GrpoConfig.model_validate(values)


class FakeLLM:
    """vLLM's offline engine: answers each prompt with its length, then the end token, and keeps what it was asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[tuple[list[list[int]], Any]] = []
        self.error = error

    def generate(self, prompts: list[dict], sampling_params: Any, use_tqdm: bool) -> list[Any]:
        if self.error:
            raise self.error
        self.asked.append(([p["prompt_token_ids"] for p in prompts], sampling_params))
        return [self._output(p["prompt_token_ids"], sampling_params) for p in prompts]

    def _output(self, prompt: list[int], params: Any) -> Any:
        ids = [len(prompt), END][: params.max_tokens]
        best = {9: SimpleNamespace(logprob=-0.1, rank=1)} if params.logprobs else {}
        logprobs = [best | {token: SimpleNamespace(logprob=-0.5 - i, rank=2)} for i, token in enumerate(ids)]
        return SimpleNamespace(prompt_token_ids=prompt, outputs=[SimpleNamespace(token_ids=ids, logprobs=logprobs)])


def colocated(monkeypatch, llm: FakeLLM) -> Any:
    """TRL's VLLMGeneration in colocate mode, as its constructor leaves it, around a fake engine."""
    from trl.generation import vllm_generation as module

    monkeypatch.setattr(module, "SamplingParams", SimpleNamespace, raising=False)
    generation = object.__new__(module.VLLMGeneration)
    generation.__dict__ |= {
        "mode": "colocate",
        "accelerator": SimpleNamespace(device=SimpleNamespace(type="cpu")),
        "model": Identity(),
        "llm": llm,
        "tensor_parallel_size": 1,
        "enable_sleep_mode": False,
        "structured_outputs_regex": None,
        "generation_kwargs": {},
        "temperature": 0.3,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": None,
        "repetition_penalty": 1.0,
        "max_completion_length": 512,
        "logprobs": 0,
    }
    return generation


def request(prompt: tuple[int, ...], **more: Any) -> Request:
    return Request(prompt, **({"max_tokens": 8, "temperature": 1.0, "stop": frozenset({END})} | more))


async def test_requests_that_wait_together_are_one_call_of_trl(monkeypatch):
    llm = FakeLLM()
    generation = colocated(monkeypatch, llm)
    with Colocated(generation, 4, 100) as decoder:
        done = await asyncio.gather(*(decoder.generate(request((7,) * n)) for n in (3, 5, 4)))
    assert [c.token_ids for c in done] == [(3, END), (5, END), (4, END)]
    assert [c.logprobs for c in done] == [(-0.5, -1.5)] * 3
    assert {c.finish_reason for c in done} == {"stop"} and done[0].top_logprobs is None
    ((prompts, params),) = llm.asked
    assert prompts == [[7] * 3, [7] * 5, [7] * 4]
    assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (1.0, 1.0, 0, 8)
    assert params.stop_token_ids == [END]
    assert (generation.temperature, generation.max_completion_length, generation.generation_kwargs) == (0.3, 512, {})


async def test_requests_of_other_settings_are_a_call_of_their_own(monkeypatch):
    llm = FakeLLM()
    with Colocated(colocated(monkeypatch, llm), 4, 100) as decoder:
        plain, scored, cut = await asyncio.gather(
            decoder.generate(request((7, 7))),
            decoder.generate(request((7, 7, 7), top_logprobs=1)),
            decoder.generate(request((7,), max_tokens=1)),
        )
    assert len(llm.asked) == 3
    assert scored.top_logprobs == ({9: -0.1, 3: -0.5}, {9: -0.1, END: -1.5})
    assert scored.logprobs == (-0.5, -1.5)  # of the sampled tokens, not of the best ones
    assert (plain.finish_reason, cut.finish_reason, cut.token_ids) == ("stop", "length", (1,))


async def test_tools_run_while_vllm_does(monkeypatch):
    """The event loop is free during a wave: a call that waits for the loop ends."""
    started, go = threading.Event(), threading.Event()

    class Slow(FakeLLM):
        def generate(self, *args: Any, **more: Any) -> list[Any]:
            started.set()
            assert go.wait(5)
            return super().generate(*args, **more)

    with Colocated(colocated(monkeypatch, Slow()), 4, 100) as decoder:
        waiting = asyncio.create_task(decoder.generate(request((7,))))
        assert await asyncio.to_thread(started.wait, 5)
        go.set()
        assert (await waiting).token_ids == (1, END)


async def test_an_error_of_vllm_is_ours_and_the_next_wave_goes_on(monkeypatch):
    llm = FakeLLM(RuntimeError("CUDA out of memory\nmore"))
    with Colocated(colocated(monkeypatch, llm), 4, 100) as decoder:
        with pytest.raises(ModelError, match=r"vLLM failed: RuntimeError: CUDA out of memory$"):
            await decoder.generate(request((7,)))
        llm.error = None
        assert (await decoder.generate(request((7,)))).token_ids == (1, END)
        with pytest.raises(ContextLengthError, match="4 fit the context"):
            decoder.max_context = 4
            await decoder.generate(request((7,) * 4))


class Server(BaseHTTPRequestHandler):
    """vLLM's `/v1/completions` with token ids, in TRL's form."""

    asked: ClassVar[list[dict]] = []
    status = 200

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Server.asked.append({"path": self.path, **body})
        (prompt,) = body["prompt"]
        ids = [len(prompt), END]
        names = [f"token_id:{token}" for token in ids]
        choice = {
            "prompt_token_ids": prompt,
            "token_ids": ids,
            "logprobs": {
                "tokens": names,
                "token_logprobs": [-0.5, -1.5],
                "top_logprobs": [{name: -0.5 - i} for i, name in enumerate(names)],
            },
        }
        self.send_response(Server.status)
        self.end_headers()
        self.wfile.write(json.dumps({"choices": [choice]}).encode())

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def client():
    """TRL's own client, connected to the fake server."""
    import requests
    from trl.generation.vllm_client import VLLMClient

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    Server.asked, Server.status = [], 200
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()  # shutdown waits so long
    made = object.__new__(VLLMClient)
    made.session, made.base_url, made.model = requests.Session(), f"http://127.0.0.1:{server.server_port}", "policy"
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()


async def test_a_server_is_asked_by_trls_client_each_request_by_itself():
    with client() as trl, Served(SimpleNamespace(vllm_client=trl), 4, 100) as decoder:
        done = await asyncio.gather(*(decoder.generate(request((7,) * n, top_logprobs=5)) for n in (3, 5)))
        assert [c.token_ids for c in done] == [(3, END), (5, END)]
        assert [c.logprobs for c in done] == [(-0.5, -1.5)] * 2
        assert done[0].top_logprobs == ({3: -0.5}, {END: -1.5})
        asked = Server.asked[0]
        assert asked["path"] == "/v1/completions" and asked["return_token_ids"] is True
        sampling = {name: asked[name] for name in ("temperature", "top_p", "top_k", "max_tokens", "logprobs")}
        assert sampling == {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 8, "logprobs": 5}
        assert asked["stop_token_ids"] == [END]
        Server.status = 400
        with pytest.raises(ModelError, match="vLLM failed: Exception: Request failed: 400"):
            await decoder.generate(request((7,)))


def test_processes_without_trls_client_make_one(monkeypatch):
    from trl.generation import vllm_client

    made: list[dict] = []
    monkeypatch.setattr(vllm_client, "VLLMClient", lambda **how: made.append(how) or "client")
    with Served(SimpleNamespace(server_base_url="http://a:1", server_timeout=9.0), 4, 100) as decoder:
        assert decoder._client == "client"
    assert made == [{"base_url": "http://a:1", "connection_timeout": 9.0}]


def test_completions_by_hand():
    asked = request((7,), top_logprobs=2)
    made = completion(asked, [5, 4], [[-0.1, -2.0], [None]], [[6, 5], [4]])
    assert made.token_ids == (5, 4) and made.finish_reason == "length"
    assert made.logprobs[0] == -2.0 and math.isnan(made.logprobs[1])
    with pytest.raises(ModelError, match="no log-probability for sampled token 5"):
        completion(asked, [5], [[-0.1]], [[6]])
    with pytest.raises(ModelError, match="no token"):
        completion(asked, [], [], [])


async def test_a_conversation_through_vllm_only_grows_at_its_end(monkeypatch):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    llm = FakeLLM()
    policy = Vllm(tokenizer, "colocate", slots=4, max_context=500)
    with pytest.raises(ModelError, match="only while a trainer is attached"):
        _ = policy.chat
    with policy.attached(SimpleNamespace(vllm_generation=colocated(monkeypatch, llm))):
        first = await policy.chat.ainvoke([HumanMessage("Is 2 + 2 = 4?")], session="a", max_tokens=8, temperature=1.0)
        talk = [HumanMessage("Is 2 + 2 = 4?"), AIMessage(first.content), HumanMessage("true or false?")]
        second = await policy.chat.ainvoke(talk, session="a", max_tokens=8, temperature=1.0)
    held = first.response_metadata["prompt_token_ids"] + first.response_metadata["token_ids"]
    assert second.response_metadata["prompt_token_ids"][: len(held)] == held
    assert [prompts[0] for prompts, _ in llm.asked] == [
        first.response_metadata["prompt_token_ids"],
        second.response_metadata["prompt_token_ids"],
    ]
    policy.refresh()
    with pytest.raises(ModelError, match="attached"):
        _ = policy.chat


@pytest.mark.parametrize(
    ("values", "more", "said"),
    [
        ({"engine": "vllm_colocate"}, {"gpu": False}, "vllm_colocate needs a GPU"),
        ({"engine": "vllm_server"}, {"gpu": True}, "base_url is missing; start `VLLM_SERVER_DEV_MODE=1 vllm serve"),
        ({"engine": "local"}, {"gpu": True, "sharded": True}, "cannot decode a model that is spread"),
        ({"groups": 4}, {"gpu": True, "processes": 3}, "each of the 3 processes must get whole groups"),
        ({"groups": 4, "mini_groups": 2}, {"gpu": True, "processes": 4}, "updates of 2"),
    ],
)
def test_engines_that_cannot_run_are_refused(values, more, said):
    with pytest.raises(ConfigError, match=said):
        check_engine(settings(**values), **more)


def test_engines_that_can_run():
    check_engine(settings(), gpu=False)
    check_engine(settings(engine="vllm_colocate"), gpu=True, sharded=True)
    check_engine(settings(engine="vllm_server", vllm={"base_url": "http://a:1"}), gpu=True, processes=4)


def test_trls_options_for_each_engine():
    assert vllm_arguments(settings(), 999) == {}
    given = vllm_arguments(settings(engine="vllm_server", vllm={"base_url": "http://a:1"}), 999)
    assert given["use_vllm"] and given["vllm_mode"] == "server" and given["vllm_server_base_url"] == "http://a:1"
    assert given["vllm_importance_sampling_mode"] == "sequence_mask"
    assert given["vllm_importance_sampling_clip_max"] == 3.0 and given["vllm_max_model_length"] == 999
    off = vllm_arguments(settings(engine="vllm_colocate", loss={"importance": "off"}), 999)
    assert off["vllm_importance_sampling_correction"] is False and "vllm_importance_sampling_mode" not in off


def test_trl_knows_every_option(tmp_path):
    """TRL's configuration takes them; a batch of 4 groups of 4 in updates of 2 groups: 4 micro-batches, 2 an update."""
    from train.grpo import grpo_arguments

    made = grpo_arguments(
        settings(engine="vllm_colocate", mini_groups=2, loss={"importance": "token_truncate"}), 999, tmp_path, 0
    )
    assert (made.use_vllm, made.vllm_mode, made.vllm_importance_sampling_mode) == (True, "colocate", "token_truncate")
    assert (made.per_device_train_batch_size, made.gradient_accumulation_steps, made.steps_per_generation) == (4, 2, 4)
    assert (made.epsilon, made.epsilon_high, made.beta) == (0.2, 0.28, 0.0)
    assert batches(settings(), processes=2) == {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 2,
    }
    small = settings(groups=2, num_generations=2, micro_batch=8)
    assert batches(small, processes=2)["per_device_train_batch_size"] == 2


def test_a_thread_of_vllm_uses_the_trainers_gpu(monkeypatch):
    import torch

    used: list[Any] = []
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    for kind in ("cuda", "cpu"):
        device = SimpleNamespace(type=kind)
        vllm_decoders._use_device(SimpleNamespace(accelerator=SimpleNamespace(device=device)))
    assert [d.type for d in used] == ["cuda"]
