"""The benchmark of the loss: its formulas are right, agree with ours, and the whole of it runs."""

import functools
import importlib
import json
import operator
import pathlib
import runpy
import sys
import time
import warnings

import jax
import numpy as np
import pytest
from scipy import special, stats

ROOT = pathlib.Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
SIZES = [(4, 3, 1), (5, 2, 3)]
COVARIANCES = ("isotropic", "diagonal", "full")


def neighbour(name):
    """A file of benchmarks/; they import one another by name."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


alone = neighbour("mdn_alone")
apart = neighbour("apart")
figure = neighbour("mdn_figure")
formulas = neighbour("mdn_formulas")
gates = neighbour("mdn_gates")
limits = neighbour("mdn_limits")
measure = neighbour("measure")
peers = neighbour("mdn_peers")
race = neighbour("mdn_race")
steps = neighbour("mdn_steps")
sweep = neighbour("mdn_sweep")

SHAPES = [formulas.Shape(*size, covariance) for covariance in COVARIANCES for size in SIZES]
# In one dimension no formula tells the covariances apart, but those of full ones have no entries.
DIFFERENT = [shape for shape in SHAPES if shape.dim > 1 or shape.covariance == "full"]
each_shape = pytest.mark.parametrize("shape", DIFFERENT, ids=str)
QUICK = race.Settings(rounds=1, quick=True, peers=(), covariances=("full",))


def oracle(shape, mixtures, y):
    """-log p(y) by SciPy, from covariance matrices."""
    result = np.empty(shape.batch)
    for b in range(shape.batch):
        joint = special.log_softmax(mixtures.logits[b])
        for k in range(shape.components):
            factor = np.eye(shape.dim)
            if shape.entries:
                factor[np.triu_indices(shape.dim, 1)] = mixtures.upper[b, k]
            scale = np.broadcast_to(mixtures.log_scale[b, k], (shape.dim,))
            factor = np.exp(-scale)[:, None] * factor
            normal = stats.multivariate_normal(mixtures.loc[b, k], np.linalg.inv(factor.T @ factor))
            joint[k] += normal.logpdf(y[b])
        result[b] = -special.logsumexp(joint)
    return result


def gradients(contestants, problem):
    """Of each formula the loss, the gradient, and the mixtures that were packed and unpacked."""

    @jax.jit
    def compute(mixtures, y):
        found = []
        for formula in contestants:
            raw = formula.pack(mixtures)
            loss, gradient = formula.loss_and_gradient(raw, formula.targets(y))
            found.append((loss, formula.unpack(gradient), formula.unpack(raw)))
        return found

    return compute(*problem)


@functools.cache
def reference(shape):
    """A problem, and plain autodiff as a contestant."""
    problem = formulas.random_problem(shape)
    return problem, race.contestant(formulas.plain(shape), problem)


def require_close(found, expected, tolerance):
    for name, its, theirs in zip(found._fields, found, expected, strict=True):
        if its is not None:
            np.testing.assert_allclose(its, theirs, rtol=0, atol=tolerance, err_msg=name)


@each_shape
def test_plain_is_right(shape, x64):
    mixtures, y = problem = formulas.random_problem(shape, dtype=np.float64)
    plain = formulas.plain(shape)
    nats = oracle(shape, mixtures, y)
    each = jax.jit(lambda mixtures, y: plain.nll(plain.pack(mixtures), y))(*problem)
    np.testing.assert_allclose(each, nats, rtol=1e-12)
    # One derivative of each kind, by a central difference of SciPy's.
    ((_, found, _),) = gradients([plain], problem)
    for field in [f for f in mixtures._fields if getattr(mixtures, f).size]:
        one = np.zeros_like(getattr(mixtures, field))
        one.reshape(-1)[one.size // 2] = 1e-6
        above, below = (
            oracle(shape, mixtures._replace(**{field: getattr(mixtures, field) + sign * one}), y)
            for sign in (1, -1)
        )
        difference = np.sum(above - below) / 2e-6
        derivative = np.asarray(getattr(found, field)).reshape(-1)[one.size // 2]
        np.testing.assert_allclose(derivative, difference, atol=1e-7, err_msg=field)


@each_shape
def test_all_formulas_agree_in_float64(shape, x64):
    mixtures, _ = problem = formulas.random_problem(shape, dtype=np.float64)
    others = [race.ours(shape), race.ours(shape, columns=True), *formulas.candidates(shape)]
    (loss, expected, _), *found = gradients([formulas.plain(shape), *others], problem)
    for formula, (its_loss, its, unpacked) in zip(others, found, strict=True):
        np.testing.assert_allclose(its_loss, loss, rtol=1e-12, err_msg=formula.name)
        require_close(its, expected, 1e-12)
        require_close(unpacked, mixtures, 0)


def test_blocks_are_the_whole():
    shape = formulas.Shape(12, 4, 2, "full")
    whole = next(f for f in formulas.candidates(shape) if f.name == "dimension by dimension")
    blocks = type(whole)(whole.name, whole.pack, whole.unpack, whole.nll, block=4)
    problem = formulas.random_problem(shape)
    (loss, expected, _), (its, found, _) = gradients([whole, blocks], problem)
    np.testing.assert_allclose(its, loss, rtol=1e-6)
    require_close(found, expected, 1e-6)


@pytest.mark.parametrize("name", peers.PEERS)
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_peers_agree(name, covariance):
    shape = formulas.Shape(6, 4, 3, covariance)
    problem, plain = reference(shape)
    found = {race.PLAIN: plain}
    settings = race.Settings(peers=(name,))
    with warnings.catch_warnings(), jax.numpy_rank_promotion("allow"):
        warnings.simplefilter("ignore")  # what packages have to say at import
        found |= race.peers(shape, problem, found[race.PLAIN], settings)
    if isinstance(found[name], str):
        assert "Error" in found[name]
        assert not found[name].startswith("AssertionError")
        pytest.skip(found[name])
    race.require_agreement(found, tolerance=1e-4)


def test_a_peer_that_is_missing_says_so(monkeypatch):
    shape = formulas.Shape(4, 2, 2)
    problem, plain = reference(shape)
    missing = peers.Peer("no_such_package", peers.PEERS["numpyro"].formula)
    monkeypatch.setitem(peers.PEERS, "numpyro", missing)
    found = race.peers(shape, problem, plain, race.Settings(peers=("numpyro",)))
    assert found == {"numpyro": "ModuleNotFoundError: No module named 'no_such_package'"}


def test_on_a_gpu_torch_takes_part_twice():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("says what is missing where there is no GPU")
    shape = formulas.Shape(4, 2, 2)
    problem, plain = reference(shape)
    settings = race.Settings(platform="gpu", peers=("torch",))
    found = race.peers(shape, problem, plain, settings)
    assert set(found) == {"torch", "torch, compiled"}
    assert all(isinstance(why, str) for why in found.values())


def test_a_peer_that_disagrees_says_so(monkeypatch):
    shape = formulas.Shape(4, 2, 2)
    problem, plain = reference(shape)
    wrong = peers.Peer("math", lambda *_: lambda parts, y: 1 + 0 * parts.logits[:, 0])
    monkeypatch.setitem(peers.PEERS, "numpyro", wrong)
    found = race.peers(shape, problem, plain, race.Settings(peers=("numpyro",)))
    assert "numpyro: loss" in found["numpyro"] or "Not equal" in found["numpyro"]


def test_disagreement_ends_the_benchmark():
    shape = formulas.Shape(4, 2, 2)
    _, plain = reference(shape)
    right = plain.gradient()
    for factor, what in ((2.0, "logits differs"), (1.0, None)):
        wrong = race.Contestant(
            "wrong", lambda f=factor: (right[0], f * right[1]), None, plain.unpack
        )
        if what is None:
            race.require_agreement({race.PLAIN: plain, "wrong": wrong})
        else:
            with pytest.raises(AssertionError, match=what):
                race.require_agreement({race.PLAIN: plain, "wrong": wrong})


@pytest.mark.usefixtures("on_rows")
def test_ours_missing_is_a_row_and_plain_the_measure(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mdnjax", None)
    settings = race.Settings(rounds=1, peers=(), together=True)
    row = alone.measure(formulas.Shape(8, 4, 3), settings)
    alone.print_row(row)
    assert row["reference"] == race.PLAIN
    assert race.OURS in row["missing"]
    assert row["ratio"]["gradient"][race.PLAIN] == 1
    assert "not measured: ModuleNotFoundError" in capsys.readouterr().out


def test_counts_of_outputs_exponentials_and_traffic():
    assert formulas.Shape(1, 20, 2).outputs == 80
    assert formulas.Shape(1, 20, 2).exponentials == 3 * 20 + 2
    for covariance in ("diagonal", "full"):
        assert formulas.Shape(1, 20, 2, covariance).exponentials == (2 + 2) * 20 + 2
    for shape in SHAPES:
        mixtures, _ = formulas.random_problem(shape)
        assert shape.outputs == jax.eval_shape(race.ours(shape).pack, mixtures).shape[1]
    assert limits.traffic(formulas.Shape(65536, 20, 2)) == 65536 * 648
    assert limits.copy_traffic(formulas.Shape(65536, 20, 2)) == 65536 * 640


class Turning:
    """A contestant that turns the clock by what it costs, and counts its runs."""

    now = 0.0

    def __init__(self, seconds):
        self.seconds, self.count = seconds, 0

    def __call__(self):
        self.count += 1
        Turning.now += self.seconds


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(measure.time, "perf_counter", lambda: Turning.now)


def test_a_slow_contestant_has_fewer_rounds(clock):
    runs = {"slow": Turning(5.0), "quick": Turning(0.125)}
    seconds = measure.interleaved(runs, rounds=8, warmup=2, pause=0, patience=4)
    assert {name: len(times) for name, times in seconds.items()} == {"slow": 3, "quick": 8}
    assert {name: run.count for name, run in runs.items()} == {"slow": 1 + 3, "quick": 2 + 8}
    assert measure.ratio(seconds["slow"], seconds["quick"]).median == pytest.approx(40)


def test_settling_is_not_timed(clock):
    run = Turning(0.5)
    assert measure.timed(run, settle=3) == 0.5
    assert run.count == 3 + 1
    assert measure.timed(run, settle=1, seconds=2.0) == 0.5
    assert run.count == 4 + 4 + 1
    (times,) = measure.interleaved({"": run}, rounds=2, warmup=1, pause=0, settle=2).values()
    np.testing.assert_array_equal(times, [0.5, 0.5])
    assert run.count == 9 + 1 + 2 * 3


@pytest.fixture
def processes(monkeypatch):
    """`Apart` of contestants with one run each; processes find the benchmarks on their path."""
    monkeypatch.syspath_prepend(BENCHMARKS)

    def processes(**runs):
        builders = {name: (dict, ([("run", run)],)) for name, run in runs.items()}
        return apart.Apart(builders, settle=1, patience=4.0)

    return processes


def test_contestants_apart_run_in_turn(processes):
    runs = {
        "slow": functools.partial(time.sleep, 0.03),
        "quick": functools.partial(time.sleep, 0),
        # More than the heap ever keeps, so that it comes afresh on every run.
        "hungry": functools.partial(operator.mul, b"x", 100_000_000),
    }
    with processes(**runs) as running:
        seconds = running.race("run", runs, rounds=2, pause=0)
        fresh = running.fresh_bytes
        (again,) = running.race("run", ["quick"], rounds=3, pause=0).values()
    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys(runs, 2)
    assert len(again) == 3
    assert max(seconds["quick"]) < 0.03 <= min(seconds["slow"])
    assert fresh["hungry"] > 100_000 + fresh["quick"]  # in pages that may be of 2 MB


def test_a_contestant_whose_process_ends_is_named(processes, capfd):
    running = processes(quick=functools.partial(time.sleep, 0))
    running._builders["broken"] = (int, ("no such contestant",))
    with pytest.raises(RuntimeError, match="the process of 'broken' ended"):
        running.__enter__()
    assert "no such contestant" in capfd.readouterr().err


def test_gates():
    ratio = {race.PLAIN: 4.1, race.BEST: 0.9, race.ROWS: 1.2, "numpyro": 7.0, limits.SUMMED: 0.4}
    row = {"section": "alone", "reference": race.OURS, "covariance": "isotropic"}
    row |= {"batch": 65536, "components": 20, "dim": 2}
    row["ratio"] = {"gradient": ratio | {limits.WRITTEN: 0.6}}
    to_columns = {race.PLAIN: 3.9, race.BEST: 0.94, "numpyro": 5.9}
    row["ratio"]["gradient, to columns"] = to_columns
    found = {(gate.what.split(": ")[1], gate.bound): gate for gate in gates.gates([row])}
    assert found[f"{race.PLAIN} / ours", 4.0].holds
    assert not found[f"{race.PLAIN} / ours on columns", 4.0].holds
    assert not found[f"{race.BEST} / ours, on columns", 0.95].holds
    assert found[f"{race.BEST} / ours, on rows", 0.95].holds
    assert found["numpyro / ours", 6.0].holds
    assert not found["numpyro / ours on columns", 6.0].holds
    assert not found["numpyro / ours", 8.0].holds
    floor = found["ours / exponentials", 2.0]  # the floor is the faster of the two ways
    assert floor.value == pytest.approx(1 / 0.4)
    assert floor.aim
    assert not floor.holds
    wide = {"section": "widest", "contestant": "default", "ratio": [1.3, 1.1, 1.0]}
    wide |= {"rows": 8, "hidden": 8, "components": 2, "dim": 2}
    wide |= {"temporary_bytes": 5, "plain_temporary_bytes": 100}
    assert [gate.value for gate in gates.gates([wide])] == [1.1, 0.05]
    assert all(gate.holds for gate in gates.gates([wide]))


@pytest.fixture
def on_columns(monkeypatch):
    """The only candidate is one on columns, whose layer is turned; others are as on rows."""

    def candidates(shape):
        return [formula for formula in formulas.candidates(shape) if formula.columns][:1]

    for section in (steps, sweep):
        monkeypatch.setattr(section, "candidates", candidates)


@pytest.fixture
def on_rows(monkeypatch):
    """The only candidate of "alone": each takes a process."""
    monkeypatch.setattr(alone, "candidates", lambda shape: formulas.candidates(shape)[:1])


@pytest.mark.usefixtures("on_columns")
def test_steps_and_products_agree_and_are_measured(capsys):
    (row,), (other,) = steps.step(QUICK), steps.hessian(QUICK)
    expected = {race.OURS, race.COLUMNS, race.PLAIN, race.BEST, steps.PRODUCTS}
    assert set(row["seconds"]) == expected
    assert set(other["seconds"]) == {race.OURS, race.PLAIN}
    assert other["equal"]
    capsys.readouterr()


@pytest.mark.usefixtures("on_columns")
def test_small_batches_under_one_scan(capsys):
    (row,) = sweep.small(QUICK)
    assert set(row["seconds"]) == {race.OURS, race.PLAIN, race.BEST}
    assert "us a step" in capsys.readouterr().out


def test_figure_wants_rows():
    with pytest.raises(ValueError, match="rows"):
        figure.figure([])


@pytest.mark.usefixtures("on_columns", "on_rows")
def test_quick_runs_and_writes(tmp_path, monkeypatch, capfd):
    """The program itself, without the slow packages; contestants have processes of their own."""
    command = ["mdn_gradients.py", "--quick", "--rounds", "1"]
    command += ["--covariance", "isotropic", "--only", "alone", "sweep", "--peers"]
    command += ["--shape", "256,4,17"]
    command += ["--json", str(tmp_path / "rows.json"), "--figure", str(tmp_path / "rows.png")]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(sweep, "QUICK_VALUES", {"B": (64,), "K": (3,), "D": (2,)})
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = jax.config.jax_default_device
    try:
        runpy.run_path(str(BENCHMARKS / "mdn_gradients.py"), run_name="__main__")
    finally:
        jax.config.update("jax_default_device", before)
    written = json.loads((tmp_path / "rows.json").read_text())
    assert {row["section"] for row in written["rows"]} == {"alone", "sweep"}
    (row,) = [row for row in written["rows"] if row["section"] == "alone"]
    expected = {race.OURS, race.COLUMNS, race.PLAIN, race.BEST}
    expected |= {limits.COPY, limits.SUMMED, limits.WRITTEN}
    assert set(row["seconds"]["gradient"]) == expected
    assert set(row["fresh_bytes"]) == expected
    assert row["temporary_bytes"][race.OURS] is not None
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")
    assert "value and gradient, times that of mdnjax" in capfd.readouterr().out
