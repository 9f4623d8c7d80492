"""Compute statistics of the log-mels of packed clips from their patches.

They are those of `evaluation.clip_statistics`, of normalized log-mels: for each mel bin the mean
and the standard deviation over the frames of the clip, the standard deviation of the differences of
successive frames, and the means of three thirds. Differences are taken within patches only. The
frames that fill up a clip's last patch are 0 and do not count.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from elastic_ast_jax.packing.batch import PackedBatch

__all__ = ['GROUPS', 'clip_statistics']

# Groups of values, each with one value for each mel bin.
GROUPS = 6
_THIRDS = 3


def clip_statistics(
    batch: PackedBatch, members: Bool[Array, 'R T S'], mel_patches: int, patch_frames: int
) -> Float[Array, 'R S F']:
    """Return the statistics of each slot, `F = GROUPS * mel bins`; those of an empty slot are 0.

    Args:
        batch: Packed clips.
        members: Whether each token belongs to each slot.
        mel_patches: Rows of the patch grid.
        patch_frames: Frames of a patch.
    """
    rows, tokens, size = batch.patches.shape
    bands = size // patch_frames
    # Mel-major patches: [R, T, mel of the patch, frame of the patch].
    frames = batch.patches.astype(jnp.float32).reshape(rows, tokens, bands, patch_frames)
    real = (frames != 0).any(axis=2, keepdims=True).astype(jnp.float32)
    cell = _cells(batch, members, mel_patches)
    thirds = _thirds(batch, members, real[:, :, 0])[:, :, None]  # [R, T, 1, frame, third]
    mean = _mean(cell, frames, real)
    deviation = jnp.sqrt(_mean(cell, (frames - _of_token(cell, mean)) ** 2, real))
    steps, both = jnp.diff(frames, axis=3), real[..., 1:] * real[..., :-1]
    drift = _of_token(cell, _mean(cell, steps, both))
    change = jnp.sqrt(_mean(cell, (steps - drift) ** 2, both))
    groups = [mean, deviation, change]
    for third in range(_THIRDS):
        weights = real * thirds[..., third]
        empty = _sum(cell, weights) == 0
        groups.append(jnp.where(empty, mean, _mean(cell, frames, weights)))
    # [R, S, group, mel patch, mel of the patch]: the mel bins in their order.
    stacked = jnp.stack(groups, axis=2)
    return stacked.reshape(rows, members.shape[2], GROUPS * mel_patches * bands)


def _cells(
    batch: PackedBatch, members: Bool[Array, 'R T S'], mel_patches: int
) -> Float[Array, 'R T S G']:
    """Return whether each token is of a slot and of a row of its patch grid."""
    of_row = jax.nn.one_hot(batch.freq_pos, mel_patches)
    return members.astype(jnp.float32)[..., None] * of_row[:, :, None, :]


def _thirds(
    batch: PackedBatch, members: Bool[Array, 'R T S'], real: Float[Array, 'R T frame']
) -> Float[Array, 'R T frame 3']:
    """Return the third of its clip that each frame is in."""
    patch_frames = real.shape[2]
    belongs = members.astype(jnp.float32)
    inside = real.sum(axis=2).astype(jnp.int32)
    ends = jnp.where(inside > 0, batch.time_pos * patch_frames + inside, 0)
    count = jnp.where(members, ends[..., None], 1).max(axis=1)  # [R, S]
    bounds = jnp.stack([k * count // _THIRDS for k in range(1, _THIRDS)], axis=-1)  # [R, S, 2]
    bounds = jnp.einsum('rts,rsb->rtb', belongs, bounds.astype(jnp.float32), precision='highest')
    number = batch.time_pos[..., None] * patch_frames + jnp.arange(patch_frames)[None, None]
    third = (number[..., None] >= bounds[:, :, None]).sum(axis=3)
    return jax.nn.one_hot(third, _THIRDS)


def _sum(
    cell: Float[Array, 'R T S G'], values: Float[Array, 'R T _ frame']
) -> Float[Array, 'R S G _']:
    """Return sums over the frames of each cell."""
    return jnp.einsum('rtsg,rtm->rsgm', cell, values.sum(axis=3), precision='highest')


def _mean(
    cell: Float[Array, 'R T S G'],
    values: Float[Array, 'R T M frame'],
    weights: Float[Array, 'R T 1 frame'],
) -> Float[Array, 'R S G M']:
    """Return weighted means over the frames of each cell, 0 without weight."""
    return _sum(cell, values * weights) / jnp.maximum(_sum(cell, weights), 1.0)


def _of_token(
    cell: Float[Array, 'R T S G'], values: Float[Array, 'R S G M']
) -> Float[Array, 'R T M 1']:
    """Return the value of each token's cell."""
    return jnp.einsum('rtsg,rsgm->rtm', cell, values, precision='highest')[..., None]
