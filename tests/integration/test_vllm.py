"""The exported model behind a real vLLM server: through the openai client, and as the chat model of a graph."""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage

from agents.chat import EndpointChat
from agents.completions import request_body, to_message
from agents.confidence import (
    CHOICE_TOKENS,
    CHOICES,
    Reading,
    choice_confidence,
    read_confidence,
    verdict_confidence,
)
from agents.models import open_chat
from agents.types import StopReason
from graphs.state import VerifierContext
from graphs.verifier import build_verifier
from tests.conftest import free_port, missing, wait_ready
from tests.integration.conftest import Outcome, run_cli

pytestmark = [pytest.mark.integration, pytest.mark.vllm]

READY_SECONDS = 400.0
ASKED = [HumanMessage("Is 12 + 30 = 42 right? Answer with <verdict>true</verdict> or <verdict>false</verdict>.")]


@pytest.fixture(scope="module")
def server(tiny_run: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the model that the tiny run made."""
    if importlib.util.find_spec("vllm") is None:
        missing("vllm is not installed: make setup-serve")
    port, log = free_port(), tmp_path_factory.mktemp("vllm") / "log"
    program = (sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_run.folder / "model"))
    options = ("--served-model-name", "student", "--dtype", "float32", "--enforce-eager", "--max-model-len", "1024")
    address = ("--generation-config", "vllm", "--host", "127.0.0.1", "--port", str(port))
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*program, *options, *address],
            env={**os.environ, **quiet},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_ready(f"http://127.0.0.1:{port}/health", process, log, READY_SECONDS)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_model_answers_through_the_openai_client(server: str):
    client = openai.OpenAI(base_url=server, api_key="EMPTY")
    reply = client.chat.completions.create(
        model="student", messages=[{"role": "user", "content": "Hello"}], max_tokens=8, temperature=0
    )
    assert reply.usage is not None and reply.usage.completion_tokens > 0


async def test_ids_and_logprobs_are_exact(server: str):
    chat = open_chat("student", server)
    assert isinstance(chat, EndpointChat)
    reply = await chat.ainvoke("Say hello.", session="s", max_tokens=6, temperature=0.0, top_logprobs=5)
    meta = reply.response_metadata
    assert meta["prompt_token_ids"][0] == 1  # <|im_start|>: our template, no system message put in
    assert len(meta["token_ids"]) == len(meta["logprobs"]) == len(meta["top_logprobs"]) <= 6
    assert all(logprob <= 0 for logprob in meta["logprobs"])


async def test_a_forced_choice_weighs_both_words(server: str):
    chat = open_chat("student", server)
    how = Reading(chat, "forced", "forced_choice")
    found = await read_confidence(ASKED, AIMessage("<verdict>true</verdict>"), how)
    assert found.source == "forced_choice" and 0 < found.tokens <= CHOICE_TOKENS
    assert found.score is not None and 0 < found.score < 1
    again = await read_confidence(ASKED, AIMessage("<verdict>false</verdict>"), how)
    assert again.score == pytest.approx(found.score, abs=1e-3)  # the word itself is not part of the question


def test_a_word_that_the_tokenizer_splits_is_read_alike(server: str, tiny_run: Outcome):
    """Barring the tokens "true" and "false" makes the server write the word in pieces; the raw numbers stay."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_run.folder / "model")
    barred = {str(tokenizer.convert_tokens_to_ids(word)): -100 for word in CHOICES}
    client = openai.OpenAI(base_url=server, api_key="EMPTY")
    body = request_body("student", [*ASKED, AIMessage("<verdict>")], max_tokens=8, temperature=0.0, choices=CHOICES)
    replies = []
    for bias in ({}, barred):
        more = {"logprobs": True, "top_logprobs": 20, "logit_bias": bias}
        data = client.post("/chat/completions", body=body | more, cast_to=object)
        assert isinstance(data, dict)
        replies.append(to_message(data, "student"))
    whole, split = replies
    assert whole.response_metadata["tokens"][0] in CHOICES
    assert split.text in CHOICES and split.response_metadata["tokens"][0] not in CHOICES
    scores = [choice_confidence(reply) for reply in replies]
    assert scores[0] is not None and 0 < scores[0] < 1
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)


async def test_a_generated_verdict_in_the_servers_own_tokens(server: str):
    client = openai.OpenAI(base_url=server, api_key="EMPTY")
    more = {"structured_outputs": {"choice": [f"<verdict>{word}</verdict>" for word in CHOICES]}, "logprobs": True}
    body = request_body("student", [*ASKED], max_tokens=24, temperature=0.0, top_logprobs=20) | more
    data = client.post("/chat/completions", body=body, cast_to=object)
    assert isinstance(data, dict)
    score = verdict_confidence(to_message(data, "student"))
    assert score is not None and 0 < score < 1


async def test_a_graph_runs_on_the_server(server: str):
    out = await build_verifier().ainvoke(
        {"problem": "Calculate 12 + 30.", "solution": "12 + 30 = 42\nA: 42", "role": "forward_verifier"},
        context=VerifierContext(model="student", base_url=server, max_tokens=32, max_trajectory_tokens=900),
    )
    trajectory = out["trajectory"]
    assert trajectory.stop_reason is not StopReason.ERROR, trajectory.error
    assert trajectory.turns[0].prompt_ids and trajectory.turns[0].completion_ids


def test_a_bad_teacher_is_typed_failures_and_exit_code_3(server: str, tmp_path: Path):
    sets = ("tasks.n_harvest=2", "tasks.n_grpo=2", "tasks.n_eval=1", "solver.k=4", "eval.k=2")
    teacher = ("teacher.model=student", f"teacher.base_url={server}", "teacher.max_tokens=24")
    done = run_cli("name=bad", f"out={tmp_path}", *sets, *teacher, "tasks.families={chain_sum: 1}")
    assert done.returncode == 3, done.stderr
    assert "nothing of" in done.stderr and "Traceback" not in done.stderr
