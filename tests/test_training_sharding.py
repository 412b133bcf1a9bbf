"""A batch divided among devices trains as one on one device, and moves no more than gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from made_devices import on_eight_devices

from mdnjax import training

# Few steps, each waited for: simulated devices on two cores may wait for each other for ever.
SCRIPT = """
    from flax import nnx
    import mdnjax as mdn
    from mdnjax import nets, strokes, training

    MESH = jax.make_mesh((8,), ("batch",))
    HEAD = strokes.stroke_head(3)

    STACK = nets.LSTMStack(
        3, (8,), nets.MixtureDense(8, HEAD, rngs=nnx.Rngs(1)), clip_gradient=0.1, rngs=nnx.Rngs(0)
    )
    WRITER = nets.functional(STACK, method="unroll")
    MIXTURE = mdn.GaussianHead(num_components=3, dim=1)
    MLP = nets.functional(
        nets.MLP(2, (9,), nets.MixtureDense(9, MIXTURE, rngs=nnx.Rngs(1)), rngs=nnx.Rngs(0))
    )

    def writer(dtype, rows):
        params = jax.tree.map(lambda p: p.astype(dtype), WRITER.params)
        carry = jax.tree.map(lambda c: c.astype(dtype), STACK.initial_carry((rows,)))

        def batches(n):
            rng = np.random.default_rng((0, n))
            # Longer than the chunks of the LSTM's backward pass, which one device alone may sum.
            points = rng.normal(size=(rows, 41, 3)).astype(dtype)
            points[..., 2] = points[..., 2] > 1
            starts = rng.uniform(size=(rows, 41)) < 0.2
            return {"points": points, "starts": starts, "mask": rng.uniform(size=(rows, 40)) < 0.8}

        def loss(params, state, batch, key):
            points, starts = batch["points"], jnp.asarray(batch["starts"])
            target = {"offset": points[:, 1:, :2], "pen_up": points[:, 1:, 2]}
            target = strokes.dequantize(key, target, (0.1, 0.1))
            inputs = points[:, :-1]
            (carry, raw), _ = WRITER.apply(params, {}, inputs, state["carry"], starts[:, :-1])
            weight = (jnp.asarray(batch["mask"]) & ~starts[:, 1:]).astype(dtype)
            return HEAD.nll(raw, target), weight, {"carry": carry}

        optimizer = training.muon(lambda name: name.startswith("layers/"))
        return loss, params, {"carry": carry}, batches, optimizer

    # Its carry is a running sum of each row's inputs.
    def mlp(dtype, rows):
        def batches(n):
            x = np.random.default_rng((1, n)).normal(size=(rows, 2)).astype(dtype)
            return {"x": x, "y": np.sin(x[:, :1])}

        def loss(params, state, batch, key):
            carry = state["carry"] + batch["x"]
            raw, _ = MLP.apply(params, {}, carry)
            return MIXTURE.nll(raw, batch["y"]), jnp.ones(len(carry), dtype), {"carry": carry}

        params = jax.tree.map(lambda p: p.astype(dtype), MLP.params)
        return loss, params, {"carry": np.zeros((rows, 2), dtype)}, batches, training.adam()

    def on_mesh(state):
        divided = training.split_batch(state, MESH)
        return divided.batch if isinstance(divided, training.PaddedBatch) else divided

    def step_on(make, dtype, rows, steps):
        loss, params, state, batches, optimizer = make(dtype, rows)
        step = training.make_step(loss, optimizer, schedule=lambda n, budget: jnp.float32(0.01))
        key = jax.random.key(0)
        one = training.init_state(params, state, optimizer, budget=9)
        many = training.init_state(params, on_mesh(state), optimizer, budget=9)
        many = training.replicate(many, MESH)
        divided = step.lower(
            many, training.split_batch(batches(0), MESH), key, np.int32(0)
        ).compile()
        text = divided.as_text()
        for n in range(steps):
            one, reported = step(one, batches(n), key, np.int32(n))
            many, also = divided(many, training.split_batch(batches(n), MESH), key, np.int32(n))
            jax.block_until_ready((one, many))
        worst = worst_norm = carried = 0.0
        for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(many.params), strict=True):
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            worst = max(worst, np.max(np.abs(a - b)))
            worst_norm = max(worst_norm, np.linalg.norm(a - b) / np.linalg.norm(a))
        for a, b in zip(jax.tree.leaves(one.state), jax.tree.leaves(many.state), strict=True):
            carried = max(carried, float(np.max(np.abs(np.asarray(a) - np.asarray(b)[:rows]))))
        reduced = 0
        for line in re.findall(r"= (.*?) all-reduce(?:-start)?\\(", text):
            for bits, shape in re.findall(r"[a-z]+(\\d+)\\[([0-9,]*)\\]", line):
                count = int(np.prod([int(n) for n in shape.split(",") if n]))
                reduced += count * int(bits) // 8
        others = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter")
        return {
            "absolute": worst, "relative": worst_norm, "carried": carried,
            "nats": abs(float(reported.nats) - float(also.nats)),
            "weights": [float(reported.weight), float(also.weight)],
            "reduced": reduced, "others": [name for name in others if f" {name}" in text],
            "learned": sum(leaf.nbytes for leaf in jax.tree.leaves(params)),
            "scalar": np.dtype(dtype).itemsize,
            "carry": [list(leaf.sharding.spec) for leaf in jax.tree.leaves(many.state)],
            "params": [list(leaf.sharding.spec) for leaf in jax.tree.leaves(many.params)],
        }

    found = {}
    for make, rows, dtype, steps in (
        (writer, 13, np.float64, 2),
        (mlp, 16, np.float32, 1),
        (mlp, 13, np.float64, 2),
    ):
        with jax.enable_x64(dtype == np.float64):
            name = f"{make.__name__}, {rows} rows, {dtype.__name__}"
            found[name] = step_on(make, dtype, rows, steps)
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def eight_devices():
    found = on_eight_devices(SCRIPT)
    assert len(found) == 3
    return found


def test_eight_devices_train_as_one(eight_devices):
    for name, found in eight_devices.items():
        exact = name.endswith("float64")
        assert found["absolute" if exact else "relative"] < (1e-12 if exact else 1e-5), name
        assert found["nats"] < (1e-12 if exact else 1e-5), name
        assert found["carried"] < (1e-12 if exact else 1e-5), name
        assert found["weights"][0] == found["weights"][1] > 0, name


def test_rows_stay_divided_and_parameters_replicated(eight_devices):
    for name, found in eight_devices.items():
        assert found["carry"] == [["batch"]] * (2 if name.startswith("writer") else 1), name
        assert found["params"] == [[]] * len(found["params"]), name


def test_a_step_sums_gradients_and_moves_nothing_else(eight_devices):
    for name, found in eight_devices.items():
        assert found["others"] == [], name
        assert found["learned"] <= found["reduced"], name
        assert found["reduced"] <= found["learned"] + 8 * found["scalar"], name


RUNS = """
    import optax, pathlib, shutil
    from mdnjax import training

    out = pathlib.Path(sys.argv[1])
    mesh = jax.make_mesh((8,), ("batch",))

    # A carry that is a running sum of each row's inputs, and a count.
    def loss(params, state, batch, key):
        carry = state["carry"] + batch["x"]
        noise = 0.1 * jax.random.normal(key, carry.shape)
        nats = jnp.sum((params["w"] * carry + noise - 1) ** 2, -1)
        return nats, batch["weight"], {"carry": carry, "count": state["count"] + 1}

    def batches(n):
        rng = np.random.default_rng(n)
        x = rng.normal(size=(13, 3)).astype(np.float32)
        return {"x": x, "weight": rng.uniform(0.5, 2, 13).astype(np.float32)}

    shapes = []

    def run(folder, mesh, stop=None, **options):
        def stopping(n):
            if n == stop:
                raise RuntimeError("stopped")
            return batches(n)

        def validate(params, state):
            shapes.append(list(np.shape(state["carry"])))
            return float(jnp.sum(params["w"] ** 2) + jnp.sum(state["carry"] ** 2))

        carry = jnp.zeros((13, 3))
        carry = carry if mesh is None else training.split_batch(carry, mesh)
        return training.fit(
            loss, {"w": jnp.ones(3)}, {"carry": carry, "count": 0.0}, stopping,
            optimizer=optax.adam(0.01), steps=6, validate=validate, validations=2, out=folder,
            progress="off", mesh=mesh, **options,
        )

    def stopped(folder, mesh):
        try:
            run(folder, mesh, stop=4)
        except RuntimeError:
            return folder

    def plain(result):
        trees = (result.params, result.state, result.last.params, result.last.state)
        return [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(trees)]

    one, eight = stopped(out / "one", None), stopped(out / "eight", mesh)
    copies = [shutil.copytree(a, out / f"{a.name} moved") for a in (one, eight)]
    arrays = training.read_config(training.find_checkpoint(eight, prefer="last"))["arrays"]
    # Without a carry, batches may differ in size: two of 16 rows, and a last one of 13.
    def independent(params, state, batch, key):
        return (batch @ params["w"] - 1) ** 2, jnp.ones(len(batch)), state
    parts = [np.random.default_rng(n).normal(size=(rows, 3)) for n, rows in enumerate((16, 16, 13))]
    parts = [part.astype(np.float32) for part in parts]
    weights = [
        training.fit(
            independent, {"w": jnp.ones(3)}, {}, parts.__getitem__, optimizer=optax.sgd(0.1),
            steps=3, progress="off", mesh=m,
        ).params["w"].tolist()
        for m in (None, mesh)
    ]
    values = [
        training.make_validation(jax.random.key(0), independent, parts, mesh=m)(
            {"w": jnp.ones(3)}, {}
        )
        for m in (None, mesh)
    ]
    print(json.dumps({
        "runs": [
            plain(run(one, None, resume=True)),
            plain(run(eight, mesh, resume=True)),
            plain(run(copies[0], mesh, resume=True)),
            plain(run(copies[1], None, resume=True)),
        ],
        "carry": arrays["state"]["state/carry"],
        "shapes": shapes,
        "weights": weights,
        "values": values,
    }))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return on_eight_devices(RUNS, tmp_path_factory.mktemp("runs"))


def test_a_run_goes_on_with_another_number_of_devices(runs):
    whole, *others = runs["runs"]
    assert len(whole) == 6
    for other in others:
        for a, b in zip(whole, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_nobody_outside_sees_the_rows_that_fill_up(runs):
    assert runs["carry"] == "float32[13, 3]"
    assert runs["shapes"] == [[13, 3]] * len(runs["shapes"])
    assert np.shape(runs["runs"][1][1]) == (13, 3)


def test_a_last_batch_may_be_smaller(runs):
    for a, b in (runs["weights"], runs["values"]):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_rows_that_fill_up_count_for_nothing_whatever_the_loss_says():
    def loss(params, state, batch, key):
        return (batch * params["w"] - 1) ** 2, jnp.full(len(batch), 3.0), state

    optimizer = optax.sgd(0.1)
    step = training.make_step(loss, optimizer)
    results = []
    for batch in (np.float32([1, 2, 3]), training.pad_batch(np.float32([1, 2, 3]), 4)):
        state = training.init_state({"w": 0.5}, {}, optimizer, budget=1)
        results.append(step(state, batch, jax.random.key(0)))
    (plain, reported), (padded, also) = results
    np.testing.assert_allclose(plain.params["w"], padded.params["w"], rtol=1e-6)
    assert float(reported.weight) == float(also.weight) == 9.0
    # Filled up once more, for more devices: still three rows.
    twice = training.pad_batch(training.pad_batch(np.float32([1, 2, 3]), 4), 5)
    np.testing.assert_array_equal(twice.real, [True, True, True, False, False])
    np.testing.assert_array_equal(twice.batch, [1, 2, 3, 3, 3])

    def summed(params, state, batch, key):
        nats, weight, state = loss(params, state, batch, key)
        return jnp.sum(nats)[None], jnp.sum(weight)[None], state

    state = training.init_state({"w": 0.5}, {}, optimizer, budget=1)
    with pytest.raises(ValueError, match=r"nats \(1,\) for a padded batch of 4 rows"):
        training.make_step(summed, optimizer)(
            state, training.pad_batch(np.float32([1, 2, 3]), 4), jax.random.key(0)
        )


def test_what_cannot_be_divided_is_named():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("batch",))
    with pytest.raises(ValueError, match=r"split_batch: batch .* got arrays of shapes \[\(\)\]"):
        training.split_batch({"x": np.float32(1.0)}, mesh)
    with pytest.raises(ValueError, match=r"pad_batch: batch .* \[\(0, 2\)\]"):
        training.pad_batch(np.zeros((0, 2)), 4)
    with pytest.raises(ValueError, match=r"pad_batch: batch .* \[\(2,\), \(3,\)\]"):
        training.pad_batch([np.zeros(2), np.zeros(3)], 4)
    two = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("a", "b"))
    with pytest.raises(ValueError, match=r"split_batch: mesh must be of one axis"):
        training.split_batch(np.zeros((2, 2)), two)
