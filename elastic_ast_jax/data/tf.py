"""Import TensorFlow without accelerators, which belong to JAX, and without its start-up messages.

TensorFlow writes those messages to the file descriptor of stderr while it is imported, before any
setting applies. Other output is passed on.
"""

import os
import sys
import tempfile
from typing import TYPE_CHECKING, Any, TypeAlias

_MESSAGES = (b'oneDNN custom operations are on', b'before absl::InitializeLog()')


def _import():
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as output:
        os.dup2(output.fileno(), 2)
        try:
            import tensorflow
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            output.seek(0)
            lines = [line for line in output if not any(text in line for text in _MESSAGES)]
            os.write(2, b''.join(lines))
    tensorflow.config.set_visible_devices([], 'GPU')
    return tensorflow


tf = _import()
if TYPE_CHECKING:
    Tensor: TypeAlias = Any  # TensorFlow has no complete types
else:
    Tensor = tf.Tensor
