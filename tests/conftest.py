"""Configure all tests: JAX on the CPU, strict broadcasting, repeatable property tests."""

import contextlib
import os

import hypothesis
import jax
import pytest

from tests.fakes import gcs_stand_in

# TensorFlow reads this at its import, and JAX reads its platform at the first use of a device. Both
# happen after this file.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
# epath reads this once. TensorFlow does not support a stand-in for buckets.
os.environ.setdefault('EPATH_USE_TF', 'false')
if 'JAX_PLATFORMS' not in os.environ:
    jax.config.update('jax_platforms', 'cpu')
# Make [T] + [R, T] an error: arrays of different ranks must name their axes.
jax.config.update('jax_numpy_rank_promotion', 'raise')

# The first example includes imports and compilation, so there is no deadline. Every run uses the
# same examples.
hypothesis.settings.register_profile('repeatable', deadline=None, derandomize=True)
hypothesis.settings.load_profile('repeatable')


@pytest.fixture(scope='session')
def storage():
    """Serve buckets for the whole session, since their clients remember the address."""
    with gcs_stand_in.served() as bucket:
        yield bucket


@pytest.fixture
def shelf(storage):
    """Return the contents of the bucket `gs://shelf`, which is empty."""
    storage.clear()
    yield storage
    storage.clear()


@pytest.fixture
def little_room():
    """Return a context manager that limits the bytes of a file, like a full disk."""
    import resource  # not on every system

    @contextlib.contextmanager
    def limited(size: int):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
