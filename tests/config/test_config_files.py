"""Config files as people write them: NumPy numbers, and mistakes that come with file and line."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from elastic_ast_jax.config.loading import ConfigError, from_dict, load, python_value

HEAD = 'import numpy as np\nfrom ml_collections import ConfigDict, config_dict\n\n\n'
RUNS = "config = ConfigDict()\n    config.data = dict(source='synthetic')\n    "


@pytest.fixture
def write(tmp_path):
    """Write a config file: a body for its `get_config`, or the text of the whole file."""

    def write_file(body: str = '', text: str = '') -> str:
        path = tmp_path / 'mine.py'
        path.write_text(text or f'{HEAD}def get_config():\n    {RUNS}{body}\n    return config\n')
        return str(path)

    return write_file


def problem(spec: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(spec, overrides)
    (text,) = caught.value.problems
    return text


def test_numpy_numbers_are_numbers(write):
    config = load(
        write(
            'config.train = dict(seed=np.arange(4)[3], epochs=np.int32(2))\n'
            '    config.optimizer = dict('
            'learning_rate=np.logspace(-4, -3, 3)[1], b1=np.float32(0.5))\n'
            '    config.augment = dict(ratios=np.array([1, 2]), token_dropout=np.array(0.25))\n'
            '    config.model = dict(scan=np.bool_(True), stride=(np.int64(16), 16))'
        )
    )
    values = config.flat()
    expected = {
        'train.seed': 3,
        'train.epochs': 2,
        'optimizer.learning_rate': float(np.logspace(-4, -3, 3)[1]),
        'optimizer.b1': 0.5,
        'augment.ratios': (1.0, 2.0),
        'augment.token_dropout': 0.25,
        'model.scan': True,
        'model.stride': (16, 16),
    }
    for key, value in expected.items():
        assert values[key] == value and type(values[key]) is type(value), key
    assert {type(ratio) for ratio in config.augment.ratios} == {float}


def test_a_path_is_text(tmp_path):
    data = {'train': tmp_path / 'a.csv', 'eval': tmp_path / 'b.csv'}
    assert from_dict({'data': data}).data.eval == str(tmp_path / 'b.csv')


def test_values_within_values_are_those_of_python():
    value = {'a': [np.int64(3), (np.float64(0.5), 'x')], 'b': jnp.float32(2.0), 'c': Path('d')}
    result = python_value(value)
    assert result == {'a': [3, (0.5, 'x')], 'b': 2.0, 'c': 'd'}
    assert type(result['a'][0]) is int and type(result['a'][1][0]) is float


@pytest.mark.parametrize(
    'text, line, reason',
    [
        ('def get_config():\n    return undefined_name\n', 2, "NameError: name 'undefined_name'"),
        ("def get_config():\n    values = {}\n    return values['x']\n", 3, "KeyError: 'x'"),
        ('def get_config():\n    return 1 + "1"\n', 2, 'TypeError: unsupported operand'),
        ('def get_config():\n    assert False\n', 2, 'AssertionError'),
        ('def get_config():\n    raise SystemExit("bye")\n', 2, 'SystemExit: bye'),
        ('def get_config():\n    return int("x")\n', 2, 'refuses: invalid literal for int()'),
        ('def get_config():\n    return get_config()\n', 2, 'RecursionError'),
        ('import nowhere_at_all\n', 1, 'ModuleNotFoundError'),
        ('\n1 / 0\n', 2, 'ZeroDivisionError: division by zero'),
        ('\nopen("/nowhere/at/all")\n', 2, 'FileNotFoundError'),
        ('def get_config(:\n', 1, 'SyntaxError'),
        ('import sys\nsys.exit(3)\n', 2, 'SystemExit: 3'),
    ],
)
def test_a_mistake_is_named_with_file_and_line(write, text, line, reason):
    spec = write(text=text)
    message = problem(spec)
    assert f'{spec} line {line} ' in message and reason in message


def test_a_mistake_in_a_helper_has_the_line_that_calls_it(write, tmp_path, monkeypatch):
    (tmp_path / 'my_helper_of_configs.py').write_text('def rate():\n    return {}["rate"]\n')
    monkeypatch.syspath_prepend(tmp_path)
    text = 'import my_helper_of_configs as m\ndef get_config():\n    return m.rate()\n'
    assert ' line 3 fails: KeyError' in problem(write(text=text))


def test_a_wrong_section_is_named_with_its_line(write):
    spec = write('config.train.epochs = 3')
    assert f'{spec} line 8 fails: AttributeError' in problem(spec)


def test_a_file_that_cannot_be_read_is_named(write):
    spec = write(text='x')
    Path(spec).write_bytes(b'x = "\xff"\n')
    assert spec in problem(spec) and 'SyntaxError' in problem(spec)


def test_a_get_config_that_is_no_function_or_wants_an_argument(write):
    assert 'has no function get_config()' in problem(write(text='get_config = 3\n'))
    message = problem(write(text='def get_config(size):\n    return size\n'))
    assert 'get_config(size) of' in message and 'mine.py:SIZE' in message


def test_a_required_placeholder_is_named_or_given_on_the_command_line(write):
    spec = write('config.train = dict(epochs=config_dict.required_placeholder(int))')
    message = problem(spec)
    assert f'{spec} line 8: train.epochs is a required placeholder' in message
    assert '--config.train.epochs=VALUE' in message
    assert load(spec, ['train.epochs=3']).train.epochs == 3


def test_a_reference_is_computed_and_one_that_cannot_be_is_refused(write):
    spec = write(
        'epochs = config_dict.FieldReference(2)\n    config.train = dict(epochs=epochs * 3)'
    )
    assert load(spec).train.epochs == 6
    spec = write(
        'rows = config_dict.FieldReference(3)\n    config.packing = dict(rows=6 / (rows - 2))\n'
        '    rows.set(2)'
    )
    assert 'cannot be computed (ZeroDivisionError' in problem(spec)


def test_a_key_that_is_no_text_is_unknown(write):
    spec = write(text=f"{HEAD}def get_config():\n    return ConfigDict({{1: {{'a': 2}}}})\n")
    with pytest.raises(ConfigError, match=r'unknown key 1\.a: the nearest valid one'):
        load(spec)


def test_a_section_may_be_empty(write):
    assert load(write('config.train = dict()')) == load(write())


def test_a_single_override_as_text_is_one_override(write):
    assert load(write(), 'train.epochs=3').train.epochs == 3
