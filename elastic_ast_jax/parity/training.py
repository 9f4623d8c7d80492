"""Compare loss, gradients and twenty optimizer steps with the published network.

They are computed by the step and the optimizer that training uses. Adam's first step is the sign of
each gradient (with the weight decay that is added to it). Where an element is smaller than the
difference of two float32 implementations, its sign is chance, and a step in the other direction
leads to another network. So an element with another first step takes its first gradient from
PyTorch. A note lists these elements with their exact gradients, and how far the losses differ
without this. The logits after the steps depend on the small differences of all elements together;
for them the whole first gradient is then PyTorch's.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from elastic_ast_jax.checkpointing.train_state import TrainState
from elastic_ast_jax.packing.batch import PackedBatch
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
# Default epsilon of PyTorch's Adam.
_EPSILON = 1e-8
# First steps that differ by more than this share of the learning rate are not the same.
_SAME_STEP = 0.1

# By the names and in the layout of PyTorch's state dict.
Tensors = Mapping[str, Float[np.ndarray, '...']]
# Name of a tensor, and an index into it.
Element = tuple[str, tuple[int, ...]]


class TrainingRun(NamedTuple):
    """Twenty steps.

    Attributes:
        losses: Loss of each step, before its update.
        gradients: Gradients of the first step, as computed.
        logits: Logits after the steps.
    """

    losses: Float[np.ndarray, 'steps']
    gradients: Tensors
    logits: Float[np.ndarray, 'clips C']


class TrainingSteps:
    """Runs the twenty steps of a case, any number of times for one compilation.

    Attributes:
        decay: Weight decay; this share of a weight is added to its gradient.
    """

    def __init__(self, case: Case):
        """Compile the step of a case at its first run."""
        self._case = case
        adam = case.reference.meta['adam']
        self.decay, self._steps = float(adam['weight_decay']), adam['steps']
        loss = losses.binary_cross_entropy if case.shape.multi_label else losses.cross_entropy()
        update = optimizer.adam_l2(
            lambda _: adam['lr'], adam['b1'], adam['b2'], _EPSILON, self.decay
        )
        self._update = optax.chain(_record_gradient(), update)
        self._step = jax.jit(make_train_step(self._apply, loss, self._update))

    def run(self, params: Any = None, first: Tensors | None = None) -> TrainingRun:
        """Run the steps.

        Args:
            params: Initial parameters; PyTorch's if None.
            first: Gradient of the first update; NaN selects the computed gradient.
        """
        case, batch = self._case, self._case.batch
        params = case.params if params is None else params
        recorded, *moments = cast(tuple[Any, ...], self._update.init(params))
        if first is not None:
            recorded = recorded._replace(
                replacement=elastic_ast_torch.to_params(first, case.layout)
            )
        state = TrainState(np.int32(0), params, (recorded, *moments))
        state, metrics = self._step(state, batch)
        gradients = elastic_ast_torch.from_params(state.optimizer[0].gradient, case.layout)
        step_losses = [float(metrics.loss / metrics.clips)]
        while len(step_losses) < self._steps:
            state, metrics = self._step(state, batch)
            step_losses.append(float(metrics.loss / metrics.clips))
        logits = np.stack([stages.logits for stages in clip_stages(case, [batch], state.params)])
        return TrainingRun(np.array(step_losses), gradients, logits)

    def _apply(self, params: Any, batch: PackedBatch) -> Float[Array, 'R S C']:
        logits = self._case.network.apply({'params': params}, batch)
        assert isinstance(logits, jax.Array)
        return logits


class _RecordedGradient(NamedTuple):
    """State of `_record_gradient`.

    Attributes:
        replacement: Values that replace the next gradient; NaN keeps the computed value.
        gradient: The last gradient, as computed.
    """

    replacement: Any
    gradient: Any


def _record_gradient() -> optax.GradientTransformation:
    """Record the gradient of the step that trains, and replace values of the next gradient."""

    def init(params):
        unchanged = jax.tree.map(lambda x: np.full(x.shape, np.nan, x.dtype), params)
        return _RecordedGradient(unchanged, params)

    def update(updates, state: Any, params=None):
        mixed = jax.tree.map(
            lambda value, computed: jnp.where(jnp.isnan(value), computed, value),
            state.replacement,
            updates,
        )
        unchanged = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), updates)
        return mixed, _RecordedGradient(unchanged, updates)

    return optax.GradientTransformation(init, update)


def compare_training(case: Case, training: TrainingSteps) -> tuple[list[Comparison], list[str]]:
    """Compare the loss, each tensor's gradient, each step's loss and the logits after the steps.

    Returns:
        The comparisons, and notes on them.
    """
    stored, title = case.reference, case.title
    torch_gradients, torch_losses = stored.part('grads/'), stored['train_losses']
    computed = training.run()
    comparisons = [compare(title, 'loss', computed.losses[:1], stored['loss'][None], LOSS)]
    comparisons += [
        compare_by_norm(title, f'gradient of {name}', gradient, torch_gradients[name], GRADIENT)
        for name, gradient in computed.gradients.items()
    ]
    run = last = computed
    notes, quantity, first = [], f'logits after {len(torch_losses)} steps', None
    if elements := _different_first_steps(case, training, computed.gradients):
        values = {(name, index): float(torch_gradients[name][index]) for name, index in elements}
        run = training.run(first=_replace_values(computed.gradients, values))
        first = torch_gradients
        last, quantity = training.run(first=first), f"{quantity} from PyTorch's first update"
        notes.append(_first_step_note(case, training, computed, run, elements))
    for step in range(1, len(torch_losses) + 1):
        entry = slice(step - 1, step)
        comparisons.append(
            compare(
                title, f'loss of step {step}', run.losses[entry], torch_losses[entry], STEP_LOSS
            )
        )
    more_comparisons, more_notes = _compare_logits_after(case, training, quantity, last, first)
    return comparisons + more_comparisons, notes + more_notes


def _different_first_steps(
    case: Case, training: TrainingSteps, gradients: Tensors
) -> list[Element]:
    """Return the elements whose first step differs from PyTorch's.

    The biases of keys are ignored: their gradient is 0 but for rounding, and a softmax does not
    depend on them.
    """
    weights, torch_gradients = case.reference.part('weights/'), case.reference.part('grads/')
    elements = []
    for name, gradient in gradients.items():
        decay = training.decay * weights[name].astype(np.float64)
        step, torch_step = (
            (tensor + decay) / (np.abs(tensor + decay) + _EPSILON)
            for tensor in (gradient, torch_gradients[name])
        )
        differs = np.abs(step - torch_step) > _SAME_STEP
        if name.endswith('to_kv.bias'):  # keys first
            differs[: len(differs) // 2] = False
        elements += [(name, tuple(index)) for index in np.argwhere(differs).tolist()]
    return elements


def _replace_values(gradients: Tensors, values: Mapping[Element, float]) -> Tensors:
    """Return the gradients with other values of some elements."""
    replaced = {name: np.array(gradient) for name, gradient in gradients.items()}
    for (name, index), value in values.items():
        replaced[name][index] = value
    return replaced


def _first_step_note(
    case: Case,
    training: TrainingSteps,
    computed: TrainingRun,
    run: TrainingRun,
    elements: list[Element],
) -> str:
    """Return a note on elements with other first steps, and the losses without PyTorch's values."""
    weights, torch_gradients = case.reference.part('weights/'), case.reference.part('grads/')
    torch_losses = case.reference['train_losses']
    exact = {element: _exact_gradient(case, *element) for element in elements}
    exact_run = training.run(first=_replace_values(computed.gradients, exact))

    def largest_difference(run: TrainingRun) -> str:
        return f'{np.abs(run.losses - torch_losses).max():.1e}'

    def describe(name: str, index: tuple[int, ...]) -> str:
        decay = training.decay * float(weights[name][index])
        gradients = (
            torch_gradients[name][index],
            computed.gradients[name][index],
            exact[name, index],
        )
        by_torch, by_jax, exactly = (float(gradient) + decay for gradient in gradients)
        return (
            f'{name}{list(index)} (with the decay {by_torch:.1e} by PyTorch, {by_jax:.1e} here,'
            f' {exactly:.1e} exactly)'
        )

    total = sum(gradient.size for gradient in computed.gradients.values())
    return (
        f"{case.title}: Adam's first step is the sign of a gradient, and rounding decides it in"
        f' {len(elements)} of {total} elements:'
        f' {"; ".join(describe(*element) for element in elements)}. The steps begin with the'
        f' gradient of PyTorch for them, and their losses differ by at most'
        f' {largest_difference(run)}. With our own gradient they would by'
        f' {largest_difference(computed)}, and with the exact one by'
        f' {largest_difference(exact_run)}.'
    )


def _exact_gradient(case: Case, name: str, index: tuple[int, ...]) -> float:
    """Return the gradient of the loss by one element, in float64."""

    def loss(weights: Tensors) -> float:
        logits = [
            numpy_reference.forward(weights, clip, case.layout.size.heads, case.layout.pool).logits
            for clip in case.clips
        ]
        return numpy_reference.loss(logits, case.reference['labels'], case.reference.meta['loss'])

    return numpy_reference.derivative(loss, case.reference.part('weights/'), name, index)


def _compare_logits_after(
    case: Case, training: TrainingSteps, quantity: str, run: TrainingRun, first: Tensors | None
) -> tuple[list[Comparison], list[str]]:
    """Compare the logits after the steps.

    All clips are compared together, except those whose logits float32 does not determine well
    enough; each of these has its own bound.
    """
    expected = case.reference['logits_after']
    if np.abs(run.logits - expected).max() <= LOGITS_AFTER:
        return [compare(case.title, quantity, run.logits, expected, LOGITS_AFTER)], []
    changes = []
    for draw in range(rounding.DRAWS):
        perturbed = training.run(rounding.perturb(case.params, draw), first)
        changes.append(np.abs(perturbed.logits - run.logits).max(axis=1))
    change = np.max(changes, axis=0)
    loose = rounding.TOLERANCE_FACTOR * change > LOGITS_AFTER
    clips = np.flatnonzero(loose)
    comparisons = [
        compare(
            case.title,
            f'{quantity}, clip {i}',
            run.logits[i],
            expected[i],
            rounding.TOLERANCE_FACTOR * float(change[i]),
        )
        for i in clips
    ]
    if not loose.all():
        title = f'{quantity}, other clips' if comparisons else quantity
        comparisons.insert(
            0, compare(case.title, title, run.logits[~loose], expected[~loose], LOGITS_AFTER)
        )
    if not len(clips):
        return comparisons, []
    clip_changes = ', '.join(f'clip {i} by {change[i]:.1e}' for i in clips)
    return comparisons, [
        f'{case.title}: float32 does not determine all logits after the steps to {LOGITS_AFTER:g}.'
        f' Initial weights moved to a neighboring float32 number, at random ({rounding.DRAWS}'
        f' draws, the same first update), change them: {clip_changes}. The bound of these clips is'
        f' {rounding.TOLERANCE_FACTOR} times that.'
    ]
