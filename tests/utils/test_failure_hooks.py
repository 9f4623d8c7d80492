"""Test functions that run after a command has failed."""

from elastic_ast_jax.cli.main import main
from elastic_ast_jax.utils.failure_hooks import on_failure


def test_hooks_run_once_with_the_code_of_the_command(tmp_path, capsys):
    codes = []
    on_failure(codes.append)
    assert main(['plan', f'--config={tmp_path}/none.py']) == 1
    assert codes == [1]
    main(['plan', f'--config={tmp_path}/none.py'])
    assert codes == [1]


def test_hooks_are_dropped_after_success(tmp_path, capsys):
    codes = []
    on_failure(codes.append)
    arguments = ['synthesize', f'{tmp_path}/clips', '--config=configs/quickstart.py', '--clips=1']
    assert main(arguments) == 0
    main(['plan', f'--config={tmp_path}/none.py'])
    assert not codes
