"""Sampling specs, written flat."""

import dataclasses

from elastic_ast_jax.config.schema import Augment
from elastic_ast_jax.data.sampling import SamplingSpec

_AUGMENT = {field.name for field in dataclasses.fields(Augment)}


def sampling_spec(**values):
    """Return the spec with these values, of augmentation or not, that changes nothing else."""
    return replaced(SamplingSpec(), **values)


def replaced(spec, **values):
    """Return the spec with these values, of augmentation or not, instead of its own."""
    augment = {name: value for name, value in values.items() if name in _AUGMENT}
    others = {name: value for name, value in values.items() if name not in _AUGMENT}
    return dataclasses.replace(spec, augment=dataclasses.replace(spec.augment, **augment), **others)
