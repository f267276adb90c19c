"""The journal of `eval.solve`: every sample and every grade on a line of its own, as it came.

A kill at any moment loses no line that was written; a line cut off is dropped at the next start. Samples are kept once:
by problem and index. The first line says what the samples depend on, so that a journal never mixes solvers. One process
at a time writes it.
"""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import Field

from agents.types import Frozen
from eval.checkers import Grade
from eval.line_file import LineFile, refused
from tools.errors import ConfigError, DataError

Place = tuple[str, int]  # a problem's id, and the number of its sample


class Sample(Frozen):
    """One solution as sampled, and what it cost. `finish` is `length` where a limit cut it."""

    problem: str
    index: int = Field(ge=0)
    text: str
    model: str = ""
    tokens: int = 0
    seconds: float = 0.0
    finish: str = ""

    @property
    def place(self) -> Place:
        """Problem and number."""
        return self.problem, self.index

    @property
    def too_long(self) -> bool:
        """Whether the problem does not fit the solver's context: nothing was written."""
        return self.finish == "length" and not self.tokens and not self.text


class Graded(Frozen):
    """The grade of a sample. `reference` names what it was graded by: a grade by another answer does not count."""

    problem: str
    index: int
    reference: str
    grade: Grade


class Journal:
    """What is sampled and graded, in memory and in `<out>.samples.jsonl`. A context manager."""

    def __init__(self, out: Path, identity: dict[str, Any]) -> None:
        """Prepare the journal of an output file; nothing is read or written before the `with` block."""
        self.out, self.path = out, out.with_name(f"{out.stem}.samples.jsonl")
        self.identity = identity
        self.samples: dict[Place, Sample] = {}
        self.grades: dict[Place, Graded] = {}
        self._file = LineFile(self.path)

    def __enter__(self) -> Self:
        """Read what there is, and hold the file for writing.

        Raises:
            ConfigError: it is of another solver, another process writes it, or the output file is not of a journal.
            DataError: a line is damaged.
        """
        if self.out.exists() and not self.path.exists():
            raise ConfigError(f"--out {str(self.out)!r} is there and has no {self.path.name}; choose another --out")
        try:
            self._file.open()
        except OSError as error:
            raise refused(self.path, error) from error
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the file go."""
        self._file.close()

    def add_sample(self, sample: Sample) -> None:
        """Keep a sample.

        Raises:
            ValueError: there is one of its number.
        """
        if sample.place in self.samples:
            raise ValueError(f"sample {sample.place} is there already")
        self._write({"sample": sample.model_dump(mode="json")})
        self.samples[sample.place] = sample

    def add_grade(self, graded: Graded) -> None:
        """Keep a grade; the last one of a sample counts."""
        self._write({"graded": graded.model_dump(mode="json")})
        self.grades[graded.problem, graded.index] = graded

    def grade_of(self, place: Place, reference: str) -> Grade | None:
        """Return the grade of a sample by a reference, None where there is none."""
        found = self.grades.get(place)
        return found.grade if found is not None and found.reference == reference else None

    def _write(self, record: dict[str, Any]) -> None:
        self._file.append(json.dumps(record))  # ASCII: half a character of a model's text is kept

    def _read(self) -> None:
        lines = list(self._file)
        if not lines:
            self._write({"solver": self.identity})
        for number, line in lines:
            try:
                self._take(json.loads(line), number)
            except ConfigError:
                raise
            except (ValueError, KeyError, TypeError) as error:  # pydantic's and json's are ValueErrors
                raise DataError(
                    f"{self.path}:{number}: no line of a journal; remove it, or choose another --out"
                ) from error

    def _take(self, record: dict[str, Any], number: int) -> None:
        if number == 1:
            self._check(record["solver"])
        elif "sample" in record:
            sample = Sample.model_validate(record["sample"])
            self.samples.setdefault(sample.place, sample)
        else:
            graded = Graded.model_validate(record["graded"])
            self.grades[graded.problem, graded.index] = graded

    def _check(self, theirs: dict[str, Any]) -> None:
        ours = json.loads(json.dumps(self.identity))
        differing = [
            f"{key}: {theirs.get(key)!r} there, {ours.get(key)!r} here"
            for key in sorted(ours.keys() | theirs.keys())
            if theirs.get(key) != ours.get(key)
        ]
        if differing:
            raise ConfigError(f"{self.path} is of another solver ({'; '.join(differing[:3])}); choose another --out")
