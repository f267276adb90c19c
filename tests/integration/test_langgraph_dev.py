"""A real `langgraph dev` on the repository's langgraph.json: offline, without a key, the graphs as they are."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk import get_sync_client
from langgraph_sdk.client import SyncLangGraphClient

from agents.types import Candidate, Judgement, Round, StopReason, Task, Trajectory, Turn, Verdict
from tests.conftest import free_port, wait_ready

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
READY_SECONDS = 90.0
PROBLEM = "Calculate 12 + 30 - 5."
RIGHT = "12 + 30 = 42\n42 - 5 = 37\nA: 37"
WRONG = "12 + 30 = 42\n42 - 5 = 36\nA: 36"


@pytest.fixture(scope="module")
def server_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("langgraph") / "server.log"


@pytest.fixture(scope="module")
def client(server_log: Path) -> Iterator[SyncLangGraphClient]:
    """Start the server in a process group of its own, and end the group."""
    command = [str(Path(sys.executable).parent / "langgraph"), "dev", "--no-browser", "--no-reload"]
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")} | {"LANGSMITH_TRACING": "false"}
    with server_log.open("wb") as out:
        server = subprocess.Popen(
            [*command, "--port", str(port)], cwd=ROOT, env=env, stdout=out, stderr=out, start_new_session=True
        )
        try:
            wait_ready(f"{url}/ok", server, server_log, READY_SECONDS)
            yield get_sync_client(url=url)
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait(timeout=20)


def run(client: SyncLangGraphClient, graph: str, given: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """Run a graph to its end and return its output as plain JSON; a failed run raises."""
    out = client.runs.wait(None, graph, input=given, context=settings or None, raise_error=True)
    assert isinstance(out, dict)
    return out


def test_the_graphs_are_listed_with_settings_for_studio(client: SyncLangGraphClient) -> None:
    assistants = client.assistants.search(limit=100)
    graphs = {"verifier", "bidirectional", "judge", "react", "refine", "teacher"}
    assert graphs <= {a["graph_id"] for a in assistants}
    for assistant in assistants:
        schemas = client.assistants.get_schemas(assistant["assistant_id"])
        assert {"model", "max_turns", "style"} <= set((schemas.get("context_schema") or {})["properties"])
        assert client.assistants.get_graph(assistant["assistant_id"])["nodes"]


@pytest.mark.parametrize(("solution", "passed"), [(RIGHT, True), (WRONG, False)])
@pytest.mark.parametrize("role", ["forward_verifier", "backward_verifier"])
def test_verifier(client: SyncLangGraphClient, role: str, solution: str, passed: bool) -> None:
    out = run(client, "verifier", {"problem": PROBLEM, "solution": solution, "role": role})
    trajectory = Trajectory.model_validate(out["trajectory"])
    assert trajectory.error is None
    assert trajectory.stop_reason is StopReason.COMPLETED
    assert (trajectory.role, trajectory.model) == (role, "scripted-teacher")
    assert trajectory.verdict is not None and trajectory.verdict.passed == passed
    assert trajectory.tool_calls == 1
    assert [result.ok for turn in trajectory.turns for result in turn.results] == [True]


def test_bidirectional(client: SyncLangGraphClient) -> None:
    given = {"problem": PROBLEM, "solution": WRONG}
    out = run(client, "bidirectional", given, aggregation="min")
    reviews = [Trajectory.model_validate(out[direction]) for direction in ("forward", "backward")]
    assert [review.role for review in reviews] == ["forward_verifier", "backward_verifier"]
    verdict = Verdict.model_validate(out["verdict"])
    assert (verdict.passed, verdict.score, verdict.source) == (False, 0.0, "aggregate")


@pytest.mark.parametrize(("solution", "right"), [(RIGHT, True), (WRONG, False)])
@pytest.mark.parametrize("as_turns", [True, False])
def test_judge(client: SyncLangGraphClient, solution: str, right: bool, as_turns: bool) -> None:
    turns = [Turn(stage="think", prompt=(), content=solution).model_dump(mode="json")]
    out = run(client, "judge", {"problem": PROBLEM, **({"turns": turns} if as_turns else {"solution": solution})})
    judgement, judged = Judgement.model_validate(out["judgement"]), Trajectory.model_validate(out["trajectory"])
    assert out["error"] is None and judged.verdict is not None
    assert judged.verdict.passed == right == (judgement.score > 0.5)
    assert (judged.role, judged.model, len(judged.turns)) == ("judge", "scripted-judge", 1)
    assert ("Step 2: wrong." in judgement.critique) != right and "37" not in judgement.critique


def test_refine_with_the_judge(client: SyncLangGraphClient) -> None:
    out = run(client, "refine", {"problem": PROBLEM, "solution": WRONG}, critic="judge")
    rounds = [Round.model_validate(r) for r in out["rounds"]]
    assert out["error"] is None and [r.role for r in rounds[0].reviews] == ["judge"]
    assert (rounds[0].outcome, rounds[0].critique) == ("rejected", "Step 2: wrong.")


@pytest.mark.parametrize("given", [{"solution": WRONG}, {}])
def test_refine(client: SyncLangGraphClient, given: dict[str, Any]) -> None:
    out = run(client, "refine", {"problem": PROBLEM, **given}, rounds=3)
    rounds = [Round.model_validate(r) for r in out["rounds"]]
    assert [r.index for r in rounds] == list(range(len(rounds)))
    assert out["accepted"] == (out["stop"] == "accepted") and out["error"] is None
    assert rounds[0].reviews and rounds[-1].solution == out["solution"]
    if given:
        assert (rounds[0].solution, rounds[0].made, rounds[0].outcome) == (WRONG, (), "rejected")
        assert "Step 2: wrong." in rounds[0].critique and len(rounds) > 1
    else:
        assert rounds[0].made and rounds[0].made[0].stage == "solve"


def test_react(client: SyncLangGraphClient) -> None:
    out = run(client, "react", {"problem": PROBLEM, "trajectory_id": "t:0"}, style="full")
    trajectory = Trajectory.model_validate(out["trajectory"])
    assert (trajectory.role, trajectory.model, trajectory.error) == ("agent", "scripted-agent", None)
    assert trajectory.stop_reason is StopReason.COMPLETED and out["answer"] is not None


def test_teacher(client: SyncLangGraphClient) -> None:
    task = Task(question=PROBLEM, answer="37")
    held = tuple(Candidate(task_id=task.id, index=i, text=text) for i, text in enumerate([RIGHT, WRONG]))
    given = {"task": task.model_copy(update={"candidates": held}).model_dump(mode="json")}
    out = run(client, "teacher", given)
    assert [Candidate.model_validate(c).correct for c in out["candidates"]] == [True, False]
    trajectories = [Trajectory.model_validate(t) for t in out["trajectories"]]
    assert [t.candidate_id for t in trajectories] == [held[0].id, held[0].id, held[1].id, held[1].id]
    assert {t.stop_reason for t in trajectories} == {StopReason.COMPLETED}
    assert (out["dropped"], out["errors"]) == ("", [])


def test_teacher_samples_with_the_scripted_solver(client: SyncLangGraphClient) -> None:
    out = run(client, "teacher", {"task": {"question": PROBLEM, "answer": "37"}}, k=4)
    candidates = [Candidate.model_validate(c) for c in out["candidates"]]
    assert [(c.index, c.model) for c in candidates] == [(i, "scripted-solver") for i in range(4)]
    assert len(out["trajectories"]) == (0 if out["dropped"] else 8)


def test_wrong_settings_are_refused(client: SyncLangGraphClient) -> None:
    given = {"problem": PROBLEM, "solution": RIGHT, "role": "forward_verifier"}
    with pytest.raises(Exception, match="ValidationError"):
        run(client, "verifier", given, max_turns=0)


def test_the_server_has_nothing_to_complain_about(client: SyncLangGraphClient, server_log: Path) -> None:
    log = server_log.read_text()
    assert "Deserializing unregistered type" not in log
    assert "Blocking call" not in log
