"""Minutes become steps, once, and short minutes are used."""

import sys

import pytest
from made_fit import WHOLE, batches, check_equal_runs, fit, same_trees, validate

from mdnjax import training


class Clock:
    """A `time` that passes only when something is done."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        for module in ("budget", "fit", "_run"):
            monkeypatch.setattr(sys.modules[f"mdnjax.training.{module}"], "time", self)

    def monotonic(self):
        return self.now

    def batches(self, seconds):
        def tick(n):
            self.now += seconds(n)
            return batches(n)

        return tick

    def validate(self, params, state):
        self.now += 2.0
        return validate(params, state)

    def fit(self, seconds, **options):
        """A run by minutes, of which step n takes so many seconds and a validation 2."""
        settings = {"validate": self.validate, "validations": 2} | options
        return fit(steps=None, batches=self.batches(seconds), **settings)


def test_minutes_become_a_budget_that_the_checkpoint_keeps(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)

    def seconds(n):
        return 10.0 if n == 0 and clock.now < 1001 else 0.5

    # The process started 30 s ago; step 0 compiles for 10 s, the others take half a second.
    result = clock.fit(seconds, minutes=2.0, started=970.0, reserve=10.0, out=tmp_path)
    # Until 1080; warm-up: 10 s, 8 steps of 0.5 s, two validations of 2 s.
    left = 0.95 * (80 - 10 - 8 * 0.5 - 2 * 2) - 2 * 2
    budget = int(result.last.budget)
    assert budget == int(left / 0.5)
    assert (result.stopped, int(result.last.step)) == ("budget", budget)
    assert 1075 < clock.now <= 1080
    saved, _ = training.restore_checkpoint(tmp_path / "last", result.last)
    assert int(saved.budget) == budget
    assert not list(tmp_path.glob(".warm-up*"))
    # The warm-up leaves no trace: the same budget given in steps is the same run.
    same_trees(fit(steps=budget, validations=2).last, result.last)


def test_time_that_is_up_ends_the_run_with_a_checkpoint(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    # Measured at 0.1 s, each step later takes 1 s.
    result = clock.fit(lambda n: 0.1 if clock.now < 1006 else 1.0, minutes=1.0, out=tmp_path)
    assert result.stopped == "time"
    # The last validation, of 2 s, fits in the minute; the step under way may not.
    assert 1060 < clock.now <= 1061
    assert 45 < int(result.last.step) < int(result.last.budget)
    assert training.find_checkpoint(tmp_path, prefer="last").name == f"{int(result.last.step):08d}"
    assert training.read_metrics(tmp_path / "metrics.jsonl")[-1]["valid"] is not None


def test_slow_steps_after_the_compilation_do_not_shorten_the_run(monkeypatch):
    clock = Clock(monkeypatch)
    calls = []

    def seconds(n):
        calls.append(n)
        return 10.0 if len(calls) == 1 else 0.6 if len(calls) <= 4 else 0.1

    result = clock.fit(seconds, minutes=1.0, validate=None)
    # By their mean the warm-up's steps take 0.3 s, and half of the minute would have been used.
    assert result.stopped == "budget"
    assert 1057 < clock.now <= 1060


def test_kinds_of_batches_count_as_often_as_they_come(monkeypatch):
    clock = Clock(monkeypatch)

    def some(n):
        clock.now += 0.1 if n % 4 else 0.9
        return {name: value[: 16 if n % 4 else 32] for name, value in WHOLE.items()}

    result = fit(steps=None, minutes=2.0, batches=some, validate=None)
    assert result.stopped == "budget"
    assert 1100 < clock.now <= 1120


@pytest.mark.parametrize(("minutes", "compiling"), [(0.1, 2.0), (0.5, 6.0)])
def test_short_minutes_are_used(tmp_path, monkeypatch, minutes, compiling):
    """A validation that takes long to compile, and then does not take long."""
    clock = Clock(monkeypatch)
    calls = []

    def check(params, state):
        calls.append(clock.now)
        clock.now += compiling if len(calls) == 1 else 0.2
        return validate(params, state)

    def seconds(n):
        return 1.0 if clock.now == 1000 else 0.01

    result = clock.fit(seconds, minutes=minutes, validate=check, validations=10)
    assert result.stopped == "budget"
    assert 1000 + 0.9 * 60 * minutes < clock.now <= 1000 + 60 * minutes
    assert int(result.last.step) > 50


def test_validations_that_take_too_long_are_fewer_and_a_resumed_run_has_as_many(
    tmp_path, monkeypatch
):
    def run(folder, kill_at=None, **options):
        clock = Clock(monkeypatch)

        def seconds(n):
            if n == kill_at and (folder / "last").exists():
                raise RuntimeError("killed")
            return 0.5

        return clock.fit(seconds, minutes=1.0, validations=20, out=folder, **options)

    whole = run(tmp_path / "whole")
    validated = [
        line["step"]
        for line in training.read_metrics(tmp_path / "whole" / "metrics.jsonl")
        if line["valid"] is not None
    ]
    # A quarter of some 53 s is room for 6 of 2 s.
    assert len(validated) == 6
    assert whole.stopped == "budget"
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path / "other", kill_at=50)
    resumed = run(tmp_path / "other", resume=True)
    check_equal_runs((whole, tmp_path / "whole"), resumed, tmp_path / "other")


def test_minutes_that_leave_next_to_nothing_are_named(monkeypatch):
    clock = Clock(monkeypatch)
    with pytest.warns(UserWarning, match=r"fit: 1\.0 minutes leave time for 1 steps of 20 s"):
        clock.fit(lambda n: 20.0, minutes=1.0)
