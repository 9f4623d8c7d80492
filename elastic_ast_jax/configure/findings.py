"""Describe what is wrong with surveyed data, or too little of them."""

import math
from collections.abc import Iterator

import numpy as np

from elastic_ast_jax.configure.survey import Survey
from elastic_ast_jax.utils.text import join_first, pluralize

__all__ = ['loudness', 'warnings']

_FEW_CLIPS, _FEW_CLIPS_OF_CLASS = 50, 5
# Seconds of a frame of the log-mel.
_FRAME = 0.025
# Decibels between the loudest and the quietest clip that are unusual.
_MOST_DECIBELS = 40.0
# Share of the samples of a clip at full scale, from which it is clipped often.
_CLIPPED = 1e-3


def warnings(survey: Survey) -> list[str]:
    """Return what is wrong with the data or too little of them, a line each."""
    return [
        *_describe_counts(survey),
        *_describe_lengths(survey),
        *_describe_copies(survey),
        *_describe_levels(survey),
        *_describe_rates(survey),
    ]


def _describe_counts(survey: Survey) -> Iterator[str]:
    if survey.clips < _FEW_CLIPS:
        yield (
            f'{pluralize(survey.clips, "training clip")}: expect little of a model, and compare it'
            ' with elastic-ast baseline'
        )
    few = [name for name, n in survey.class_clips.items() if 0 < n < _FEW_CLIPS_OF_CLASS]
    if few:
        yield (
            f'{pluralize(len(few), "class has", "classes have")} fewer than'
            f' {_FEW_CLIPS_OF_CLASS} training clips: {join_first(few)}'
        )
    if absent := [name for name, count in survey.class_clips.items() if not count]:
        yield (
            f'{pluralize(len(absent), "class has", "classes have")} no training clip, so that a'
            f' model cannot learn {"it" if len(absent) == 1 else "them"}: {join_first(absent)}'
        )
    if unmeasured := [name for name, count in survey.eval_class_clips.items() if not count]:
        yield (
            f'{pluralize(len(unmeasured), "class has", "classes have")} no evaluation clip, so that'
            f' {"its" if len(unmeasured) == 1 else "their"} accuracy is not measured:'
            f' {join_first(unmeasured)}'
        )


def _describe_lengths(survey: Survey) -> Iterator[str]:
    if short := int((survey.seconds < _FRAME).sum()):
        yield (
            f'{pluralize(short, "training clip is", "training clips are")} shorter than a frame of'
            f' {1000 * _FRAME:g} ms, and padded with silence; the longest has'
            f' {survey.seconds.max():.4g} s'
        )


def _describe_copies(survey: Survey) -> Iterator[str]:
    if survey.duplicates:
        pairs = [f'{train} and {evaluation}' for train, evaluation in survey.duplicates]
        yield (
            f'{pluralize(len(pairs), "recording is", "recordings are")} in training and in'
            f' evaluation, which flatters the result: {join_first(pairs)}'
        )
    if survey.contradictions:
        pairs = [f'{first} and {second}' for first, second in survey.contradictions]
        yield (
            f'{pluralize(len(pairs), "training recording has", "training recordings have")} the'
            f' content of another one, but other labels: {join_first(pairs)}'
        )


def _describe_levels(survey: Survey) -> Iterator[str]:
    if survey.silent:
        yield (
            f'{pluralize(len(survey.silent), "clip is", "clips are")} silent in the middle 10 s:'
            f' {join_first(survey.silent)}'
        )
    levels = survey.clip_levels
    if not levels:
        return
    quietest, loudest = (end(levels, key=lambda key: levels[key].rms) for end in (min, max))
    if levels[loudest].rms - levels[quietest].rms > _MOST_DECIBELS:
        yield (
            f'the loudness of clips differs by {levels[loudest].rms - levels[quietest].rms:.0f} dB,'
            f' from {levels[quietest].rms:.0f} dB of full scale ({quietest}) to'
            f' {levels[loudest].rms:.0f} dB ({loudest}): quiet clips may be little but noise'
        )
    clipped = [key for key, level in levels.items() if level.clipped > _CLIPPED]
    if clipped:
        yield (
            f'{pluralize(len(clipped), "clip is", "clips are")} clipped at full scale often, which'
            f' adds frequencies: {join_first(clipped)}'
        )


def _describe_rates(survey: Survey) -> Iterator[str]:
    if len(survey.rate_clips) < 2:
        return
    rates = [f'{pluralize(n, "clip")} of {rate} Hz' for rate, n in survey.rate_clips.items()]
    yield (
        f'the recordings have several sample rates: {join_first(rates)}. What lies above'
        f' {min(survey.rate_clips) // 2} Hz is missing in some: if classes differ in their rates, a'
        ' model may learn those instead of the sounds'
    )


def loudness(survey: Survey) -> str:
    """Return the range of loudness and peaks of the decoded clips, or nothing if all are silent."""
    if not survey.clip_levels:
        return ''
    rms = [level.rms for level in survey.clip_levels.values()]
    peak = round(max(level.peak for level in survey.clip_levels.values()), 1) + 0.0  # no -0.0
    low, high = math.floor(np.min(rms)), math.ceil(np.max(rms))
    return f'loudness: {low} to {high} dB of full scale (RMS), peaks up to {peak:.1f} dB'
