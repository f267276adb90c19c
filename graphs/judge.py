"""The judge (Agent-RRM): judge → [repair] → finish, over the whole trajectory of an agent.

Input: a problem and a trajectory's turns, or a solution. Output: a `Judgement` (analysis, critique, score in [0, 1]),
or None with a typed error, and the judge's own trajectory of role `judge`, whatever happened. The ground truth is not
in its state. A malformed reply is asked for once more; a reply that a limit cut is not. The critique gives no answer
away: `agents/redaction.py` says what that guarantees; here the refiner has seen the whole trajectory.
"""

import time
import uuid
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

from langchain_core.messages import AIMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command

from agents.judgements import parse_judgement
from agents.plain_roles import render_judge, render_repair
from agents.protocol import ParseFailure, to_langchain
from agents.redaction import withhold_answers
from agents.transcript import final_text, parts_of, transcript
from agents.types import ErrorInfo, Judgement, Message, StopReason, Trajectory, Turn
from graphs.judge_state import JudgeContext, JudgeInput, JudgeOutput, JudgeState, judged_turns
from graphs.opened import chat_of
from graphs.turns import make_turn, tokens_held, unanswered, within
from tools.errors import ParseError

Update = dict[str, Any]
CUT = (StopReason.LENGTH, StopReason.MAX_TOKENS, StopReason.MAX_SECONDS)


async def judge(state: JudgeState, runtime: Runtime[JudgeContext]) -> Command[Literal["repair", "finish"]]:
    """Show the judge the whole trajectory."""
    context = context_of(runtime)
    opened: Update = {"trajectory_id": state.get("trajectory_id") or uuid.uuid4().hex, "started": time.monotonic()}
    now: Any = {**state, **opened}
    prompt = render_judge(context.style, state["problem"], transcript(judged_turns(state), context.max_transcript))
    update = opened | await _ask(now, context, "judge", prompt)
    return Command(update=update, goto=after_judge(update, context.max_turns))


async def repair(state: JudgeState, runtime: Runtime[JudgeContext]) -> Update:
    """Say what is wrong with the form of the reply, and ask once more."""
    context, fault = context_of(runtime), state.get("fault")
    told = f"{fault.reason} {fault.hint}" if fault else ""
    return await _ask(state, context, "repair", render_repair(context.style, told))


async def finish(state: JudgeState, runtime: Runtime[JudgeContext]) -> Update:
    """Build the judge's trajectory, and the judgement without what its critique would give away."""
    context, turns = context_of(runtime), judged_turns(state)
    found = state.get("outcome")
    judgement = silent(found, state["problem"], turns) if found else None
    trajectory = Trajectory(
        role="judge",
        model=getattr(chat_of(context), "model_id", context.model),
        prompt_version=context.version,
        turns=tuple(state["asked"]),
        stop_reason=state.get("stop", StopReason.UNPARSED),
        verdict=judgement.verdict if judgement else None,
        error=state.get("error"),
        seconds=time.monotonic() - state.get("started", time.monotonic()),
    )
    return {"trajectory": trajectory, "judgement": judgement, "error": failure_of(trajectory)}


def silent(judgement: Judgement, problem: str, turns: Sequence[Turn]) -> Judgement:
    """Return a judgement whose critique gives no answer away to one who has seen the trajectory."""
    shown = "\n".join(part.text for part in parts_of(turns))
    critique = withhold_answers(judgement.critique, problem, final_text(turns), shown)
    return judgement.model_copy(update={"critique": critique})


def failure_of(judged: Trajectory) -> ErrorInfo | None:
    """Return why a judge's trajectory holds no judgement: an outage, a reply cut by a limit, or one not in the form."""
    if judged.verdict is not None or judged.error is not None:
        return judged.error
    how = f"was cut ({judged.stop_reason.value})" if judged.stop_reason in CUT else "is not in the form"
    return ErrorInfo(kind=ParseError.__name__, message=f"the judge's reply {how}", where="judge")


def after_judge(update: Update, max_turns: int) -> Literal["repair", "finish"]:
    """A reply that is not in the form is asked for once more, where that is allowed."""
    return "repair" if update.get("fault") is not None and max_turns > 1 else "finish"


async def _ask(state: JudgeState, context: JudgeContext, stage: str, prompt: Sequence[Message]) -> Update:
    """Take a turn and read it; a failure of the infrastructure and a limit become data."""
    left = context.max_seconds - (time.monotonic() - state.get("started", time.monotonic()))
    return await within(left, stage, _take_turn(state, context, stage, prompt))


async def _take_turn(state: JudgeState, context: JudgeContext, stage: str, prompt: Sequence[Message]) -> Update:
    asked, began = state.get("asked") or [], time.monotonic()
    room = context.max_trajectory_tokens - tokens_held(asked)
    if room <= 0:
        return {"stop": StopReason.MAX_TOKENS}
    opening = [to_langchain(message) for message in prompt]
    messages = [*(state.get("messages") or []), *opening]
    reply = await chat_of(context).ainvoke(
        messages,
        session=state.get("trajectory_id", ""),
        stage=stage,
        max_tokens=min(context.max_tokens, room),
        temperature=context.temperature,
        top_logprobs=None,
    )
    turn = make_turn(stage, unanswered(messages), reply, time.monotonic() - began)
    return {"asked": turn, "messages": [*opening, AIMessage(turn.content)]} | _read(turn, context)


def _read(turn: Turn, context: JudgeContext) -> Update:
    """Return what a reply comes to: a limit, a fault of its form, or a judgement."""
    if turn.finish_reason == "length":
        full = tokens_held([turn]) >= context.max_trajectory_tokens
        return {"stop": StopReason.MAX_TOKENS if full else StopReason.LENGTH, "fault": None}
    read = parse_judgement(turn.content)
    if isinstance(read, ParseFailure):
        return {"fault": read}
    outcome = read.model_copy(update={"thought": read.thought or turn.reasoning})
    return {"outcome": outcome, "stop": StopReason.COMPLETED, "fault": None}


def context_of(runtime: Runtime[JudgeContext]) -> JudgeContext:
    """Return the settings of the run, or the defaults where it was given none."""
    return runtime.context or JudgeContext()


@cache
def build_judge() -> CompiledStateGraph[JudgeState, JudgeContext, JudgeInput, JudgeOutput]:
    """Compile the judge. No checkpointer: a harvest keeps finished trajectories only."""
    graph = StateGraph(JudgeState, context_schema=JudgeContext, input_schema=JudgeInput, output_schema=JudgeOutput)
    for node in (judge, repair, finish):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "judge")
    graph.add_edge("repair", "finish")
    graph.add_edge("finish", END)
    return graph.compile(name="judge")
