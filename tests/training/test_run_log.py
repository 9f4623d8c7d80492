"""Lines of a run on the terminal."""

import numpy as np
import pytest

from elastic_ast_jax.data.epoch_plan import Schedule
from elastic_ast_jax.training.metrics import compute_metrics
from elastic_ast_jax.training.run_log import RunLog
from elastic_ast_jax.utils.progress import Progress


@pytest.mark.parametrize(
    'targets, line',
    [
        ([(0,), (1,)], 'epoch 1: accuracy 100.00 %, mAP 1.0000 on 2 clips'),
        ([(), ()], 'epoch 1: accuracy 0.00 %, mAP – on 2 clips'),
    ],
)
def test_an_undefined_metric_is_a_dash_as_in_tables(targets, line, capsys):
    log = RunLog((), Progress(), Schedule((4,), 2), moving_average=False)
    log.log_evaluation(2, compute_metrics(np.eye(2, dtype=np.float32), targets, ('a', 'b')))
    output = capsys.readouterr()
    assert (output.out + output.err).strip() == line
