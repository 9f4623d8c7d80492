"""Test that every mutation can be applied to the code as it is."""

import pathlib
import re

import pytest

from tests.mutations import run
from tests.mutations.mutations import MUTATIONS

README = pathlib.Path(__file__).with_name('README.md').read_text(encoding='utf-8')
AREAS = ('packing', 'attention', 'pipeline', 'resume', 'sharding', 'converters')


def test_every_mutation_can_be_applied_and_names_tests_that_exist():
    assert run.find_problems(run.ROOT) == []


def test_each_area_has_ten_mutations():
    assert [mutation.area for mutation in MUTATIONS] == [area for area in AREAS for _ in range(10)]


@pytest.mark.parametrize('text', ['', '{0}\n{0}\n'], ids=['missing', 'twice'])
def test_a_statement_that_does_not_occur_once_is_reported(text: str, tmp_path: pathlib.Path):
    module = tmp_path / MUTATIONS[0].module
    module.parent.mkdir(parents=True)
    module.write_text(text.format(MUTATIONS[0].old))
    with pytest.raises(run.MutationError, match=r'^packing-01: .* times, and must contain it once'):
        run.mutate(MUTATIONS[0], tmp_path)


def test_the_tables_have_every_mutation_in_order():
    rows = re.findall(r'^\| (\w+-\d\d) \| (.+?) \|', README, re.MULTILINE)
    assert rows == [(mutation.id, mutation.fault) for mutation in MUTATIONS]


def test_the_tables_name_tests_that_exist():
    rows = [line.split(' | ') for line in README.splitlines() if line.startswith('| ')]
    current = [' '.join(cells[3:] if len(cells) == 4 else cells[1:]) for cells in rows]
    names = [name for text in current for name in re.findall(r'`([^`:]+\.py)::(\w+)', text)]
    assert len(names) > len(MUTATIONS)
    missing = []
    for file, test in names:
        path = run.ROOT / 'tests' / file
        if not path.is_file() or f'def {test}(' not in path.read_text(encoding='utf-8'):
            missing.append(f'{file}::{test}')
    assert missing == [], 'write the current names to tests/mutations/README.md'
