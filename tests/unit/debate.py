"""A graph that is not ours in shape, to train on: two debaters with a conversation each, who answer in turns.

    python -m train.grpo --graph tests.unit.debate:build --reward tests.unit.debate:reward --conversations 2 \\
        --tasks jsonl:problems.jsonl --student MODEL --out runs/debate

`propose` asks the first debater for an answer, `oppose` the second one for an objection, `settle` the first one again,
who is shown the objection. The chat model is the context's.
"""

import operator
from typing import Annotated, Any

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from typing_extensions import TypedDict

from agents.types import Task


class Context(TypedDict):
    """What a run is given: the chat model of both debaters."""

    chat: Any


class Debate(TypedDict):
    """The two conversations, and the answer that the first debater settles on."""

    problem: str
    first: Annotated[list[BaseMessage], operator.add]
    second: Annotated[list[BaseMessage], operator.add]
    answer: str


async def propose(state: Debate, runtime: Runtime[Context]) -> dict[str, Any]:
    """Have the first debater answer."""
    asked = [SystemMessage("Answer in one line."), HumanMessage(state["problem"])]
    return {"first": [*asked, await runtime.context["chat"].ainvoke(asked)]}


async def oppose(state: Debate, runtime: Runtime[Context]) -> dict[str, Any]:
    """Have the second debater object."""
    asked = [HumanMessage(f"{state['problem']}\n{state['first'][-1].text}\nWhat is wrong with that?")]
    return {"second": [*asked, await runtime.context["chat"].ainvoke(asked)]}


async def settle(state: Debate, runtime: Runtime[Context]) -> dict[str, Any]:
    """Have the first debater answer again: its conversation goes on."""
    asked = [HumanMessage(f"Someone objects: {state['second'][-1].text}")]
    reply = await runtime.context["chat"].ainvoke([*state["first"], *asked])
    return {"first": [*asked, reply], "answer": str(reply.text)}


def build() -> Any:
    """Compile the debate."""
    graph = StateGraph(Debate, context_schema=Context)
    for node in (propose, oppose, settle):
        graph.add_node(node.__name__, node)
    for edge in ((START, "propose"), ("propose", "oppose"), ("oppose", "settle"), ("settle", END)):
        graph.add_edge(*edge)
    return graph.compile()


def reward(task: Task, state: Debate) -> float:
    """1 where the answer that the debate settles on is the reference."""
    return float(state["answer"].strip() == task.answer)
