"""Measure how fast one processor core turns WAV files into batches.

The promise is 2,500 seconds of audio per second.
"""

import json
import os
import subprocess
import sys

import pytest

CLIPS, SECONDS, RATE, REPEATS = 480, 10, 16000, 5

_MEASURE = """
import json, os, sys, time
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before TensorFlow counts the processors
import numpy as np, soundfile
from elastic_ast_jax.packing.batch import BatchShape
from elastic_ast_jax.data import pipeline
from elastic_ast_jax.config.schema import Augment
from elastic_ast_jax.data.sampling import SamplingSpec
from elastic_ast_jax.data.epoch_plan import Planner, Schedule
from elastic_ast_jax.data.sources.base import FileClip, FileSource
from elastic_ast_jax.audio.frontend import FrontendSpec

folder, clips, seconds, rate, repeats = sys.argv[1], *map(int, sys.argv[2:])
noise = np.random.default_rng(0).standard_normal((clips // 8, seconds * rate)) * 0.1
for i in range(clips):
    soundfile.write(f'{folder}/{i}.wav', np.roll(noise[i % len(noise)], i), rate, subtype='PCM_16')
names = [f'{i}.wav' for i in range(clips)]
files = [FileClip(f'{folder}/{name}', name, None, None, ('a',), '') for name in names]
source = FileSource(files, rate, None)
spec = SamplingSpec(Augment.only(freq_mask=48, time_mask=0.1875), shuffle=True)
planner = Planner(source.keys, source.samples, FrontendSpec(sample_rate=rate), spec, 0, 2016, 8)
schedule = Schedule((len(planner.epoch(0).rows),), 4)
shape = BatchShape(4, 2016, 8, 256, 1)
reader = pipeline.RowReader(source, [(0,)] * clips, planner, schedule, shape)
speeds = []
for _ in range(repeats + 1):  # the first warms up
    start = time.perf_counter()
    batches = pipeline.iterate_batches(reader, 0, schedule.steps, num_workers=1)
    count = sum(int(batch.valid.sum()) for batch in batches)
    assert count == clips
    speeds.append(clips * seconds / (time.perf_counter() - start))
print(json.dumps(speeds[1:]))
"""


@pytest.mark.slow
@pytest.mark.alone
def test_one_core_makes_2500_seconds_of_audio_a_second(tmp_path):
    """Read 16 kHz WAV clips of 10 s, with SpecAugment, into packed batches.

    The process is bound to one core before TensorFlow starts.
    """
    arguments = [str(tmp_path), *map(str, (CLIPS, SECONDS, RATE, REPEATS))]
    result = subprocess.run(
        [sys.executable, '-c', _MEASURE, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
        timeout=300,
    )
    speeds = sorted(json.loads(result.stdout.splitlines()[-1]))
    print(
        f'seconds of audio per second on one core: median {speeds[REPEATS // 2]:.0f},'
        f' {speeds[0]:.0f} to {speeds[-1]:.0f}'
    )
    assert speeds[REPEATS // 2] >= 2500
