"""Another position table: cut to the lengths in use, factorised, or extended for longer texts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, final, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from penjing.blueprint import Blueprint
from penjing.errors import InputError
from penjing.files.options import option
from penjing.maths.lowrank import low_rank
from penjing.model.attending import spread_evenly
from penjing.model.building import blueprint_of, build
from penjing.model.modeling_penjing import PenjingPreTrainedModel
from penjing.model.watch import encoder_of
from penjing.steps.settings import REWRITES, Effects, Settings, Trait, check_name, effects
from penjing.steps.stage import Context, Note, Stage, Work, loaded
from penjing.steps.step import Step
from penjing.tasks.task import Examples

Grow = Literal["copied", "interpolated"]


@final
@dataclass(frozen=True)
class PositionsSettings(Settings):
    """Settings of the position table. length: its rows; 0: as many as a text has tokens at most. rank: 0: in one piece. grow: longer."""

    name = "positions"
    paper = "Beltagy et al. 2020, section 5 (copied); Dosovitskiy et al. 2021, section 3.2 (interpolated)"
    when = "To leave out positions that no text reaches, which is exact; or to begin the training of a model for longer texts."

    length: int = option(0, "Positions that there are; 0: as many as `max_length` allows a text to have.")
    rank: int = option(0, "Of the position table; 0: in one piece.")
    grow: str = option("copied", "New positions: the table over again, or the old ones stretched.", allowed=get_args(Grow))

    def __post_init__(self) -> None:
        check_name("grow", self.grow, get_args(Grow))
        if min(self.length, self.rank) < 0:
            raise InputError("length, rank: give at least 1, or 0 for what is in use, and for a table in one piece")

    def effects(self, taught: bool) -> Effects:
        return effects(makes=[Trait.CUTS], undoes=list(REWRITES))

    def stages(self, recipe: Sequence[Settings]) -> Sequence[Stage[Any]]:
        return [ChangePositions(self)]

    @property
    def cuts(self) -> bool:
        return True


@final
class ChangePositions(Stage[Note]):
    """The stage that changes the position table."""

    name = "positions"
    record = Note

    def __init__(self, settings: PositionsSettings) -> None:
        self.settings = settings

    def make(self, work: Work, context: Context, folder: Path) -> Note:
        settings, read = self.settings, work.data.max_length
        length = settings.length or read
        if length < read:
            raise InputError(f"length: {length} positions are fewer than the {read} tokens that a text may have; give max_length {length}")
        step = Positions(length, settings.rank, cast(Grow, settings.grow))
        longest = step.observe(work.model, work.data.train)
        before = work.model.config.max_position_embeddings
        model = step.apply(work.model, step.plan(blueprint_of(work.model), longest), longest)
        rank = f" of rank {settings.rank}" if settings.rank else ""
        note = (
            f"{length} positions{rank} in place of {before}; the longest training text has {longest} tokens, a margin of {length - longest}"
        )
        return context.keep(replace(work, model=model), folder, note)

    def load(self, work: Work, context: Context, record: Note, folder: Path) -> Work:
        return loaded(work, folder)


@final
class Positions(Step[int, Blueprint]):
    """The step of another position table of `length` rows.

    Fewer rows are exact on texts of that many tokens. More rows are the table over again (copied), or the old rows stretched and
    interpolated linearly; train on longer texts afterwards. A rank factorises the table to the nearest product; at full rank it is exact.
    """

    name = "positions"

    def __init__(self, length: int, rank: int = 0, grow: Grow = "copied") -> None:
        self.length = length
        self.rank = rank
        self.grow: Grow = grow

    def observe(self, model: PenjingPreTrainedModel, data: Examples) -> int:
        """The tokens of the longest text."""
        return int(data.encoded.lengths.max(initial=0))

    def plan(self, blueprint: Blueprint, evidence: int) -> Blueprint:
        """The blueprint with the table; an `InputError` where a text is longer, or the table is not as wide as the rank."""
        if self.length < evidence:
            raise InputError(f"length: {self.length} positions, and there is a text of {evidence} tokens; give at least {evidence}")
        if self.rank > blueprint.embedding:
            raise InputError(f"rank: {self.rank} is not allowed; the embedding is {blueprint.embedding} wide, so give at most that")
        return replace(blueprint, positions=self.length, position_rank=self.rank)

    @torch.no_grad()
    def apply(self, model: PenjingPreTrainedModel, plan: Blueprint, evidence: int) -> PenjingPreTrainedModel:
        """The model of the plan. Rows that a low-rank layer pools are cut or go on in their turn."""
        embeddings = encoder_of(model).embeddings
        table: Tensor = embeddings.position.weight
        if embeddings.position_map is not None:
            table = table @ embeddings.position_map.T
        table = resized(table, plan.positions, self.grow)
        result = build(plan, model.config)
        state = {name: value for name, value in model.state_dict().items() if not name.endswith("position_map")}
        place = "embeddings" if plan.head.bare else "encoder.embeddings"
        if plan.position_rank:
            table, back = low_rank(table, table.new_ones(len(table)), plan.position_rank)
            state[f"{place}.position_map"] = back.T
        state[f"{place}.position.weight"] = table
        for name, pooling in state.items():
            if name.endswith("attention.pooling"):
                more = spread_evenly(len(pooling), plan.positions)[:, pooling.shape[1] :]
                state[name] = torch.cat([pooling[:, : plan.positions], more], 1)
        result.load_state_dict(state)
        return result.train(model.training)


def resized(table: Tensor, length: int, grow: Grow) -> Tensor:
    """The table (P, E) with `length` rows: the first of them, or more (see `Positions`)."""
    if length <= len(table):
        return table[:length].clone()
    if grow == "copied":
        return table.repeat(-(-length // len(table)), 1)[:length]
    stretched: Tensor = F.interpolate(table.T[None], length, mode="linear", align_corners=True)  # (1, E, length)
    return stretched[0].T.contiguous()
