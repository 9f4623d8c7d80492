"""Configure all tests: JAX on the CPU, strict broadcasting, repeatable property tests."""

import contextlib
import os
import pathlib
import shutil

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
# Compilation takes longer than what is compiled: skip the optimizations of LLVM.
os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0')
# All tests and their processes share compiled programs, and so does the next run. Most of the time
# of a first run is compilation. A process reads the environment, this one has imported JAX already.
COMPILED = pathlib.Path(__file__).parents[1] / '.pytest_cache' / 'xla'
for key, value in {
    'jax_compilation_cache_dir': str(COMPILED),
    'jax_persistent_cache_min_compile_time_secs': 0.0,
    'jax_persistent_cache_min_entry_size_bytes': -1,
}.items():
    os.environ[key.upper()] = str(value)
    jax.config.update(key, value)
# Make [T] + [R, T] an error: arrays of different ranks must name their axes.
jax.config.update('jax_numpy_rank_promotion', 'raise')

# The first example includes imports and compilation, so there is no deadline. Every run uses the
# same examples.
hypothesis.settings.register_profile('repeatable', deadline=None, derandomize=True)
hypothesis.settings.load_profile('repeatable')


def pytest_sessionstart(session):
    """Remove compiled programs once they fill a gigabyte: most belong to code of the past."""
    is_worker = hasattr(session.config, 'workerinput')
    if not is_worker and COMPILED.exists():
        size = sum(file.stat().st_size for file in COMPILED.iterdir())
        if size > 1e9:
            shutil.rmtree(COMPILED)


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
