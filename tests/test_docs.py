"""The README, the generated pages and the notebook."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')


def test_readme_is_short():
    assert len(README.split()) <= 900


def test_links_of_the_readme_lead_to_files():
    links = [link for link in re.findall(r'\]\(([^)#]+)', README) if '://' not in link]
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_every_python_block_of_the_readme_compiles():
    blocks = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, 'README.md', 'exec')


def test_generated_pages_are_current():
    """`python docs/generate.py` writes them."""
    command = [sys.executable, str(ROOT / 'docs' / 'generate.py'), '--check']
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_documented_option_is_run_or_has_a_reason():
    """`docs/run_commands.py` runs the commands; this finds one that is new."""
    command = [sys.executable, str(ROOT / 'docs' / 'run_commands.py'), '--list']
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    shown = result.stdout
    assert 'elastic-ast parity runs/quickstart runs/quickstart/clips' in shown
    assert '[not run: a TPU]' in shown and 'model.timeline(clips, window=1.0)' in shown


def test_the_notebook_has_no_outputs():
    notebook = json.loads((ROOT / 'docs' / 'notebooks' / 'predict.ipynb').read_text('utf-8'))
    code = [cell for cell in notebook['cells'] if cell['cell_type'] == 'code']
    assert code
    assert not any(cell['outputs'] or cell['execution_count'] for cell in code)
