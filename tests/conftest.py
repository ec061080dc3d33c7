"""Eight simulated CPU devices, strict arithmetic for compute/ and runtime/, and the real data where they are."""

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import jax
import numpy as np
import pytest

DATA = Path(os.environ.get("JAXALIGN_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture
def strict():
    """Mixed dtypes and silent broadcasting are errors, as tests of compute/ and runtime/ ask."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def optimised():
    """Programs as users run them, for tests of the last digits of float32; `make test` compiles the others for speed."""
    before = os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "0") == "1"
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs_go_with_their_module():
    """Each program of XLA maps pages of memory; a process that keeps thousands of them dies while compiling the next."""
    yield
    jax.clear_caches()


@pytest.fixture
def rng():
    return np.random.default_rng(20261120)


@pytest.fixture(scope="session")
def data_folder():
    """Folder of real recordings; tests that need it are skipped, with this word, where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"real data absent: {DATA} (set JAXALIGN_TEST_DATA)")
    return DATA


@pytest.fixture
def devices():
    """All simulated devices."""
    found = jax.devices()
    assert len(found) == 8
    return found
