"""Reagent-C with tools: an agent answers and answers anew on the refinement graph. Prompts, limits, outages, costs.

The question has its answer in one page alone; no reference answer is given to any graph.
"""

from typing import Any

import pytest

from agents.plain_roles import NO_REVIEW
from agents.types import ErrorInfo, Round, Turn
from eval.costs import Cost
from eval.refinement_metrics import course_of, made_cost
from graphs.react_state import ReactContext
from graphs.refine import build_refine, resumed
from graphs.refine_state import Attempt, Critique, RefineContext
from tests.unit.fakes import FakeChat, FakePython, Reply, answer
from tools.base import ToolResult
from tools.errors import ModelError, ToolError

QUESTION = "Who painted the mural Blue Harbour, and when?"
PAGE = "Blue Harbour is a mural of 1987."
REVIEW = "The mural is of 1987. Look for its painter."


def call(query: str) -> str:
    return f'<tool_call>{{"name": "search", "arguments": {{"query": "{query}"}}}}</tool_call>'


WRONG, RIGHT = "<answer>Anton Berg</answer>", "<answer>Karla Lindt, 1987</answer>"
FIRST: list[Any] = [f"I look. {call('Blue Harbour')}", WRONG]
AGAIN: list[Any] = [call("painter of Blue Harbour"), f"It is she: {RIGHT}"]


class FakeSearch(FakePython):
    """Finds the same page for every query; an exception is raised for the queries of `down`."""

    name = "search"
    description = "Find pages."
    parameters = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}  # noqa: RUF012
    example = {"query": "x"}  # noqa: RUF012

    def __init__(self, reply: str = PAGE, down: tuple[str, ...] = ()) -> None:
        """Take the page, and the queries that fail."""
        super().__init__(reply)
        self.down = down

    async def _run(self, arguments: dict[str, Any], key: str) -> ToolResult:
        found = await super()._run(arguments, key)
        if arguments["query"] in self.down:
            raise ToolError("no index")
        return found


class Agent(FakeChat):
    """Takes the steps of its first attempt, and those of every attempt after it."""

    def reply_to(self, stage: str, session: str, asked: int) -> Reply:
        """Choose by the session's name."""
        replies: list[Reply] = self.replies["again" if ":refine:" in session else "first"]
        return replies[min(asked, len(replies) - 1)]

    @property
    def sessions(self) -> list[str]:
        """The sessions of all requests."""
        return [kwargs["session"] for _, kwargs in self.sent]


def agent(first: list[Any] | None = None, again: list[Any] | None = None, **more: Any) -> Agent:
    return Agent(replies={"first": first or FIRST, "again": again or AGAIN}, **more)


def judge(critique: str = REVIEW, score: float = 0.2) -> FakeChat:
    said = f"<think>SECRET</think><critique>{critique}</critique><score>{score}</score>"
    return FakeChat(replies={"judge": [said]})


async def run(
    acts: FakeChat, judges: FakeChat, search: FakeSearch | None = None, held: list[Round] | None = None, **more: Any
) -> Any:
    """Refine once at the most; `more` are settings of the agent (`max_turns` …) and of the refinement."""
    own = {name: more.pop(name) for name in ("max_turns", "max_tool_calls", "max_seconds") if name in more}
    acting = ReactContext(chat=acts, tools={"search": search or FakeSearch()}, **own)
    settings: dict[str, Any] = {"rounds": 1, "critic": "judge", "judge_accepts": 1.0} | more
    context = RefineContext(agent=acting, judge=judges, **settings)
    given: Any = {"problem": QUESTION, "trajectory_id": "t"} | ({"rounds": held} if held else {})
    return await build_refine().ainvoke(given, context=context)


def shown(chat: FakeChat, at: int = -1) -> str:
    """Return the last message of a request."""
    return str(chat.sent[at][0][-1].content)


TRANSCRIPT = (
    f"## Turn 1\nI look. {call('Blue Harbour')}\n\n"
    f"## Observation 1\n{PAGE}\n\n"
    f"## Turn 2\n{WRONG}"
)  # fmt: skip


# --- the course -------------------------------------------------------------------------------------------------------


async def test_two_attempts_with_tools_and_a_judge_that_sees_every_turn():
    acts, judges, search = agent(), judge(), FakeSearch()
    out = await run(acts, judges, search)
    first, second = out["rounds"]
    assert (first.solution, first.outcome, first.critique) == (WRONG, "rejected", REVIEW)
    assert (second.solution, second.outcome, out["solution"], out["stop"]) == (RIGHT, "open", RIGHT, "rounds")
    for made in (first, second):
        assert [(turn.stage, len(turn.results)) for turn in made.made] == [("act", 1), ("act", 0)]
    assert len(judges.sent) == 1 and f"Trajectory:\n{TRANSCRIPT}\n\n# Judge" in shown(judges)
    assert acts.sessions == ["t", "t", "t:refine:0", "t:refine:0"]
    asked = [({"query": "Blue Harbour"}, "t"), ({"query": "painter of Blue Harbour"}, "t:refine:0")]
    assert (search.calls, search.released) == (asked, ["t", "t:refine:0"])


@pytest.mark.parametrize(
    ("style", "told"),
    [
        ("compact", "Answer it anew, mended."),
        (
            "full",
            "The earlier attempt is yours, and the review says what is wrong with it, if anything. Answer the question "
            "anew: keep what holds, mend the rest, and look up again what is in doubt. A call that the earlier attempt "
            "made may be made again.",
        ),
    ],
)
async def test_the_second_attempt_is_shown_question_attempt_and_review_and_nothing_else(style: Any, told: str):
    acts = agent()
    acting = ReactContext(chat=acts, tools={"search": FakeSearch()}, style=style)
    context = RefineContext(agent=acting, judge=judge(), rounds=1, critic="judge", judge_accepts=1.0)
    await build_refine().ainvoke({"problem": QUESTION, "trajectory_id": "t"}, context=context)
    first, second = acts.sent[0][0], acts.sent[2][0]
    assert [len(messages) for messages, _ in acts.sent] == [2, 4, 2, 4]
    assert str(first[-1].content) == f"Question:\n{QUESTION}"
    wanted = f"Question:\n{QUESTION}\n\nEarlier attempt:\n{TRANSCRIPT}\n\nReview:\n{REVIEW}\n\n# Again\n{told}"
    assert str(second[-1].content) == wanted  # no score, no analysis, no reference answer
    assert second[0].content == first[0].content and "search" in str(second[0].content)


async def test_judge_and_agent_are_shown_no_more_of_an_attempt_than_is_allowed():
    acts, judges = agent(), judge()
    await run(acts, judges, FakeSearch(f"BEGIN{'x' * 5000}END"), max_transcript=600)
    attempt = shown(acts, 2).split("Earlier attempt:\n")[1].split("\n\nReview:\n")[0]
    judged = shown(judges).split("Trajectory:\n")[1].split("\n\n# Judge")[0]
    assert attempt == judged and 500 < len(attempt) <= 600
    assert "characters left out" in attempt and "BEGIN" in attempt and attempt.endswith(f"END\n\n## Turn 2\n{WRONG}")


async def test_more_rounds_show_the_last_attempt_and_its_review_alone():
    acts, judges = agent(again=["<answer>Nobody</answer>"]), judge()
    out = await run(acts, judges, rounds=2)
    assert [r.outcome for r in out["rounds"]] == ["rejected", "rejected", "unrevised"]
    assert acts.sessions == ["t", "t", "t:refine:0", "t:refine:1"]
    last = shown(acts)
    assert "Earlier attempt:\n## Turn 1\n<answer>Nobody</answer>\n\nReview:\n" in last and "Anton" not in last


async def test_without_a_critic_the_review_is_empty():
    acts, judges = agent(), judge()
    await run(acts, judges, critic="none")
    assert judges.sent == [] and f"Earlier attempt:\n{TRANSCRIPT}\n\nReview:\n{NO_REVIEW}\n\n# Again" in shown(acts, 2)


@pytest.mark.parametrize(
    ("judges", "accepts", "stop"),
    [
        (judge(score=0.9), 0.5, "accepted"),
        (FakeChat(replies={"judge": ["no form"], "repair": ["no form"]}), 1.0, "no_verdict"),
    ],
)
async def test_an_attempt_is_left_alone_where_nothing_is_to_be_mended(judges: FakeChat, accepts: float, stop: str):
    acts = agent()
    out = await run(acts, judges, judge_accepts=accepts)
    assert (out["stop"], out["solution"], len(out["rounds"]), acts.sessions) == (stop, WRONG, 1, ["t", "t"])


async def test_what_the_agent_found_is_no_secret_and_an_answer_given_away_is():
    """1987 stands in an observation, which the agent is shown again; 1992 nowhere but in the review."""
    review = "Observation 1 says 1987, the answer lacks it, and 1992 is wrong. The answer is Karla Lindt."
    acts = agent()
    out = await run(acts, judge(review))
    told = "Observation 1 says 1987, the answer lacks it, and [withheld] is wrong. The answer is [withheld]."
    assert out["rounds"][0].critique == told and f"\n\nReview:\n{told}\n\n# Again" in shown(acts, 2)


async def test_what_a_solver_thought_stays_a_secret_of_the_review():
    """Its refiner is shown the solution alone: that 18 came up in its thoughts is no reason to pass it on."""
    solver = FakeChat(replies={"solve": ["<think>18?</think>A: 19"]})
    refiner = FakeChat(replies={"refine": ["A: 20"]})

    async def critic(attempt: Attempt, context: RefineContext) -> Critique:
        return Critique(accepted=False, text="The answer 19 is wrong, 18 was better.")

    context = RefineContext(solver=solver, refiner=refiner, critique=critic, rounds=1)
    out = await build_refine().ainvoke({"problem": "What is 3 * 6?"}, context=context)
    assert out["rounds"][0].critique == "The answer 19 is wrong, [withheld] was better."


# --- no answer, no revision -------------------------------------------------------------------------------------------


async def test_an_attempt_without_an_answer_is_criticised_and_made_anew():
    acts, judges = agent(again=[RIGHT]), judge("Give an answer.")
    out = await run(acts, judges, max_turns=1)
    first, second = out["rounds"]
    assert (first.solution, first.outcome, len(first.made), first.made[0].results) == ("", "rejected", 1, ())
    assert f"Trajectory:\n## Turn 1\nI look. {call('Blue Harbour')}\n\n# Judge" in shown(judges)
    assert (second.solution, second.outcome, out["solution"], out["stop"]) == (RIGHT, "open", RIGHT, "rounds")


@pytest.mark.parametrize(
    "again", [[WRONG], ["hm"], [answer(RIGHT, finish_reason="length")], [f"{call('x')}{RIGHT}", "hm"]]
)
async def test_a_second_attempt_that_comes_to_nothing_new_leaves_the_first_answer(again: list[Any]):
    """The same answer, none, one that was cut, one beside a call; what the attempt wrote is kept."""
    out = await run(agent(again=again), judge())
    second = out["rounds"][1]
    assert (second.solution, second.outcome, out["stop"], out["error"]) == (WRONG, "unrevised", "unrevised", None)
    assert second.made[0].content == (again[0] if isinstance(again[0], str) else RIGHT)


async def test_an_agent_that_writes_nothing_in_its_time_is_not_criticised():
    judges = judge()
    out = await run(agent(delay=5.0), judges, max_seconds=0.05)
    (only,) = out["rounds"]
    assert (only.solution, only.made, only.outcome, out["stop"], judges.sent) == ("", (), "unrevised", "unrevised", [])
    assert resumed(out["rounds"]) == out["rounds"]  # a limit is not tried again


# --- outages ----------------------------------------------------------------------------------------------------------

DOWN = {
    "think": ([ModelError("no index")], "ModelError"),
    "tools": ([call("gone"), RIGHT], "ToolError"),
}


@pytest.mark.parametrize("where", DOWN)
async def test_an_outage_of_the_first_attempt_is_tried_again(where: str):
    replies, kind = DOWN[where]
    judges = judge()
    out = await run(agent(first=replies), judges, FakeSearch(down=("gone",)))
    error = ErrorInfo(kind=kind, message="no index", where=where)
    assert out["rounds"] == [Round(index=0, solution="", error=error)]
    assert (out["stop"], out["error"], judges.sent) == ("error", error, [])
    again = await run(agent(), judges, held=out["rounds"])
    assert (again["stop"], again["error"], [r.solution for r in again["rounds"]]) == ("rounds", None, [WRONG, RIGHT])


@pytest.mark.parametrize("where", DOWN)
async def test_an_outage_of_the_second_attempt_keeps_answer_and_review(where: str):
    replies, kind = DOWN[where]
    judges = judge()
    out = await run(agent(again=replies), judges, FakeSearch(down=("gone",)))
    (only,) = out["rounds"]
    assert (only.solution, only.outcome, only.critique, len(only.made)) == (WRONG, "rejected", REVIEW, 2)
    assert only.error == out["error"] == ErrorInfo(kind=kind, message="no index", where=where)
    acts = agent()
    again = await run(acts, judges, held=[r.model_dump(mode="json") for r in out["rounds"]])  # type: ignore[arg-type]
    assert ([r.solution for r in again["rounds"]], again["error"]) == ([WRONG, RIGHT], None)
    assert acts.sessions == ["t:refine:0"] * 2 and len(judges.sent) == 1  # nothing else is done again


async def test_a_judges_outage_ends_it_and_the_attempt_is_kept():
    out = await run(agent(), FakeChat(replies={"judge": [ModelError("gone")]}))
    (only,) = out["rounds"]
    assert (only.solution, only.outcome, only.error.where, out["stop"]) == (WRONG, "open", "judge", "error")
    acts = agent()
    again = await run(acts, judge(), held=out["rounds"])
    assert acts.sessions == ["t:refine:0"] * 2 and again["solution"] == RIGHT


# --- costs ------------------------------------------------------------------------------------------------------------


def step(tokens: int, seconds: float, calls: int = 0) -> Turn:
    code: Any = {"name": "search", "arguments": {"query": "x"}}
    return Turn(
        stage="act", prompt=(), content="s", completion_tokens=tokens, seconds=seconds, tool_calls=(code,) * calls
    )


def test_the_cost_of_an_attempt_is_that_of_all_its_turns():
    made = Round(index=0, solution="s", made=(step(10, 0.5, calls=2), step(7, 0.25, calls=1), step(3, 0.25)))
    assert made_cost(made) == Cost(tokens=20, turns=3, tool_calls=3, seconds=1.0)
    assert made_cost(Round(index=0, solution="given")) == made_cost(None) == Cost()


async def test_the_costs_of_a_course_are_the_agents_and_the_judges():
    """Every reply is 5 tokens: two steps and a call for the first answer; judgement and as much again for the round."""
    out = await run(agent(), judge())
    course = course_of("p", out["rounds"], 1, lambda solution: solution == RIGHT)
    assert (course.right, course.revised, course.accepted) == ((False, True), (True,), (False,))
    assert course.first_cost[:3] == (10, 2, 1)
    assert course.costs[0][:3] == (15, 3, 1)
