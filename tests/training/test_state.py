"""The state of a training: what is written is read back, and what is damaged is refused."""

from pathlib import Path

import pytest
import torch
from torch import nn

from penjing.errors import InputError
from penjing.training.state import History, TrainState


def moved(model: nn.Linear, optimizer: torch.optim.Optimizer) -> None:
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_state_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    optimizer, fresh = (torch.optim.AdamW(each.parameters(), lr=0.1) for each in (model, other))
    moved(model, optimizer)
    state = TrainState(9, 4, 1, [3.5, 2.0], History([{"step": 2, "loss": 0.5, "quality": 80.0}], 80.0, 2, 4, 1.5), dict(model.state_dict()))
    state.save(tmp_path / "state.pt", model, [optimizer])
    drawn = torch.rand(3)
    again = TrainState.load(tmp_path / "state.pt", other, [fresh])
    assert torch.equal(torch.rand(3), drawn)
    assert (again.total, again.step, again.since_best, again.running, again.history) == (9, 4, 1, [3.5, 2.0], state.history)
    for each in (model, optimizer), (other, fresh):
        moved(*each)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"half of it")
    with pytest.raises(InputError, match=r"damaged.*remove it"):
        TrainState.load(tmp_path / "state.pt", nn.Linear(1, 1), [])


def test_the_weights_of_the_best_evaluation_that_counts_are_kept() -> None:
    model, state = nn.Linear(1, 1), TrainState(10)
    for value, counts in ((90.0, False), (70.0, True), (60.0, True), (71.0, True), (71.0, True)):
        with torch.no_grad():
            model.weight.fill_(value)
        state.count(0.5)
        state.judge(value, model, counts)
    assert state.history.best == 71 and state.history.best_step == 4 and state.since_best == 1
    assert state.best is not None and state.best["weight"].item() == 71
    assert [row["loss"] for row in state.history.evaluations] == [0.5] * 5
