"""A graph of one's own and its reward: loaded by name, and run on a problem. Light: the harvest needs no torch for it.

Input: `module:name` of a function, tasks, a chat model. Output: a compiled graph, a reward. Training and harvest run a
graph in this one way, so that both give it the same.
"""

import importlib
import inspect
import math
from collections.abc import Callable
from typing import Any

from langchain_core.language_models import BaseChatModel

from agents.types import Task
from tools.errors import ConfigError

GraphReward = Callable[[Task, Any], Any]  # of a task and the graph's last state: a number, None, or what gives them


async def run_graph(graph: Any, reward: GraphReward, task: Task, chat: BaseChatModel) -> float | None:
    """Run a graph on a task and reward its last state. The graph is given the question alone.

    Args:
        graph: compiled.
        reward: is given the task whole, with its reference answer.
        task: the problem.
        chat: what the graph's nodes take from their context.

    Returns:
        The reward; None where there is nothing to reward.

    Raises:
        RolloutError: the model, a tool or the reward's own judge failed.
        ConfigError: the reward is no number.
    """
    state = await graph.ainvoke({"problem": task.question}, context={"chat": chat})
    found = reward(task, state)
    found = await found if inspect.isawaitable(found) else found
    if found is None:
        return None
    try:
        number = float(found)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"--reward gave {found!r} for the problem {task.question[:60]!r}; give a number, or None")
    return number


def compiled(where: str) -> Any:
    """Return the graph that the function `module:name` builds.

    Raises:
        ConfigError: there is no such function, or it returns no compiled graph.
    """
    graph = named(where)()
    if not hasattr(graph, "ainvoke"):
        raise ConfigError(f"{where}: returns a {type(graph).__name__}; return the compiled graph (graph.compile())")
    return graph


def named(where: str) -> Any:
    """Return the function that `module:name` names.

    Raises:
        ConfigError: there is no such function.
    """
    module, _, name = where.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{where}: cannot be loaded ({error}); give module:name, from where you are") from error
    if not callable(found):
        raise ConfigError(f"{where}: is a {type(found).__name__}; name a function")
    return found
