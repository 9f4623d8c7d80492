"""Tiny models with fresh parameters, for tests of what is done with a model rather than of what it
learned.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from elastic_ast_jax import build, config
from elastic_ast_jax.audio import fbank
from elastic_ast_jax.checkpoints import Checkpoints
from elastic_ast_jax.inference.predictor import Predictor
from elastic_ast_jax.models import attention
from elastic_ast_jax.train_step import new_state
from elastic_ast_jax.trained import Trained
from elastic_ast_jax.workdir import Contract, Workdir

LABELS = ('low', 'middle', 'très haut')
VALUES = {
    'data': {'source': 'synthetic'},
    'frontend': {'sample_rate': 16000, 'mel_bins': 32, 'max_frames': 96, 'mean': -7.0, 'std': 4.0},
    'augment': {'freq_mask': 8},
    'packing': {'rows': 2, 'tokens': 32, 'slots': 6},
    'model': {'width': 16, 'depth': 2, 'heads': 2, 'attention': 'plain'},
}


def settings(**sections: dict) -> config.Config:
    """The configuration of the tiny model:

    96 frames of 10 ms in patches of 16, so six steps of 160 ms, by two mel bands.
    """
    return config.from_dict(
        {
            name: VALUES.get(name, {}) | sections.get(name, {})
            for name in VALUES.keys() | sections.keys()
        }
    )


def fresh(chosen: config.Config):
    """The network, and parameters drawn here:

    compiling their initialisation takes longer than all that is done with them.
    """
    network = build.model(chosen, len(LABELS), attention.plain, jnp.dtype('float32'), scan=True)
    abstract = jax.eval_shape(
        lambda: build.init_params(network, build.batch_shape(chosen, len(LABELS)), 0)
    )
    random = np.random.default_rng(0)
    flat = {
        name: (name[-1] == 'scale') + 0.25 * random.standard_normal(leaf.shape, np.float32)
        for name, leaf in flatten_dict(abstract).items()
    }
    return network, unflatten_dict(flat)


def predictor(**sections: dict) -> Predictor:
    """A predictor with fresh parameters; arguments are sections of the configuration."""
    chosen = settings(**sections)
    return Predictor(Trained(chosen, LABELS, *fresh(chosen), 0, 'step 0'))


def workdir(path, **sections: dict) -> None:
    """A workdir as training leaves it, with one checkpoint of fresh parameters."""
    chosen = settings(**sections)
    made = Workdir(path)
    made.prepare(chosen)
    made.set_contract(Contract(LABELS, fbank.fingerprint(chosen.frontend)))
    _, params = fresh(chosen)
    with Checkpoints(made.checkpoints) as checkpoints:
        checkpoints.save(new_state(params, optax.sgd(0.1)), None)
