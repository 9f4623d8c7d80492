"""Loss, gradients and twenty optimiser steps of the published network, by the step and the
optimiser that training uses.

Adam's first step is the sign of each gradient (with the decay that is added to it). Where an
element is smaller than what two float32 implementations differ by, that is chance; and a step in
another direction makes another network from there on. So an element whose first step is not the
same takes its first gradient from PyTorch. A note says which these are, what their exact gradient
is, and how far the losses come apart without this. The logits after the steps follow the small
differences of all elements together; for them the whole first gradient is PyTorch's then.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from elastic_ast_jax.checkpointing.train_state import TrainState
from elastic_ast_jax.parity import numpy_reference, rounding
from elastic_ast_jax.parity.comparison import Comparison, compare, compare_by_norm
from elastic_ast_jax.parity.elastic_ast import Case, clip_stages
from elastic_ast_jax.pretrained import elastic_ast_torch
from elastic_ast_jax.training import losses, optimizer
from elastic_ast_jax.training.step import make_train_step

__all__ = ['TrainingRun', 'TrainingSteps', 'compare_training']

LOSS = 1e-5
GRADIENT = 1e-4  # relative to the norm
STEP_LOSS = 1e-4
LOGITS_AFTER = 1e-3
# PyTorch's Adam has this where nothing else is asked for.
_EPSILON = 1e-8
# First steps that differ by more than this share of the rate are not the same.
_SAME_STEP = 0.1

# By the names and in the layout of PyTorch's state dict.
Tensors = Mapping[str, Float[np.ndarray, '...']]
# A name, and an index into that tensor.
Place = tuple[str, tuple[int, ...]]


class TrainingRun(NamedTuple):
    """Twenty steps.

    Attributes:
        losses: Of each step, before its update.
        gradients: Of the first step, as computed.
        logits: After the steps.
    """

    losses: Float[np.ndarray, 'steps']
    gradients: Tensors
    logits: Float[np.ndarray, 'clips C']


class TrainingSteps:
    """Runs the twenty steps of a case, as often as one likes for one compilation.

    Attributes:
        decay: Times a weight, what is added to its gradient.
    """

    def __init__(self, made: Case):
        self._made = made
        settings = made.reference.meta['adam']
        self.decay, self._steps = float(settings['weight_decay']), settings['steps']
        loss = losses.binary_cross_entropy if made.shape.multi_label else losses.cross_entropy()
        adam = optimizer.adam_l2(
            lambda _: settings['lr'], settings['b1'], settings['b2'], _EPSILON, self.decay
        )
        self._update = optax.chain(_recorded(), adam)
        self._step = jax.jit(make_train_step(self._apply, loss, self._update))

    def run(self, params: Any = None, first: Tensors | None = None) -> TrainingRun:
        """Makes the steps.

        Args:
            params: To begin with; PyTorch's if None.
            first: The gradient of the first update, NaN where the computed one is meant.
        """
        made, batch = self._made, self._made.batch
        params = made.params if params is None else params
        recorded, *moments = self._update.init(params)
        if first is not None:
            recorded = recorded._replace(given=elastic_ast_torch.to_params(first, made.layout))
        state, sums = self._step(TrainState(np.int32(0), params, (recorded, *moments)), batch)
        gradients = elastic_ast_torch.from_params(state.optimizer[0].gradient, made.layout)
        found = [float(sums.loss / sums.clips)]
        while len(found) < self._steps:
            state, sums = self._step(state, batch)
            found.append(float(sums.loss / sums.clips))
        logits = np.stack([one.logits for one in clip_stages(made, [batch], state.params)])
        return TrainingRun(np.array(found), gradients, logits)

    def _apply(self, params, batch):
        return self._made.network.apply({'params': params}, batch)


class _Recorded(NamedTuple):
    """Values that the next gradient is to have, NaN for none;

    and the last gradient, as computed.
    """

    given: Any
    gradient: Any


def _recorded() -> optax.GradientTransformation:
    """Keeps the gradient, so that it is that of the very step that trains;

    and puts other values into one, if given.
    """

    def init(params):
        return _Recorded(jax.tree.map(lambda x: np.full(x.shape, np.nan, x.dtype), params), params)

    def update(gradient, state, params=None):
        mixed = jax.tree.map(
            lambda value, own: jnp.where(jnp.isnan(value), own, value), state.given, gradient
        )
        return mixed, _Recorded(
            jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), gradient), gradient
        )

    return optax.GradientTransformation(init, update)


def compare_training(made: Case, training: TrainingSteps) -> tuple[list[Comparison], list[str]]:
    """Rows of the loss, of each tensor's gradient, of each step's loss and of the logits after the
    steps; and notes on them.
    """
    stored, title = made.reference, made.title
    theirs, wanted = stored.part('grads/'), stored['train_losses']
    own = training.run()
    rows = [compare(title, 'loss', own.losses[:1], stored['loss'][None], LOSS)]
    rows += [
        compare_by_norm(title, f'gradient of {name}', gradient, theirs[name], GRADIENT)
        for name, gradient in own.gradients.items()
    ]
    run = last = own
    notes, after = [], f'logits after {len(wanted)} steps'
    if places := _other_first_steps(made, training, own.gradients):
        run = training.run(
            first=_with(
                own.gradients, {place: float(theirs[place[0]][place[1]]) for place in places}
            )
        )
        last, after = training.run(first=theirs), f"{after} from PyTorch's first update"
        notes.append(_first_step_note(made, training, own, run, places))
    rows += [
        compare(
            title,
            f'loss of step {step}',
            run.losses[step - 1 : step],
            wanted[step - 1 : step],
            STEP_LOSS,
        )
        for step in range(1, len(wanted) + 1)
    ]
    found, more = _rows_after(made, training, after, last, theirs if places else None)
    return rows + found, notes + more


def _other_first_steps(made: Case, training: TrainingSteps, ours: Tensors) -> list[Place]:
    """Elements that the two first gradients move by different steps.

    Without the keys' biases: their gradient is 0 but for rounding, and a softmax ignores what they
    become.
    """
    weights, theirs = made.reference.part('weights/'), made.reference.part('grads/')
    found = []
    for name, gradient in ours.items():
        pull = training.decay * weights[name].astype(np.float64)
        ours_step, theirs_step = (
            (tensor + pull) / (np.abs(tensor + pull) + _EPSILON)
            for tensor in (gradient, theirs[name])
        )
        differ = np.abs(ours_step - theirs_step) > _SAME_STEP
        if name.endswith('to_kv.bias'):  # keys first
            differ[: len(differ) // 2] = False
        found += [(name, tuple(index)) for index in np.argwhere(differ).tolist()]
    return found


def _with(gradients: Tensors, values: Mapping[Place, float]) -> Tensors:
    """The gradients with other values in some places."""
    changed = {name: np.array(gradient) for name, gradient in gradients.items()}
    for (name, index), value in values.items():
        changed[name][index] = value
    return changed


def _first_step_note(
    made: Case, training: TrainingSteps, own: TrainingRun, run: TrainingRun, places: list[Place]
) -> str:
    """What the elements are, and the losses without their values from PyTorch."""
    weights, theirs, wanted = (
        made.reference.part('weights/'),
        made.reference.part('grads/'),
        made.reference['train_losses'],
    )
    exact = {place: _exact_gradient(made, *place) for place in places}
    by_exact = training.run(first=_with(own.gradients, exact))

    def apart(losses: Float[np.ndarray, 'steps']) -> str:
        return f'{np.abs(losses - wanted).max():.1e}'

    def told(name: str, index: tuple[int, ...]) -> str:
        pull = training.decay * float(weights[name][index])
        three = (theirs[name][index], own.gradients[name][index], exact[name, index])
        pytorch, here, exactly = (float(value) + pull for value in three)
        return (
            f'{name}{list(index)} (with the decay {pytorch:.1e} by PyTorch, {here:.1e} here,'
            f' {exactly:.1e} exactly)'
        )

    total = sum(gradient.size for gradient in own.gradients.values())
    return (
        f"{made.title}: Adam's first step is the sign of a gradient, and rounding decides it in"
        f' {len(places)} of {total} '
        f'elements: {"; ".join(told(*place) for place in places)}. The steps begin with the'
        ' gradient that PyTorch has '
        f'there, and their losses differ by at most {apart(run.losses)}. With our own gradient they'
        ' would by '
        f'{apart(own.losses)}, and with the exact one by {apart(by_exact.losses)}.'
    )


def _exact_gradient(made: Case, name: str, index: tuple[int, ...]) -> float:
    """Of the loss, in float64."""

    def loss(weights: Tensors) -> float:
        logits = [
            numpy_reference.forward(weights, clip, made.layout.size.heads, made.layout.pool).logits
            for clip in made.clips
        ]
        return numpy_reference.loss(logits, made.reference['labels'], made.reference.meta['loss'])

    return numpy_reference.derivative(loss, made.reference.part('weights/'), name, index)


def _rows_after(
    made: Case, training: TrainingSteps, what: str, run: TrainingRun, first: Tensors | None
) -> tuple[list[Comparison], list[str]]:
    """Logits after the steps:

    of all clips together, but each by itself that float32 does not determine well enough.
    """
    wanted = made.reference['logits_after']
    if np.abs(run.logits - wanted).max() <= LOGITS_AFTER:
        return [compare(made.title, what, run.logits, wanted, LOGITS_AFTER)], []
    moved = np.max(
        [
            np.abs(
                training.run(rounding.perturb(made.params, draw), first).logits - run.logits
            ).max(axis=1)
            for draw in range(rounding.DRAWS)
        ],
        axis=0,
    )
    loose = rounding.TOLERANCE_FACTOR * moved > LOGITS_AFTER
    clips = np.flatnonzero(loose)
    rows = [
        compare(
            made.title,
            f'{what}, clip {i}',
            run.logits[i],
            wanted[i],
            rounding.TOLERANCE_FACTOR * float(moved[i]),
        )
        for i in clips
    ]
    if not loose.all():
        others = f'{what}, other clips' if rows else what
        rows.insert(
            0, compare(made.title, others, run.logits[~loose], wanted[~loose], LOGITS_AFTER)
        )
    if not len(clips):
        return rows, []
    told = ', '.join(f'clip {i} by {moved[i]:.1e}' for i in clips)
    return rows, [
        f'{made.title}: float32 does not determine all logits after the steps to {LOGITS_AFTER:g}.'
        f' Starting weights moved to a neighbouring float32 number, at random ({rounding.DRAWS}'
        f' draws, the same first update), move them: {told}. The bound of these clips is'
        f' {rounding.TOLERANCE_FACTOR} times that.'
    ]
