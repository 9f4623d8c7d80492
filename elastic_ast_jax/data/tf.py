"""TensorFlow, as this project uses it: on the processor only, and without its notes at start-up.

Accelerators are JAX's. The notes are written to the file descriptor while TensorFlow is imported,
before any of its settings hold; whatever else is written there is passed on.
"""

import os
import sys
import tempfile

_NOTES = (b'oneDNN custom operations are on', b'before absl::InitializeLog()')


def _import():
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            import tensorflow
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            written.seek(0)
            others = [line for line in written if not any(note in line for note in _NOTES)]
            os.write(2, b''.join(others))
    tensorflow.config.set_visible_devices([], 'GPU')
    return tensorflow


tf = _import()
