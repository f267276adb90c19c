"""What a run needs and this machine does not have: looked up without loading anything heavy, and without writing."""

import importlib.util
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from distill.sections import RunConfig
from distill.sizes import Shape, gib
from tools.errors import ConfigError

HUB = ("huggingface.co", 443)
CONNECT_SECONDS = 2.0


def what_is_missing(cfg: RunConfig, shape: Shape | None, large: bool) -> Iterator[str]:
    """Yield what a run of these settings needs and this machine does not have, each with what to do."""
    if large and not has_gpu():
        yield "a GPU: none is here; run on a machine with one"
    for package, extra in _packages(cfg):
        if importlib.util.find_spec(package) is None:
            yield f"the package {package}: pip install -c constraints.txt -e '.[{extra}]'"
    for name, section in (("solver", cfg.solver), ("teacher", cfg.teacher)):
        yield from _endpoint(f"{name}.base_url", section.model, section.base_url)
    if cfg.asks_judge:
        yield from _endpoint("judge.base_url", cfg.judge.model, cfg.judge.base_url)
    if cfg.grpo.engine == "vllm_server" and cfg.grpo.steps:
        yield from _endpoint("grpo.vllm.base_url", cfg.student.model, cfg.grpo.vllm.base_url)
    yield from _refused(cfg)
    if _from_hub(cfg) and not _answers(*HUB):
        yield f"the network: {HUB[0]} cannot be reached; needed for {', '.join(_from_hub(cfg))}"
    if shape is not None:
        yield from _disk(cfg, shape)


def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU, without loading torch."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _packages(cfg: RunConfig) -> Iterator[tuple[str, str]]:
    yield from ((name, "train") for name in ("torch", "transformers", "trl", "peft", "datasets"))
    if cfg.tasks.source.startswith("reasoning_gym:"):
        yield "reasoning_gym", "demo"
    if cfg.grpo.engine != "local" and cfg.grpo.steps:
        yield "vllm", "gpu"


def _endpoint(key: str, model: str, urls: str | None) -> Iterator[str]:
    if model.startswith("scripted-"):
        return
    if not urls:
        yield f"{key}: an endpoint that serves {model}"
        return
    for url in urls.split(","):
        parts = urlsplit(url.strip())
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if not _answers(parts.hostname or "", port):
            yield f"{key}: {url.strip()} does not answer"
        if parts.scheme == "https" and not os.environ.get("OPENAI_API_KEY"):
            yield f"the environment variable OPENAI_API_KEY, if {parts.hostname} wants a key"


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), CONNECT_SECONDS):
            return True
    except OSError:
        return False


def _refused(cfg: RunConfig) -> Iterator[str]:
    """Yield what the run itself would say of its sandbox, its student, and its search."""
    from tools.sandbox.factory import check_sandbox
    from tools.search import SearchTool
    from train.student import check_student

    checks: list[Callable[[], object]] = [lambda: check_sandbox(cfg.sandbox), lambda: check_student(cfg.student.model)]
    if "search" in cfg.tools.enabled:
        checks.append(lambda: SearchTool(cfg.tools.search))
    for check in checks:
        try:
            check()
        except ConfigError as error:
            yield str(error)


def _from_hub(cfg: RunConfig) -> list[str]:
    """Return the settings whose data or weights come from the Hub."""
    sets = [cfg.tasks.source, *cfg.select.decontaminate]
    named = [s for s in sets if s.startswith("hf:") and not Path(s[3:].partition("?")[0]).is_dir()]
    named += [s for s in cfg.select.decontaminate if ":" not in s]
    student = cfg.student.model
    return [*named, student] if "/" in student and not Path(student).exists() else named


def _disk(cfg: RunConfig, shape: Shape) -> Iterator[str]:
    """Two checkpoints of weights and both moments in float32, as `train.callbacks.need_disk` asks for."""
    place = cfg.run_dir.absolute()
    while not place.exists():
        place = place.parent
    needed, free = 24 * shape.parameters, shutil.disk_usage(place).free
    if free < needed:
        yield f"disk: checkpoints need {gib(needed)}, {place} has {gib(free)}"
