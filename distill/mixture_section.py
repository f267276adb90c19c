"""Which roles the student learns, and who answers: the section `mixture` of a run's settings."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from agents.types import EVERY_ROLE, Role
from tools.settings import Section, shares
from train.settings import AGENT_TURNS, Answerer, answerer_among


class MixtureConfig(Section):
    """Which roles the student learns, in one mixture for SFT.

    Solutions are the solver's (`solver`), judgements the judge's (`judge`); revisions of solutions on these judgements
    and the agent's trajectories are the teacher's (`teacher`; offline the scripted refiner and the scripted agent).
    """

    weights: Annotated[dict[Role, float], AfterValidator(shares)] = Field(
        default={"forward_verifier": 1.0, "backward_verifier": 1.0},
        description="shares of the examples of forward_verifier, backward_verifier, judge, solver, refiner, agent; "
        "0 or absent: the role is not learned",
    )
    agent_turns: int = Field(
        default=AGENT_TURNS, ge=1, description="steps of the agent, of the teacher and of the student"
    )
    critic: Literal["student", "judge"] = Field(
        default="student",
        description="whose critique the evaluation refines answers on: the student's own, where it learns to judge, or "
        "the judge's",
    )

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that are learned."""
        return tuple(role for role in EVERY_ROLE if self.weights.get(role, 0.0) > 0)

    @property
    def answerer(self) -> Answerer:
        """Whose answers are judged and refined; see `answerer_among`."""
        return answerer_among(self.roles)

    @property
    def refines(self) -> bool:
        """Whether answers of the evaluation are refined."""
        return {self.answerer, "refiner"} <= set(self.roles)

    @property
    def needs_critic(self) -> bool:
        """Whether the judge criticises answers of the evaluation: they are refined, and not on the student's own."""
        own = "judge" in self.roles and self.critic == "student"
        return self.refines and not own
