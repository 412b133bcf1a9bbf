"""Rank promotion and warnings are errors in every test; real data is found, or its test skipped."""

import os
import pathlib
import signal
import sys

import jax
import jaxtyping
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
# Most programs run once or twice, and a sixth of the suite's time is gone where XLA makes plain
# machine code of them. `.ci/run` asks for what a user has; so can whoever looks for such a fault.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder of real data (`MDNJAX_DATA`, by default `../shared/data` beside the checkout)."""
    default = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = pathlib.Path(os.environ.get("MDNJAX_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set MDNJAX_DATA")
    return folder


@pytest.fixture(scope="session", autouse=True)
def processes_share(tmp_path_factory):
    """What the processes of tests compile, Python and XLA, only the first of them compiles.

    And quickly: what they say of files, signals and devices does not hang on the machine code.
    This process has its JAX and XLA by then, and compiles all: torn files would warn here, and fail
    a test.
    """
    jax.devices()  # from here on, no flag changes this process
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    shared = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_backend_optimization_level=0",
        "TF_CPP_MIN_LOG_LEVEL": "3",  # XLA logs an error for every program that it reads
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in shared.items():
            patch.setenv(name, value)
        if sys.dont_write_bytecode:  # beside the sources, that is
            patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
            patch.setenv("PYTHONPYCACHEPREFIX", str(folder / "bytecode"))
        yield


@pytest.fixture(scope="session")
def whole(tmp_path_factory, processes_share) -> pathlib.Path:
    """The folder of a small training run that nothing ended, to compare with; read only."""
    from made_run import end, start  # with Optax and Orbax, which few tests need

    folder = tmp_path_factory.mktemp("whole")
    code, _, err = end(start(folder))
    assert code == 0, err
    return folder


@pytest.fixture
def default_signals():
    """Signals do what they do by default, even where the tests were started to ignore some."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def x64():
    """float64 for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def without_jaxtyping():
    """The house's own errors: without the tests' hook, which would speak first."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
