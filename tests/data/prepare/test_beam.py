"""Options of Apache Beam, and one process at a time."""

import importlib.util

import pytest

from elastic_ast_jax.data.prepare import beam
from elastic_ast_jax.data.sources.base import DataError

pytest.importorskip('apache_beam', reason='data sets are prepared by Apache Beam')


@pytest.mark.parametrize(
    'options, words',
    [
        (['runner=SlowRunner'], 'does not take these options .*SlowRunner.*: correct --beam'),
        (['runner=no.such.Runner'], "does not take these options .*No module named 'no'"),
        (['runner=apache_beam.SlowRunner'], "does not take these options .*'SlowRunner'"),
        (
            ['direct_num_workers=abc'],
            (
                "does not take these options .*direct_num_workers: invalid int value: 'abc'.:"
                ' correct --beam'
            ),
        ),
        (['direct_running_mode=threads'], "invalid choice: 'threads' .*multi_processing"),
        (['direct_num_workers'], 'direct_num_workers: expected one argument'),
        (
            ['direct_num_worker=2'],
            (
                "no option 'direct_num_worker'; the nearest is 'direct_num_workers': correct"
                ' --beam=direct'
            ),
        ),
        (
            ['direct-num-workers=2'],
            "no option 'direct-num-workers'; the nearest is 'direct_num_workers'",
        ),
        (['runner=DataflowRunner', 'projct=mine'], "no option 'projct'; the nearest is 'project'"),
        (['runner=DirectRunner', 'zzzzzz'], "no option 'zzzzzz': correct --beam=zzzzzz"),
        (
            ['--direct_num_workers=2'],
            "no option '--direct_num_workers'; the nearest is 'direct_num_workers'",
        ),
        ([''], "no option '': correct"),
        (['help'], 'does not take these options .they ask for help'),
    ],
)
def test_options_that_beam_does_not_take_are_said(options, words, capfd):
    with pytest.raises(DataError, match=words):
        beam.make_pipeline(options)
    assert capfd.readouterr() == ('', '')


def test_options_that_beam_takes_reach_the_pipeline():
    from apache_beam.options.pipeline_options import DirectOptions, FlinkRunnerOptions

    assert (
        beam.make_pipeline(['direct_num_workers=3'])
        .options.view_as(DirectOptions)
        .direct_num_workers
        == 3
    )
    assert type(beam.make_pipeline().runner).__name__ == 'FnApiRunner'
    # What a job service knows, this side cannot.
    flink = beam.make_pipeline(
        ['runner=FlinkRunner', 'parallelism=4', 'checkpointing_interval=60000']
    )
    assert flink.options.view_as(FlinkRunnerOptions).parallelism == 4


@pytest.mark.skipif(
    importlib.util.find_spec('apitools') is not None, reason='what Dataflow takes is installed'
)
def test_dataflow_without_its_client_is_said_before_anything_is_read():
    with pytest.raises(
        DataError, match=r'DataflowRunner needs .* not installed \(.*launch/install.sh dataflow'
    ):
        beam.make_pipeline(
            [
                'runner=DataflowRunner',
                'project=p',
                'region=europe-west4',
                'temp_location=gs://bucket/folder',
            ]
        )


def test_a_folder_is_locked_once(tmp_path):
    folder = tmp_path / 'new'
    with (
        beam.locked(folder),
        pytest.raises(DataError, match='new: another process is preparing this data set'),
        beam.locked(folder),
    ):
        raise AssertionError('it is locked')
    with beam.locked(folder):
        pass
