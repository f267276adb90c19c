"""`sandbox.backend=e2b` in a run: what is said before anything is written, and a harvest whose tools are on E2B."""

import asyncio
from pathlib import Path

import pytest

from agents.store import Row, Store
from distill.config import load_config
from distill.inputs import load_parts
from distill.pipeline import Run
from distill.run import main
from tests.e2b_stand_in import StandIn

pytestmark = pytest.mark.integration


async def test_a_key_that_is_not_accepted_is_one_line_and_exit_code_2(
    server: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("E2B_API_KEY", "e2b_wrong")
    code = await asyncio.to_thread(main, ["--set", f"out={tmp_path}/runs", "sandbox.backend=e2b"])
    told = capsys.readouterr()
    assert code == 2 and told.err.startswith("error: E2B does not accept the key in E2B_API_KEY")
    assert told.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


async def test_a_harvest_runs_its_tools_on_e2b_and_leaves_nothing_there(server: StandIn, tmp_path: Path) -> None:
    sets = ("tasks.n_harvest=6", "tasks.n_grpo=0", "tasks.n_eval=1", "solver.k=8", "eval.k=1", "sandbox.backend=e2b")
    cfg = load_config(None, [f"out={tmp_path}", *sets])

    def harvest() -> list[Row]:
        with Store(cfg.run_dir / "store.sqlite") as store:
            Run(cfg, load_parts(cfg), store).harvest()
            return list(store)

    cfg.run_dir.mkdir()
    rows = await asyncio.to_thread(harvest)
    results = [result for row in rows for turn in row.trajectory.turns for result in turn.results]
    assert rows and results and all(result.ok for result in results)
    assert all(row.trajectory.error is None for row in rows)
    sessions = server.count("POST /contexts")
    assert server.count("POST /execute") == sessions + len(results)  # a prelude each, then the calls
    assert not server.sandboxes and not server.contexts
