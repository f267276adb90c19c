"""A graph of one's own, whole: harvested from an endpoint that gives no token ids, then SFT, then GRPO, tiny."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.unit.tiny import TEMPLATE, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.integration
OWN = ["--graph", "tests.unit.debate:build"]


class Endpoint(BaseHTTPRequestHandler):
    """The debaters of `i + i`: the second objects, the first settles on the sum; no ids, no log-probabilities."""

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """List the models."""
        self._answer({"data": [{"id": "teacher"}]})

    def do_POST(self) -> None:
        """Complete a conversation."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = [message["content"] for message in body["messages"]]
        if "What is wrong" in said[-1]:
            text = "nothing, maybe"
        else:
            a, _, b = said[1].split()
            text = str(int(a) + int(b)) if "objects" in said[-1] else "let me see"
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        self._answer({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})

    def _answer(self, data: dict[str, Any]) -> None:
        text = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def url() -> Iterator[str]:
    """Serve the debaters on a free port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def test_harvest_then_sft_then_grpo(tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Two problems, two equal rollouts each: 2 conversations a problem are left; two steps of SFT, one of GRPO."""
    from distill import own_graph
    from train import grpo, sft

    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tiny_model().save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    tasks = tmp_path / "p.jsonl"
    tasks.write_text("".join(json.dumps({"question": f"{i} + {i}", "answer": str(2 * i)}) + "\n" for i in (1, 2)))
    problems = ["--tasks", f"jsonl:{tasks}"]
    asked = ["--model", "teacher", "--base-url", url, "--samples", "2", "--out", str(tmp_path / "data")]
    assert own_graph.main([*OWN, "--reward", "tests.unit.debate:reward", *problems, *asked]) == 0
    told = [line.split()[1] for line in capsys.readouterr().out.splitlines()[:6]]
    assert told == ["4", "4", "4", "2", "4", "4"]

    small = ["student={lora_rank: 0, max_length: 500}", "sft={max_steps: 2}"]
    student = ["--student", str(tmp_path / "student")]
    made = ["--data", str(tmp_path / "data"), *student, "--out", str(tmp_path / "sft")]
    assert sft.main([*made, "--set", *small]) == 0
    steps = [json.loads(line) for line in (tmp_path / "sft" / "metrics.jsonl").read_text().splitlines()]
    assert len(steps) == 2 and json.loads((tmp_path / "sft" / "trained.json").read_text())["rows"] == 4

    group = "grpo={steps: 1, groups: 2, num_generations: 2, max_tokens: 8, resample_budget: 0, micro_batch: 4}"
    rest = ["--conversations", "2", "--student", str(tmp_path / "sft" / "model"), "--out", str(tmp_path / "grpo")]
    settings = ["--settings", str(tmp_path / "data" / "settings.yaml"), "--set", group, *small]
    reward = ["--reward", "tests.integration.test_reagent:by_turns"]
    assert grpo.main([*OWN, *reward, *problems, *rest, *settings]) == 0
    assert (tmp_path / "grpo" / "model" / "model.safetensors").is_file()
