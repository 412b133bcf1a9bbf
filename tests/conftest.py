"""Rank promotion and warnings are errors in every test; real data is found, or its test skipped."""

import os
import pathlib

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder of real data (`MDNJAX_DATA`, by default `../shared/data` beside the checkout)."""
    default = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = pathlib.Path(os.environ.get("MDNJAX_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set MDNJAX_DATA")
    return folder


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> pathlib.Path:
    """The folder of a small training run that nothing ended, to compare with; read only."""
    from made_run import end, start  # with Optax and Orbax, which few tests need

    folder = tmp_path_factory.mktemp("whole")
    code, _, err = end(start(folder))
    assert code == 0, err
    return folder


@pytest.fixture
def x64():
    """float64 for one test."""
    with jax.enable_x64(True):
        yield
