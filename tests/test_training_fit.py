"""The loop: the right optimum, resumption bit for bit, and every way a run can end."""

import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from made_fit import (
    PARAMS,
    WHOLE,
    X,
    Y,
    batches,
    check_equal_runs,
    fit,
    loss,
    noisy_loss,
    same_trees,
)

from mdnjax import training
from mdnjax.training._differences import differences


def test_linear_regression_finds_the_least_squares_solution():
    result = fit(
        batches=lambda n: WHOLE,
        optimizer=training.adam(clip=None),
        steps=600,
        average=None,
    )
    expected = np.linalg.lstsq(X, Y, rcond=None)[0]
    np.testing.assert_allclose(result.last.params["w"], expected, atol=2e-4)
    assert result.stopped == "budget"
    assert result.points == 600 * 64
    np.testing.assert_array_equal(PARAMS["w"], np.zeros(4))


def test_the_best_validation_is_what_is_returned_and_loaded(tmp_path):
    """One that is not finite is no improvement."""
    values = iter([3.0, float("nan"), 1.0, -float("inf"), 2.0])
    seen = []

    def scripted(params, state):
        seen.append(np.asarray(params["w"]).copy())
        return next(values)

    result = fit(validate=scripted, out=tmp_path)
    assert (result.step, result.valid, int(result.last.step)) == (24, 1.0, 40)
    np.testing.assert_array_equal(result.params["w"], seen[2])
    assert [p.name for p in (tmp_path / "best").iterdir()] == ["00000024"]
    assert [p.name for p in (tmp_path / "last").iterdir()] == ["00000040"]
    saved, config = training.restore_checkpoint(tmp_path / "best", result.last)
    np.testing.assert_array_equal(saved.average["w"], seen[2])
    assert config["progress"]["best_valid"] == 1.0
    lines = training.read_metrics(tmp_path / "metrics.jsonl")
    shown = [line["valid"] for line in lines if line["step"] % 8 == 0]
    assert shown == [3.0, None, 1.0, None, 2.0]


def test_lines_of_metrics_are_means_over_their_steps(tmp_path):
    result = fit(average=None, out=tmp_path, steps=6, validations=1)
    lines = training.read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [3, 6]
    assert [line["points"] for line in lines] == [48, 96]
    assert lines[0]["valid"] is None
    assert lines[1]["valid"] == result.valid
    assert lines[1]["seconds"] > lines[0]["seconds"] > 0
    assert lines[1]["points_per_second"] > 0
    np.testing.assert_allclose(lines[0]["lr"], 0.1, rtol=1e-6)
    # The first step's loss is that of w = 0; two steps of a rate of 0 keep it there.
    fit(
        optimizer=optax.sgd(0.0),
        average=None,
        out=tmp_path,
        overwrite=True,
        steps=3,
        validations=1,
    )
    (line,) = training.read_metrics(tmp_path / "metrics.jsonl")
    expected = np.mean([np.mean(batches(n)["y"] ** 2) for n in range(3)])
    np.testing.assert_allclose(line["nats"], expected, rtol=1e-5)
    norms = [np.linalg.norm(-2 * batches(n)["x"].T @ batches(n)["y"] / 16) for n in range(3)]
    np.testing.assert_allclose(line["grad_norm"], max(norms), rtol=1e-5)


def noisy_fit(**options):
    """A run whose steps are random, with validations after 14, 28 and 40 of them."""
    return fit(loss=noisy_loss, validations=3, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return noisy_fit(out=folder), folder


def test_a_run_killed_again_and_again_equals_an_uninterrupted_one(tmp_path, whole):
    """Before the first validation, right after one, and between two."""
    for kill_at in (3, 28, 34):

        def dying(n, kill_at=kill_at):
            if n == kill_at:
                raise RuntimeError("killed")
            return batches(n)

        with pytest.raises(RuntimeError, match="killed"):
            noisy_fit(out=tmp_path, batches=dying, resume=kill_at > 3)
        stands = training.find_checkpoint(tmp_path, prefer="last").name
        assert int(stands) == kill_at // 14 * 14
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 9999, "torn')
    resumed = noisy_fit(out=tmp_path, resume=True)
    check_equal_runs(whole, resumed, tmp_path)


def test_a_best_that_is_later_than_the_last_is_made_anew(tmp_path, whole):
    """As after a kill between the two: here the later best even holds something else."""
    result, _ = whole
    assert result.step > 14

    def dying(n):
        if n == result.step - 1:
            raise RuntimeError("killed")
        return batches(n)

    with pytest.raises(RuntimeError, match="killed"):
        noisy_fit(out=tmp_path, batches=dying)
    best = tmp_path / "best"
    (before,) = best.iterdir()
    shutil.copytree(before, best / f"{result.step:08d}")
    resumed = noisy_fit(out=tmp_path, resume=True)
    check_equal_runs(whole, resumed, tmp_path)
    saved, _ = training.restore_checkpoint(best, resumed.last)
    same_trees(saved.average, result.params)


def test_a_best_that_a_kill_left_behind_is_removed(tmp_path):
    """As after a kill between the last checkpoint of a run and the removal of those before it."""
    fit(out=tmp_path, steps=4)
    for kind in ("best", "last"):
        (stands,) = (tmp_path / kind).iterdir()
        shutil.copytree(stands, tmp_path / kind / "00000001")
        before = stands.name
        fit(out=tmp_path, steps=4, resume=True)
        assert [path.name for path in (tmp_path / kind).iterdir()] == [before]


def test_ctrl_c_saves_and_resumes_in_the_middle_of_a_window(tmp_path, whole, default_signals):
    def interrupting(n):
        if n == 19:
            os.kill(os.getpid(), signal.SIGINT)
        return batches(n)

    before = signal.getsignal(signal.SIGINT)
    part = noisy_fit(out=tmp_path, batches=interrupting)
    assert signal.getsignal(signal.SIGINT) is before
    assert (part.stopped, int(part.last.step)) == ("interrupted", 20)
    assert [p.name for p in (tmp_path / "last").iterdir()] == ["00000020"]
    resumed = noisy_fit(out=tmp_path, resume=True)
    check_equal_runs(whole, resumed, tmp_path)


def test_a_second_ctrl_c_raises(default_signals):
    def impatient(n):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return batches(n)

    with pytest.raises(KeyboardInterrupt):
        fit(batches=impatient)


def test_a_finished_run_resumes_to_itself(tmp_path):
    first = fit(out=tmp_path, validations=2)
    again = fit(out=tmp_path, resume=True, steps=None, minutes=9.0)
    same_trees(first.last, again.last)
    same_trees(first.params, again.params)
    assert (again.stopped, again.valid, again.step) == ("budget", first.valid, first.step)


def test_resume_with_nothing_there_starts_and_says_so(tmp_path, capsys):
    result = fit(out=tmp_path / "new", resume=True, steps=5, validations=1, progress="lines")
    printed = capsys.readouterr().err.splitlines()
    assert printed[0] == f"no run in {tmp_path / 'new'} yet: starting one"
    fit(out=tmp_path / "new", resume=True, steps=5, validations=1, progress="lines")
    assert "no run in" not in capsys.readouterr().err
    assert result.last.step == 5
    assert training.find_checkpoint(tmp_path / "new", prefer="last").name == "00000005"


def test_a_bad_batch_is_named_and_the_state_before_it_kept(tmp_path):
    def bad(n):
        batch = batches(n)
        if n == 10:
            batch["x"][2, 1] = np.nan
        return batch

    with pytest.raises(training.NonFiniteError) as caught:
        fit(out=tmp_path, batches=bad, validations=1)
    error = caught.value
    assert error.step == 10
    assert {"loss", "gradient of params/w"} <= set(error.leaves)
    assert np.isnan(error.nats)
    for part in ("step 10", "batch 10", "not finite in it: x)", "params/w", str(tmp_path)):
        assert part in str(error)
    saved, config = training.restore_checkpoint(tmp_path / "last", error.state)
    same_trees(saved, error.state)
    assert config["progress"]["step"] == 10
    # That is the state after ten good steps, though step 11 had been dispatched when it was read.
    optimizer = training.adam()
    schedule = training.Schedule(peak=0.1, warmup=3)
    step = training.make_step(loss, optimizer, schedule=schedule, average=0.8)
    state = training.init_state(PARAMS, {"steps": 0.0}, optimizer, budget=40, average=True)
    for n in range(10):
        state, _ = step(state, batches(n), jax.random.key(3), np.int32(n))
    same_trees(error.state, state)


def test_a_plateau_ends_the_run_and_stays_ended(tmp_path):
    values = iter([5.0, 4.0, 3.99, 4.5, 9.0])
    result = fit(validate=lambda p, s: next(values), patience=2, min_delta=0.1, out=tmp_path)
    assert (result.stopped, result.step, result.valid) == ("plateau", 16, 4.0)
    assert int(result.last.step) == 32
    again = fit(validate=lambda p, s: next(values), patience=2, out=tmp_path, resume=True)
    assert (again.stopped, int(again.last.step)) == ("plateau", 32)
    same_trees(again.params, result.params)


def test_a_batch_without_weight_is_named():
    empty = {**WHOLE, "weight": np.zeros(64, np.float32)}
    with pytest.raises(training.NonFiniteError, match=r"step 3 \(batch 3; all its weights are 0\)"):
        fit(batches=lambda n: empty if n == 3 else WHOLE)


def test_a_run_is_not_overwritten_unasked(tmp_path):
    fit(out=tmp_path, steps=4, validations=1)
    with pytest.raises(training.CheckpointError, match="holds a run; expected an empty folder"):
        fit(out=tmp_path)
    result = fit(out=tmp_path, overwrite=True, steps=5, validations=1)
    assert [p.name for p in (tmp_path / "last").iterdir()] == ["00000005"]
    assert result.last.step == 5


def test_what_a_resumed_run_must_share(tmp_path):
    config = {"units": "mm", "tuple": (1, 2)}
    fit(out=tmp_path, config=config, validations=1)

    def refused(**options):
        with pytest.raises(training.CheckpointError) as caught:
            fit(out=tmp_path, resume=True, **options)
        first, *lines = str(caught.value).splitlines()
        assert first == f"the run in {tmp_path} can only go on as it was begun:"
        return [line.strip() for line in lines]

    assert refused(config={"units": "mm"}, seed=4) == ["seed: the run has 3, now 4"]
    assert refused(config={"units": "inch"}) == ["units: the run has mm, now inch"]
    assert refused(config={"tuple": (1, 3)}) == ["tuple: the run has [1, 2], now [1, 3]"]
    assert refused(config={"more": 1}) == ["more: the run has none, now 1"]
    assert refused(steps=50) == ["steps: the run has 40, now 50"]
    assert refused(schedule=training.Schedule(peak=0.2, warmup=3), average=None) == [
        "average: the run has 0.8, now none",
        "schedule.peak: the run has 0.1, now 0.2",
    ]
    # Nothing describes an optimiser but its arrays.
    momentum = refused(optimizer=optax.sgd(1.0, momentum=0.9))
    assert len(momentum) <= 6
    assert any(line.startswith("opt_state/") for line in momentum)
    assert all("the run has" in line or line.startswith("and ") for line in momentum)
    fit(out=tmp_path, config=config, resume=True)


def test_shapes_are_named_where_a_resumed_run_has_others(tmp_path):
    def run(width, **options):
        def narrow(params, state, batch, key):
            return jnp.sum(params["w"]) + batch["y"], batch["weight"], state

        return training.fit(
            narrow,
            {"w": np.zeros(width, np.float32)},
            {},
            batches,
            optimizer=optax.sgd(0.1),
            steps=2,
            out=tmp_path,
            progress="off",
            **options,
        )

    run(3)
    with pytest.raises(training.CheckpointError) as caught:
        run(4, resume=True)
    (_, line) = str(caught.value).splitlines()
    assert line.strip() == "params/w: the run has float32[3], now float32[4]"


def test_differences_are_named_where_they_are():
    old = {"layers": [{"class": "A", "options": {"size": 8}}, {"class": "B", "options": {}}]}
    new = {"layers": [{"class": "A", "options": {"size": 16}}, {"class": "C", "options": {}}]}
    assert list(differences(old, new)) == [
        "layers[0].size: the run has 8, now 16",
        "layers[1].class: the run has B, now C",
    ]
    assert list(differences(old, old)) == []
    head = {"class": "mdnjax.GaussianHead", "fields": {"dim": 2}}
    assert list(differences(None, head, "head")) == [
        "head: the run has none, now mdnjax.GaussianHead"
    ]
    line = next(differences({"array": list(range(99)), "dtype": "int64"}, {"array": [1]}, "a"))
    assert len(line) < 120


def test_a_run_that_cannot_be_gone_on_with_says_so_at_once(tmp_path):
    def never(n):
        raise AssertionError("no batch should have been asked for")

    whole = fit(out=tmp_path / "whole", steps=10, validations=1)
    without_best = shutil.copytree(tmp_path / "whole", tmp_path / "without best")
    shutil.rmtree(without_best / "best")
    with pytest.raises(training.CheckpointError, match=rf"best validation .* step {whole.step},"):
        fit(out=without_best, steps=10, resume=True, batches=never)
    # A checkpoint that was not saved by `fit`.
    schedule = training.describe(training.Schedule(peak=0.1, warmup=3))
    config = {"seed": 3, "average": 0.8, "schedule": schedule}
    training.save_checkpoint(tmp_path / "other" / "last" / "10", whole.last, config)
    with pytest.raises(training.CheckpointError, match=r"got KeyError\('progress'\)"):
        fit(out=tmp_path / "other", steps=10, resume=True, batches=never)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="steps and minutes must be given one of the two"):
        fit(minutes=1.0)
    with pytest.raises(ValueError, match="fit: steps must be positive, got 0"):
        fit(steps=0)
    with pytest.raises(ValueError, match="fit: patience must be None where there is no validate"):
        fit(validate=None, patience=3)
    with pytest.raises(ValueError, match="fit: out must be a folder"):
        fit(resume=True)
    with pytest.raises(ValueError, match="fit: config must be JSON"):
        fit(config={"a": object()})
    with pytest.raises(ValueError, match=r"fit: config must be without .*\['seed'\]"):
        fit(config={"seed": 1})


def test_one_trace_in_a_whole_run():
    traces = []

    def counted(params, state, batch, key):
        traces.append(1)
        return loss(params, state, batch, key)

    fit(loss=counted)
    assert len(traces) == 1


def test_lines_and_bar_go_to_stderr(capsys):
    fit(progress="lines")
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 5
    assert lines[-1].startswith("step 40/40, ")
    assert " valid " in lines[-1]
    fit(progress="auto")  # not a terminal
    assert len(capsys.readouterr().err.splitlines()) == 5
    fit(progress="bar")
    assert "40/40" in capsys.readouterr().err
    fit(progress="off")
    assert capsys.readouterr() == ("", "")


def test_without_validation_the_last_average_is_the_result():
    result = fit(validate=None)
    same_trees(result.params, result.last.average)
    assert (result.valid, result.step) == (None, 40)


def test_validation_is_the_weighted_mean_over_all_batches():
    parts = [batches(n) for n in range(3)]
    parts[1]["weight"] = np.full(16, 3.0, np.float32)
    parts[2] = {name: value[:5] for name, value in parts[2].items()}
    w = np.array([0.5, -1.0, 0.0, 1.0], np.float32)
    arguments = {"w": jnp.asarray(w)}, {"steps": jnp.zeros(())}
    run = training.make_validation(jax.random.key(0), loss, parts)
    total = sum(p["weight"].sum() for p in parts)
    expected = sum((p["weight"] * (p["x"] @ w - p["y"]) ** 2).sum() for p in parts) / total
    np.testing.assert_allclose(run(*arguments), expected, rtol=1e-5)
    noisy = training.make_validation(jax.random.key(0), noisy_loss, parts)
    assert noisy(*arguments) == noisy(*arguments)
    with pytest.raises(ValueError, match="make_validation: batches"):
        training.make_validation(jax.random.key(0), loss, [])


def test_broken_metrics_are_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for wrong in ("nonsense", "[1]", '{"nats": 1.0}', '{"step": "2"}'):
        path.write_text('{"step": 1}\n' + wrong + "\n" + json.dumps({"step": 2}) + "\n")
        with pytest.raises(ValueError, match="line 2 must be a JSON object"):
            training.read_metrics(path)
    assert training.read_metrics(tmp_path / "absent.jsonl") == []
