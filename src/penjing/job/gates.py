"""Gates: the figures of a result against the requested limits, and against limits that are always checked."""

from collections.abc import Callable, Mapping, Sequence

from penjing.errors import InputError
from penjing.job.asked import Budget
from penjing.report.record import Choice, Gate, Result, Verified

INT8_LOSS = 0.5
"""Points that int8 may lose against the same model in float32, where the budget allows no larger drop."""
APART = 2.0
"""Limit on the distance of the exported integers from their emulation, as a multiple of the emulation's distance from float32.

Layer by layer the two are equal. Through a whole model they are not: values on the edge between two integers are rounded either way, and
two independent roundings are √2 apart. Sums that overflow, or ranges of a wrong layer, are many times as far apart.
"""


def int8_limit(budget: Budget) -> float:
    """Limit on the points that int8 may lose against float32: the budget's drop, and at least `INT8_LOSS`."""
    return max(INT8_LOSS, budget.max_drop or 0.0)


def gates_of(result: Result, verified: Verified, budget: Budget, limits: Mapping[str, float]) -> list[Gate]:
    """The gates of a result: of requested limits (`asked`) and of others; either may decide the outcome (`decides`).

    Args:
        limits: the recipe's limits, by the name of the gate.
    """
    return [
        *_of_the_budget(result, budget),
        *_of_the_recipe(result, verified, limits),
        *_of_the_engines(verified.choice, result.engine),
        *_of_int8(verified.choice, result.form, int8_limit(budget)),
    ]


def check_limits(limits: Mapping[str, float]) -> None:
    """Check that a gate of each of these names exists; else `InputError`."""
    for name in limits:
        if name not in _RECIPE:
            raise InputError(f"recipe: {name!r} is no gate; known are {', '.join(_RECIPE)}")


def met(gates: Sequence[Gate]) -> bool | None:
    """Whether every gate that decides is passed; None where nothing was requested and no such gate failed."""
    if not all(gate.passed for gate in gates if gate.decides):
        return False
    return True if any(gate.asked for gate in gates) else None


def _at_most(name: str, value: float | None, limit: float) -> Gate:
    return Gate(name, value is not None and value <= limit, value, limit)


def _of_the_budget(result: Result, budget: Budget) -> list[Gate]:
    """Gates of the budget: speed-up, latency, size, drop; and the steady machine, which does not decide."""
    gates: list[Gate] = []
    speedup = result.speedup_vs_eager
    steady = result.figures.steady
    if budget.speedup is not None:
        gates.append(Gate("speedup", speedup is not None and speedup >= budget.speedup, speedup, budget.speedup))
    gates.append(Gate("steady machine", steady, float(steady), 1.0, asked=False, decides=False))
    lost = "drop" if budget.confidence is None else "drop_at_most"
    drop = result.judged.drop if budget.confidence is None else result.judged.drop_at_most
    asked = (
        ("latency_ms", result.figures.latency_ms, budget.latency_ms),
        ("size_mb", result.bytes / 1e6, budget.size_mb),
        (lost, drop, budget.max_drop),
    )
    return gates + [_at_most(name, value, limit) for name, value, limit in asked if limit is not None]


def _of_the_recipe(result: Result, verified: Verified, limits: Mapping[str, float]) -> list[Gate]:
    """Gates of the recipe: multiply-accumulates, latency, sparsity."""
    check_limits(limits)
    return [gate(result, verified, limits[name]) for name, gate in _RECIPE.items() if name in limits]


def _macs(result: Result, verified: Verified, limit: float) -> Gate:
    return _at_most("macs", result.macs, limit)


def _latency(result: Result, verified: Verified, limit: float) -> Gate:
    own = verified.own_shape
    return _at_most("part of the latency", 1 / own.speedup if own is not None and own.steady else None, limit)


def _sparsity(result: Result, verified: Verified, limit: float) -> Gate:
    assert verified.stored is not None and verified.stored.sparsity is not None
    sparsity = round(verified.stored.sparsity, 4)
    limit = limit - 1e-4
    return Gate("sparsity", sparsity >= limit, sparsity, limit)


_RECIPE: dict[str, Callable[[Result, Verified, float], Gate]] = {"macs": _macs, "part of the latency": _latency, "sparsity": _sparsity}
"""The gates that a recipe may request, by name, in order."""


def _of_the_engines(choice: Choice, engine: str) -> list[Gate]:
    """Gates of parity, one per engine; that of the shipped form's engine decides."""
    limit = choice.parity_limit
    return [
        Gate(f"float32 parity, {name}", difference <= limit, difference, limit, asked=False, decides=name == engine)
        for name, difference in choice.parity.items()
    ]


def _of_int8(choice: Choice, shipped: str, limit: float) -> list[Gate]:
    """Gates of int8: loss by rounding, and integers against their emulation; those of the shipped form decide."""
    gates: list[Gate] = []
    for form in choice.forms:
        decides = form.name == shipped
        if form.int8:
            name = f"int8 loss on texts held out, {form.name}"
            gates.append(Gate(name, form.loss <= limit + form.drop, form.loss, limit + form.drop, asked=False, decides=decides))
        if form.apart is not None:
            name = f"integers against their emulation, {form.name}"
            gates.append(Gate(name, form.apart <= APART, form.apart, APART, asked=False, decides=decides))
    return gates
