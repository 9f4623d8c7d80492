"""Compute the metrics of an evaluation from the scores of its clips."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score


@dataclasses.dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class against the others; NaN without an example or a counter-example."""

    label: str
    clips: int
    accuracy: float  # share of the class's clips whose highest score is right
    average_precision: float
    auc: float
    d_prime: float


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Metrics of a whole split.

    Attributes:
        clips: The number of clips.
        accuracy: The share of clips whose highest score is one of their classes.
        first_label_accuracy: The share of clips whose highest score is the first of their classes,
            by the order of the classes. The published code calls this accuracy. It equals
            `accuracy` if every clip has one label.
        mean_average_precision, auc, d_prime: Means over the classes that have them (macro); d' is
            that of the mean AUC.
        classes_without: The number of classes without an example or a counter-example, which the
            means exclude.
        classes: The metrics of each class.
    """

    clips: int
    accuracy: float
    first_label_accuracy: float
    mean_average_precision: float
    auc: float
    d_prime: float
    classes_without: int
    classes: tuple[ClassMetrics, ...]


def d_prime(auc: float) -> float:
    """Return the sensitivity index: `sqrt(2)` times the normal quantile of the AUC.

    Source: Gemmeke et al. (2017).
    """
    return float(np.sqrt(2) * norm.ppf(auc))


def compute_metrics(
    scores: Float[np.ndarray, 'N C'], targets: Sequence[tuple[int, ...]], labels: Sequence[str]
) -> Metrics:
    """Compute the metrics of scores `[N, C]` against the classes of each clip.

    Args:
        scores: The higher, the more likely.
        targets: The classes of each clip.
        labels: The name of each class.

    Raises:
        ValueError: There are no clips, or scores of another number of clips or classes.
    """
    if scores.shape[1] != len(labels):
        raise ValueError(f'scores of {scores.shape[1]} classes for {len(labels)} labels')
    if not len(targets) or len(targets) != len(scores):
        raise ValueError(
            f'{len(scores)} scores for {len(targets)} clips: metrics need at least one clip, and a'
            ' score for each'
        )
    truth = np.zeros(scores.shape, bool)
    for i, classes in enumerate(targets):
        truth[i, list(classes)] = True
    highest = scores.argmax(axis=1)
    right = truth[np.arange(len(scores)), highest]
    classes = []
    for c, label in enumerate(labels):
        examples = truth[:, c]
        has_both = examples.any() and not examples.all()
        auc = float(roc_auc_score(examples, scores[:, c])) if has_both else np.nan
        classes.append(
            ClassMetrics(
                label=label,
                clips=int(examples.sum()),
                accuracy=float(right[examples].mean()) if examples.any() else np.nan,
                average_precision=(
                    float(average_precision_score(examples, scores[:, c])) if has_both else np.nan
                ),
                auc=auc,
                d_prime=d_prime(auc),
            )
        )
    counted = [entry for entry in classes if not np.isnan(entry.auc)]
    auc = float(np.mean([entry.auc for entry in counted])) if counted else np.nan
    return Metrics(
        clips=len(scores),
        accuracy=float(right.mean()),
        # As the published code: a clip without labels counts as one of the first class.
        first_label_accuracy=float((truth.argmax(axis=1) == highest).mean()),
        mean_average_precision=(
            float(np.mean([entry.average_precision for entry in counted])) if counted else np.nan
        ),
        auc=auc,
        d_prime=d_prime(auc),
        classes_without=len(classes) - len(counted),
        classes=tuple(classes),
    )
