"""What all tests share:

JAX on the CPU, strict broadcasting, quiet TensorFlow, repeatable property tests.
"""

import contextlib
import os

import hypothesis
import jax
import pytest

from tests.fakes import gcs_stand_in

# Read when TensorFlow is loaded and when JAX first looks for devices; both are later than this
# file.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
os.environ.setdefault(
    'EPATH_USE_TF', 'false'
)  # read once; TensorFlow cannot be told of another place for buckets
if 'JAX_PLATFORMS' not in os.environ:
    jax.config.update('jax_platforms', 'cpu')
# [T] + [R, T] is an error: arrays of different ranks must say which axes they mean.
jax.config.update('jax_numpy_rank_promotion', 'raise')

# The first example pays for imports and compilation, so no deadline; the same examples on every
# run, so no surprises.
hypothesis.settings.register_profile('repeatable', deadline=None, derandomize=True)
hypothesis.settings.load_profile('repeatable')


@pytest.fixture(scope='session')
def storage():
    """Buckets for the whole session, as their clients remember where they are."""
    with gcs_stand_in.served() as made:
        yield made


@pytest.fixture
def shelf(storage):
    """What the bucket `gs://shelf` holds, which is nothing yet."""
    storage.clear()
    yield storage
    storage.clear()


@pytest.fixture
def little_room():
    """`with little_room(1000):` files may not grow beyond so many bytes:

    what a full disk does, at the same place.
    """
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
