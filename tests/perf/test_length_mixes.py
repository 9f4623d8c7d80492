"""Test mixes of lengths, and batches of them."""

import numpy as np
import pytest

from elastic_ast_jax.models import flops
from elastic_ast_jax.packing import batch
from elastic_ast_jax.perf import length_mixes

NAMES = ('audioset', 'voxceleb', 'epic')


def shape(rows=2, tokens=2048, **more):
    return batch.BatchShape(rows=rows, tokens=tokens, slots=32, patch_size=256, classes=7, **more)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('dropout, multi_label', [(0.0, False), (0.1, True)])
def test_a_batch_keeps_the_contract_of_the_pipeline(name, dropout, multi_label):
    mix, batch_shape = length_mixes.load_mix(name), shape(multi_label=multi_label)
    noise = length_mixes.noise_batch(mix, batch_shape, 3, dropout)
    batch.validate(noise, batch_shape, (mix.frontend.mel_patches, mix.frontend.max_time_patches))
    assert (noise.segment_ids > 0).mean() > 0.98


def test_a_batch_is_a_function_of_the_seed():
    first, same, different = (
        length_mixes.noise_batch(length_mixes.load_mix('voxceleb'), shape(), seed, 0.1)
        for seed in (1, 1, 2)
    )
    assert all(np.array_equal(x, y) for x, y in zip(first, same, strict=True))
    assert not np.array_equal(first.segment_ids, different.segment_ids)


def test_the_audioset_mix_has_the_tokens_of_the_papers_frame_shifts():
    patches = length_mixes.load_mix('audioset').time_patches(20_000, 0)
    assert set(patches.tolist()) == {int(1024 / (1 + i / 5) + 1e-6) // 16 for i in range(16)}
    assert patches.min() == 16 and patches.max() == 64


@pytest.mark.parametrize(
    'name, seconds, mean', [('voxceleb', 100, (7.5, 8.5)), ('epic', 200, (2.5, 4.5))]
)
def test_wide_mixes_keep_to_their_range(name, seconds, mean):
    mix = length_mixes.load_mix(name)
    frames = np.minimum(mix.frames(np.random.default_rng(0), 20_000), mix.frontend.max_frames)
    assert mean[0] < frames.mean() / seconds < mean[1]
    assert not mix.frontend.problems() and not mix.frontend.too_long(frames).any()
    assert frames.max() == 3072


def test_a_file_is_a_mix_of_the_lengths_in_it(tmp_path):
    file = tmp_path / 'seconds.txt'
    file.write_text('1.6\n\n3.2\n')
    noise = length_mixes.noise_batch(length_mixes.load_mix(str(file)), shape(), 0, 0.0)
    assert set(flops.tokens_per_clip(noise.segment_ids).tolist()) == {80, 160}


@pytest.mark.parametrize(
    'text, message',
    [('1\nlong\n', "line 2: 'long'"), ('-1\n', 'line 1'), ('\n', 'holds no lengths')],
)
def test_files_that_hold_no_lengths_are_refused(tmp_path, text, message):
    file = tmp_path / 'seconds.txt'
    file.write_text(text)
    with pytest.raises(length_mixes.MixError, match=message):
        length_mixes.load_mix(str(file))


def test_unknown_mixes_and_short_rows_are_refused():
    with pytest.raises(length_mixes.MixError, match='audioset, voxceleb and epic'):
        length_mixes.load_mix('audiosets')
    with pytest.raises(length_mixes.MixError, match='512'):
        length_mixes.noise_batch(length_mixes.load_mix('audioset'), shape(tokens=256), 0, 0.0)


RECIPE = """
from ml_collections import ConfigDict


def get_config():
    return ConfigDict({'data': {'source': 'synthetic'}, 'frontend': {'max_frames': 320}})
"""
LENGTHS = """

def lengths():
    bins = [(1.6, 1.6, 3), (3.2, 9.6, 1)]
    return {'classes': 2, 'train': bins, 'eval': bins}
"""


def test_a_recipe_is_a_mix_of_its_lengths(tmp_path):
    file = tmp_path / 'recipe.py'
    file.write_text(RECIPE + LENGTHS)
    patches = length_mixes.load_mix(str(file)).time_patches(4000, 0)
    assert set(patches.tolist()) == {10, 20}
    assert (patches == 10).mean() == pytest.approx(0.75, abs=0.03)


def test_a_recipe_without_lengths_is_refused(tmp_path):
    file = tmp_path / 'recipe.py'
    file.write_text(RECIPE)
    with pytest.raises(length_mixes.MixError, match=r'no function lengths\(\)'):
        length_mixes.load_mix(str(file))
