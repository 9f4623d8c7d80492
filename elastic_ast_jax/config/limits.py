"""Limit the numbers of a config to what some machine can compute.

Beyond them arithmetic overflows, and sizes that follow from a config fill any memory. The config of
a stranger's workdir is checked with these limits too, before anything is built from it.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = ['LONGEST_TEXT', 'LONGEST_TUPLE', 'problems']

# The largest size that every number of JAX can hold.
_LARGEST_INTEGER = 2**31 - 1
_LARGEST_FLOAT = 1e12
LONGEST_TEXT = 4096
LONGEST_TUPLE = 4096
# The largest value of keys that sizes of arrays, loops or threads follow from. Published networks
# and recorders stay far below.
_LARGEST: Mapping[str, float] = MappingProxyType(
    {
        'frontend.sample_rate': 2**22,
        'frontend.fft': 2**17,
        'frontend.mel_bins': 2**12,
        'frontend.patch_mels': 2**12,
        'frontend.patch_frames': 2**14,
        'frontend.max_frames': 2**22,
        'augment.freq_masks': 2**10,
        'augment.time_masks': 2**10,
        'augment.ratios': 1e4,
        'packing.rows': 2**20,
        'packing.tokens': 2**20,
        'packing.slots': 2**20,
        'model.width': 2**15,
        'model.depth': 2**10,
        'model.heads': 2**10,
        'data.num_workers': 2**10,
        'data.folds': 2**10,
        'train.epochs': 2**20,
        'train.seed': 2**32 - 1,
        # No size follows from it; training that is not finite stops by itself.
        'optimizer.learning_rate': 1e30,
    }
)
# Samples of an analysis window.
_LARGEST_WINDOW = 2**17
# Numbers of the table of mel filters: Fourier bins times mel bins.
_LARGEST_FILTERS = 2**22
# Numbers of the patches of a row: tokens times values of a patch.
_LARGEST_ROW = 2**31


def problems(values: Mapping[str, Any]) -> list[str]:
    """Return one sentence for each value that no machine can compute with.

    Args:
        values: Every value of a config by its dotted key, each of its own type.
    """
    texts = [text for key, value in values.items() for text in _value_problems(key, value)]
    return texts or _product_problems(values)


def _value_problems(key: str, value: Any) -> list[str]:
    if isinstance(value, str):
        if len(value) > LONGEST_TEXT:
            return [f'{key} has {len(value)} characters: it must have at most {LONGEST_TEXT}']
        return [] if _is_text(value) else [f'{key}={value!r} must be text without zero bytes']
    if isinstance(value, tuple):
        if len(value) > LONGEST_TUPLE:
            return [f'{key} has {len(value)} values: it must have at most {LONGEST_TUPLE}']
        return [text for item in value for text in _value_problems(key, item)][:1]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return []
    largest = _LARGEST.get(key, _LARGEST_FLOAT if isinstance(value, float) else _LARGEST_INTEGER)
    if -largest <= value <= largest:
        return []
    return [f'{key}={value:.6g} must be at most {largest:.10g}']


def _is_text(value: str) -> bool:
    """Return whether a text can be a path: bytes that are no UTF-8 are surrogates in Python."""
    try:
        value.encode('utf-8', 'surrogateescape')
    except UnicodeEncodeError:
        return False
    return '\0' not in value


def _product_problems(values: Mapping[str, Any]) -> list[str]:
    """Return the problems of sizes that are products of several values."""
    sample_rate, bins = values['frontend.sample_rate'], values['frontend.mel_bins']
    window = abs(sample_rate * values['frontend.window_ms'] / 1000)
    if window > _LARGEST_WINDOW:
        return [
            f'frontend.window_ms={values["frontend.window_ms"]:.6g} at'
            f' frontend.sample_rate={sample_rate} is a window of {window:.6g} samples: it must have'
            f' at most {_LARGEST_WINDOW}'
        ]
    bins_of_fft = max(values['frontend.fft'], int(window)) / 2
    texts = []
    if bins_of_fft * bins > _LARGEST_FILTERS:
        texts.append(
            f'frontend.mel_bins={bins} filters of {bins_of_fft:.0f} Fourier bins are too many: the'
            f' product must be at most {_LARGEST_FILTERS}; lower frontend.mel_bins,'
            ' frontend.window_ms or frontend.fft'
        )
    patch = values['frontend.patch_mels'] * values['frontend.patch_frames']
    if values['packing.tokens'] * patch > _LARGEST_ROW:
        texts.append(
            f'packing.tokens={values["packing.tokens"]} of {patch} values each make a row of more'
            f' than {_LARGEST_ROW} values: lower packing.tokens'
        )
    return texts
