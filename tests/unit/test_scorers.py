"""Reward models: a pooling endpoint on localhost, a tiny local classifier, and scores kept over a kill."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agents.types import Candidate, Task
from eval.candidates import Problem
from eval.scorers import ScorerSource, scalar, score_problems
from tools.errors import ConfigError, ModelError

TASK = Task(question="1+1?", answer="secret 2")
PROBLEM = Problem(
    task=TASK,
    candidates=tuple(
        Candidate(task_id=TASK.id, index=i, text=t, correct=t == "A: 2")
        for i, t in enumerate(("A: 2", "A: 33", "A: 2"))
    ),
    benchmark="b",
    scores=({"prm_min": 0.5}, {}, {}),
)


class Pooling(BaseHTTPRequestHandler):
    """Scores a solution by its length, fails while `down`."""

    seen: list[dict[str, Any]] = []  # noqa: RUF012
    down = False

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.seen.append({"path": self.path, **body})
        reply = {"data": [{"index": 0, "object": "pooling", "data": [float(len(body["messages"][-1]["content"]))]}]}
        data = json.dumps(reply).encode()
        self.send_response(400 if self.down else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    Pooling.seen, Pooling.down = [], False
    with ThreadingHTTPServer(("127.0.0.1", 0), Pooling) as http:
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()  # shutdown waits so long
        yield f"http://127.0.0.1:{http.server_address[1]}/v1"
        http.shutdown()


def test_an_endpoint_scores_each_text_once(server: str, tmp_path: Path):
    (scored,) = score_problems([PROBLEM], ScorerSource("org/rm", server), tmp_path)
    assert [s["orm"] for s in scored.scores] == [4.0, 5.0, 4.0] and scored.scores[0]["prm_min"] == 0.5
    assert [s["path"] for s in Pooling.seen] == ["/pooling"] * 2 and Pooling.seen[0]["model"] == "org/rm"
    assert "secret" not in json.dumps(Pooling.seen)
    path = tmp_path / "orm-org-rm.jsonl"
    path.write_text(path.read_text() + '{"key": "cut o')  # killed while it wrote
    assert score_problems([PROBLEM], ScorerSource("org/rm", server), tmp_path) == [scored]
    assert len(Pooling.seen) == 2


def test_an_outage_is_no_score(server: str, tmp_path: Path):
    Pooling.down = True
    with pytest.raises(ModelError, match=r"/pooling \(model rm\)"):
        score_problems([PROBLEM], ScorerSource("rm", server), tmp_path)
    assert (tmp_path / "orm-rm.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("data", "value"),
    [([0.5], 0.5), ([0.2, 0.8], 0.8), ([[0.1], [0.7]], 0.7), ([[0.1, 0.9], [0.6, 0.4]], 0.4)],
)
def test_forms_of_a_score(data: list, value: float):
    assert scalar({"data": [{"data": data}]}) == value


@pytest.mark.parametrize("reply", [{}, {"data": []}, {"data": [{"data": [0.1] * 64}]}, {"data": [{"data": ["x"]}]}, []])
def test_what_is_no_score(reply: Any):
    with pytest.raises(ValueError, match="no scalar score"):
        scalar(reply)


def test_a_local_classifier(tmp_path: Path):
    from transformers import LlamaConfig, LlamaForSequenceClassification

    from tests.unit.tiny import TEMPLATE, tiny_tokenizer

    config = LlamaConfig(
        vocab_size=320,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
    )
    config.num_labels = 1
    model = LlamaForSequenceClassification(config)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    model.save_pretrained(tmp_path / "rm")
    tokenizer.save_pretrained(tmp_path / "rm")
    (scored,) = score_problems([PROBLEM], ScorerSource(str(tmp_path / "rm")), tmp_path / "out")
    first, second, third = (s["orm"] for s in scored.scores)
    assert first == third != second
    with pytest.raises(ConfigError, match="cannot be loaded"):
        score_problems([PROBLEM], ScorerSource(str(tmp_path / "none")), tmp_path / "other")
