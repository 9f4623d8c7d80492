"""Each command on a stranger's workdir ends within 30 s and 2 GiB, in a process of its own."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

MIB = 1 << 20
SECONDS = 30  # of the processor: other tests may run at the same time


def sizes(**sections):
    """Return a function that writes these values into the stored config."""

    def change(workdir):
        file = workdir / 'config.json'
        values = json.loads(file.read_text('utf-8'))
        for name, entries in sections.items():
            values[name] |= entries
        file.write_text(json.dumps(values), encoding='utf-8')

    return change


def replaced(name, make):
    """Return a function that puts something else in place of a file."""

    def change(workdir):
        (workdir / name).unlink(missing_ok=True)
        make(workdir / name)

    return change


def sparse(path):
    with open(path, 'wb') as file:
        file.truncate(2**42)


CHANGES = {
    'width': sizes(model={'width': 2**63}),
    'tokens': sizes(packing={'tokens': 2**31}),
    'slots': sizes(packing={'slots': 2**20, 'tokens': 2**20}),
    'large': sizes(packing={'tokens': 2**14, 'slots': 2**10, 'rows': 2**10}),
    'network': sizes(model={'width': 8192, 'heads': 64, 'depth': 512}),
    'mels': sizes(frontend={'mel_bins': 2**12, 'window_ms': 4000.0, 'max_frames': 2**20}),
    'pipe': replaced('config.json', os.mkfifo),
    'zero': replaced('model.json', lambda path: path.symlink_to('/dev/zero')),
    'metrics': replaced('metrics.jsonl', sparse),
    'nested': replaced('config.json', lambda path: path.write_text('[' * 10**6, 'utf-8')),
}


def commands(workdir, recordings, scratch):
    recording = recordings.test_files[0]
    return {
        'predict': ['predict', workdir, recording],
        'digits': ['predict', workdir, recording, f'--checkpoint={"9" * 5000}'],
        'embed': ['embed', workdir, recording, f'--out={scratch / "out.npz"}'],
        'evaluate': ['evaluate', f'--workdir={workdir}'],
        'parity': ['parity', workdir, recording],
        'compare': ['compare', workdir],
        'convert': ['convert', 'to_elasticast_torch', workdir, scratch / 'out.safetensors'],
        'resume': ['train', f'--config={recordings.config}', f'--workdir={workdir}'],
        'init': [
            'train',
            f'--config={recordings.config}',
            f'--workdir={scratch / "new"}',
            f'--config.init.from={workdir}',
            '--config.train.epochs=1',
        ],
    }


@pytest.mark.slow
@pytest.mark.parametrize('change', CHANGES)
def test_commands_end_soon_and_in_little_memory(change, workdir, recordings, environment, tmp_path):
    CHANGES[change](workdir)
    for name, words in commands(workdir, recordings, tmp_path).items():
        begin = time.monotonic()
        with open(tmp_path / 'err', 'w+', encoding='utf-8') as errors:
            process = subprocess.Popen(
                [sys.executable, '-m', 'elastic_ast_jax', *map(str, words)],
                cwd=recordings.folder,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            errors.seek(0)
            message = errors.read()
        assert process.returncode in (0, 1, 2), (name, message[-2000:])
        assert 'Traceback' not in message, (name, message[-2000:])
        assert usage.ru_utime + usage.ru_stime < SECONDS, name
        assert time.monotonic() - begin < 10 * SECONDS, name
        assert usage.ru_maxrss / 1024 < 2048, (name, usage.ru_maxrss / 1024)
        print(change, name, process.returncode, usage.ru_maxrss // 1024, message.splitlines()[-1:])
        shutil.rmtree(tmp_path / 'new', ignore_errors=True)
