"""Students that learn from one another, heads on layers, and adversarial changes: what they teach, and that nothing of them is left."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import penjing_model
from test_distill import DEEP, SHALLOW, Killed, broken, step, texts

from penjing.blueprint import Layer
from penjing.errors import InputError
from penjing.job.by_hand import Distilling
from penjing.job.reading import read_recipe
from penjing.model.building import blueprint_of
from penjing.model.watch import encoder_of
from penjing.steps.teach.distill import Distill, DistillSettings, Place, Teachers
from penjing.steps.teach.mutual import Mutual, MutualSettings
from penjing.steps.teach.self_distill import SelfDistill, SelfDistillSettings
from penjing.tasks.judging import quality_of
from penjing.tasks.sequence import Classification
from penjing.tasks.tagging import Tagging
from penjing.tasks.task import Examples
from penjing.text.encoded import Encoded
from penjing.training import loop
from penjing.training.loop import Batch, Schedule
from penjing.training.predict import logits_of

TASK = Classification(("no", "yes"))
LABELS = {"hard": 1.0}
Around = Mutual | SelfDistill


def easy(count: int = 120, seed: int = 0) -> Examples:
    """Texts whose label says which of two tokens they are made of."""
    random = np.random.default_rng(seed)
    rows = [[5, *random.choice([7, 9], random.integers(2, 6)).tolist()] for _ in range(count)]
    for row in rows:
        row[1:] = [row[1]] * (len(row) - 1)
    gold = ["yes" if row[1] == 7 else "no" for row in rows]
    return Examples(Encoded.of(rows, [[0] * len(row) for row in rows]), [""] * count, gold, [[]] * count, 0)


def learning(folder: Path, **settings: Any) -> Distill:
    """Of easy texts, in a few steps."""
    schedule = Schedule(epochs=4, batch_size=16, learning_rate=3e-3, evaluations=1, patience=100)
    how = DistillSettings(schedule, **({"losses": LABELS} | settings))
    return Distill(TASK, Teachers(penjing_model(DEEP, 0)), how, easy(40, 3), Place(folder))


def batch_of(data: Examples) -> Batch:
    rows = np.arange(len(data))
    return Batch({name: torch.from_numpy(value) for name, value in data.encoded.padded(rows, 0).items()}, rows)


def step_losses(given: Around, monkeypatch: pytest.MonkeyPatch, losses: list[torch.Tensor]) -> None:
    """Let training end with the loss of its first batch, kept with its graph."""

    def first(model: Any, encoded: Any, loss: Any, *_: Any, **__: Any) -> Any:
        losses.append(loss(model.train(), batch_of(texts(8))))
        losses.append(model)
        raise Killed

    monkeypatch.setattr("penjing.training.lesson.fit", first)
    student = penjing_model(SHALLOW, 5)
    with pytest.raises(Killed):
        given.teach(student, given.observe(student, texts(8)))


# -- mutual learning ---------------------------------------------------------------------------------------------


def test_students_that_learn_from_one_another_are_both_better_than_chance(tmp_path: Path) -> None:
    given = Mutual(learning(tmp_path), MutualSettings(peers=2))
    student = penjing_model(SHALLOW, 5)
    taught = given.teach(student, given.observe(student, easy()))
    qualities = [quality_of(TASK, easy(60, 8), logits_of(model, easy(60, 8).encoded)) for model in (taught.model, *taught.others)]
    assert len(qualities) == 3 and min(qualities) > 75, qualities
    assert blueprint_of(taught.model) == SHALLOW and not taught.model.training
    heads = [model.get_submodule("head").state_dict()["out.weight"] for model in (taught.model, *taught.others)]
    assert not torch.equal(heads[0], heads[1]) and not torch.equal(heads[1], heads[2])


def test_the_loss_is_each_ones_own_and_the_divergence_from_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    step_losses(Mutual(step(tmp_path, losses=LABELS), MutualSettings(2, 0.7)), monkeypatch, found)
    total, peers = found
    data = batch_of(texts(8))
    labels = torch.tensor([TASK.labels.index(str(gold)) for gold in texts(8).gold])
    z = [student(**data.feeds).logits for student in peers.students]
    own = sum(torch.nn.functional.cross_entropy(each, labels) for each in z)
    p = [each.softmax(-1) for each in z]
    apart = [(p[j] * (p[j].log() - p[i].log())).sum(-1).mean() for i in range(3) for j in range(3) if i != j]
    torch.testing.assert_close(total, own + 0.7 * sum(apart) / 2, atol=1e-3, rtol=1e-3)
    assert torch.stack(apart).min() > 1e-6


def test_each_student_is_taught_by_what_the_others_say_and_does_not_teach_them_to_say_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient at a student's head is that of its own losses and of its divergence from the others alone."""
    found: list[Any] = []
    step_losses(Mutual(step(tmp_path, losses=LABELS), MutualSettings(1, 2.0)), monkeypatch, found)
    total, peers = found
    total.backward()
    gradient = peers.students[0].get_submodule("head.out").bias.grad
    data = batch_of(texts(8))
    labels = torch.tensor([TASK.labels.index(str(gold)) for gold in texts(8).gold])
    p, q = (student(**data.feeds).logits.softmax(-1) for student in peers.students)
    expected = ((p - torch.nn.functional.one_hot(labels)) + 2.0 * (p - q)).mean(0)  # the gradient of KL(q ‖ p) is p - q
    torch.testing.assert_close(gradient, expected, atol=1e-3, rtol=1e-2)


def test_states_first_and_answers_of_each_other_afterwards(tmp_path: Path) -> None:
    given = Mutual(step(tmp_path, losses={"kl": 1, "hidden": 1}, states_first=0.5), MutualSettings())
    student = penjing_model(replace(SHALLOW, hidden=12, embedding=12, head_width=4, layers=(Layer(3, 20),) * 2), 5)
    taught = given.teach(student, given.observe(student, texts()))
    assert taught.history.steps == 20 and taught.history.best_step >= 10


# -- heads on layers ---------------------------------------------------------------------------------------------


def test_heads_on_layers_teach_and_leave_nothing_behind(tmp_path: Path) -> None:
    given = SelfDistill(learning(tmp_path), SelfDistillSettings())
    student = penjing_model(SHALLOW, 5)
    taught = given.teach(student, given.observe(student, easy()))
    assert quality_of(TASK, easy(60, 8), logits_of(taught.model, easy(60, 8).encoded)) > 85
    assert list(taught.model.state_dict()) == list(student.state_dict()) and blueprint_of(taught.model) == SHALLOW
    assert not taught.others and not encoder_of(taught.model)._forward_hooks


def test_a_head_is_taught_labels_answers_and_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    step_losses(SelfDistill(step(tmp_path, losses=LABELS), SelfDistillSettings("1", 0.3, 0.2)), monkeypatch, found)
    total, own = found
    data = batch_of(texts(8))
    output = own.student(**data.feeds, output_hidden_states=True)
    labels = torch.tensor([TASK.labels.index(str(gold)) for gold in texts(8).gold])
    mask = data.feeds["attention_mask"].bool()
    lower, last = output.hidden_states[1], output.hidden_states[2]
    z, t = own.student.get_submodule("head")(lower), output.logits  # the head starts as the student's own, its map as the identity
    entropy = torch.nn.functional.cross_entropy
    kl = (t.softmax(-1) * (t.log_softmax(-1) - z.log_softmax(-1))).sum(-1).mean()
    apart = (lower[mask] - last[mask]).square().sum() / last[mask].square().sum()
    expected = entropy(t, labels) + 0.7 * entropy(z, labels) + 0.3 * kl + 0.2 * apart
    torch.testing.assert_close(total, expected, atol=2e-3, rtol=2e-3)


def test_the_last_layer_teaches_and_is_not_taught_by_those_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    step_losses(SelfDistill(step(tmp_path, losses={"kl": 1e-9}), SelfDistillSettings("1", 1.0, 1.0)), monkeypatch, found)
    total, own = found
    total.backward()
    layers = encoder_of(own.student).layers
    last, lower = (layer.feed_forward.down.weight.grad for layer in (layers[1], layers[0]))
    assert last.abs().max() < 1e-6 * lower.abs().max()
    assert own.student.get_submodule("head.out").weight.grad.abs().max() < 1e-6
    assert own.heads[0].out.weight.grad.abs().max() > 1e-4


def test_heads_on_layers_of_tokens(tmp_path: Path) -> None:
    task = Tagging(["O", "X"])
    data = texts(24)
    first = [list(range(1, length)) for length in data.encoded.lengths]
    data = replace(data, gold=[["X" if i % 2 else "O" for i in words] for words in first], first_tokens=first)
    blueprint = replace(SHALLOW, head="token")
    how = DistillSettings(Schedule(epochs=1, batch_size=8, patience=100), {"kl": 1.0, "hard": 1.0})
    distill = Distill(task, Teachers(penjing_model(replace(DEEP, head="token"), 0)), how, data, Place(tmp_path))
    for given in (SelfDistill(distill, SelfDistillSettings()), Mutual(distill, MutualSettings())):
        student = penjing_model(blueprint, 5)
        taught = given.teach(student, given.observe(student, data))
        assert taught.history.steps == 3 and np.isfinite(taught.history.evaluations[-1]["loss"])
        (tmp_path / "state.pt").unlink(missing_ok=True)


@pytest.mark.parametrize(("layers", "depth", "expected"), [("all", 4, [1, 2, 3]), ("2", 3, [2]), ("3,1", 4, [1, 3])])
def test_layers_that_get_heads(layers: str, depth: int, expected: list[int]) -> None:
    assert SelfDistillSettings(layers).layers(depth) == expected


@pytest.mark.parametrize(("layers", "depth"), [("all", 1), ("3", 3), ("0", 3)])
def test_layers_that_cannot_have_a_head_are_refused(layers: str, depth: int) -> None:
    with pytest.raises(InputError, match=r"self_distill: .* names no layers below the last"):
        (SelfDistillSettings(layers) if layers != "0" else replace(SelfDistillSettings(), self_distill=layers)).layers(depth)


# -- both are killed and go on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("around", [lambda d: Mutual(d, MutualSettings()), lambda d: SelfDistill(d, SelfDistillSettings())])
def test_killed_it_ends_with_the_same_weights(around: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    left = [0]

    def kill(done: int, total: int, **figures: float) -> None:
        left[0] -= 1
        if left[0] == 0:
            broken()

    def result(folder: str, progress: Any = loop.silent) -> dict[str, torch.Tensor]:
        given = around(step(tmp_path / folder, progress, losses={"kl": 1, "hidden": 1}, dropout=0.1))
        student = penjing_model(SHALLOW, 5)
        return dict(given.teach(student, given.observe(student, texts())).model.state_dict())

    torch.manual_seed(1)
    whole = result("whole")
    for left[0] in (1, 9):
        torch.manual_seed(2)
        with pytest.raises(Killed):
            result("killed", kill)
    torch.manual_seed(3)
    again = result("killed")
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


# -- adversarial changes -------------------------------------------------------------------------------------------


def test_the_change_is_of_its_length_and_worse_than_any_other(tmp_path: Path) -> None:
    given = step(tmp_path, losses=LABELS, adversarial=0.5)
    data = texts(16)
    lesson, student = given.lesson(given.observe(given.teachers.teacher, data)), penjing_model(SHALLOW, 5)
    batch = batch_of(data)
    lesson.set_dropout(student)
    word = encoder_of(student).embeddings.word
    seen: list[torch.Tensor] = []
    word.register_forward_hook(lambda *_: seen.append(_[2]), prepend=False)
    plain = lesson.loss(student.eval(), batch).item()
    both = lesson.loss(student.train(), batch)
    changed = []
    student.get_submodule("encoder.embeddings").register_forward_pre_hook(lambda _, inputs: changed.append(inputs[0]))
    again = lesson.loss(student, batch)
    assert len(seen) == 5 and torch.equal(both, again)  # one pass in eval mode, two in training
    by = (changed[1] - changed[0]).flatten(1).norm(dim=1)
    torch.testing.assert_close(by, (0.5 * word.weight.std()).expand_as(by))
    assert both.item() - plain > plain * 1.001
    both.backward()
    assert word.weight.grad is not None and torch.isfinite(word.weight.grad).all()


def test_without_answers_nothing_is_changed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="adversarial: it changes the texts whose answers are taught"):
        DistillSettings(losses={"hidden": 1.0}, adversarial=1.0)
    given = step(tmp_path, losses={"kl": 1.0, "hidden": 1.0}, states_first=0.5, adversarial=1.0)
    lesson = given.lesson(given.observe(penjing_model(SHALLOW, 5), texts(8)))
    with torch.no_grad():  # no gradient is asked for while states alone are taught
        lesson.loss(penjing_model(SHALLOW, 5).train(), batch_of(texts(8)))


def test_a_student_learns_on_changed_texts_and_with_peers(tmp_path: Path) -> None:
    distill = learning(tmp_path, adversarial=1.0)
    for given in (distill, Mutual(distill, MutualSettings())):
        student = penjing_model(SHALLOW, 5)
        taught = given.teach(student, given.observe(student, easy()))  # type: ignore[arg-type]
        assert quality_of(TASK, easy(60, 8), logits_of(taught.model, easy(60, 8).encoded)) > 85
    with pytest.raises(InputError, match="leave one of the two out"):
        SelfDistill(distill, SelfDistillSettings())


# -- an ensemble retrained into one ----------------------------------------------------------------------------------


def test_students_of_changed_texts_teach_one_together(tmp_path: Path) -> None:
    """Three students of perturbed trainings are the teachers of one that starts as the first of them did."""
    students = []
    for seed in range(3):
        noisy = learning(tmp_path / str(seed), losses={"kl": 1.0, "hard": 1.0}, noise=0.3, draws=2)
        how = replace(noisy.settings, schedule=replace(noisy.settings.schedule, seed=seed))
        start = penjing_model(SHALLOW, 5)
        given = replace(noisy, settings=how)
        students.append(given.teach(start, given.observe(start, easy())).model)
    assert not torch.equal(*(encoder_of(model).layers[0].feed_forward.up.weight for model in students[:2]))
    again = replace(learning(tmp_path / "again", losses={"kl": 1.0}), teachers=Teachers(students[0], students[1:]))
    start = penjing_model(SHALLOW, 5)
    taught = again.teach(start, again.observe(start, easy()))
    assert quality_of(TASK, easy(60, 8), logits_of(taught.model, easy(60, 8).encoded)) > 85


# -- options and recipes -----------------------------------------------------------------------------------------


def test_options_are_steps_of_the_recipe() -> None:
    names = [[item.name for item in Distilling(layers=2, **options).recipe().steps] for options in ({"peers": 2}, {"self_distill": "1"})]
    assert names == [["prune", "distill", "mutual"], ["prune", "distill", "self-distill"]]
    assert Distilling(layers=2, peers=2).recipe().get(MutualSettings) == MutualSettings(2)
    assert Distilling(layers=2, adversarial=1.0).recipe().distillation.adversarial == 1.0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"peers": 1, "self_distill": "all", "layers": 2}, "peers: .* leave `self_distill` out"),
        ({"peers": 1, "preset": "trees"}, "peers: a trees student has nothing to do with it"),
        ({"self_distill": "first", "layers": 2}, "self_distill: 'first' names no layers"),
        ({"peers": 0, "layers": 2}, "peers: 0 are too few"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Distilling(**options).recipe()


def test_recipes_name_them(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("- prune: {layers: 2}\n- distill: {adversarial: 0.5}\n- mutual: {peers: 3, weight: 0.5}\n")
    recipe = read_recipe(file)
    assert recipe.get(MutualSettings) == MutualSettings(3, 0.5) and recipe.distillation and recipe.distillation.adversarial == 0.5
    file.write_text("- prune: {layers: 2}\n- distill\n- self-distill: {self_distill: '1', alpha: 0.2, features: 0}\n")
    assert read_recipe(file).get(SelfDistillSettings) == SelfDistillSettings("1", 0.2, 0.0)
