"""Find the network among the tensors of a file, below the names that programs put around it.

Nested dictionaries are one name with dots: `{'model': {'norm.bias': ...}}` is `model.norm.bias`.
"""

import collections
import re
import types
from collections.abc import Sequence
from typing import NamedTuple

from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.text import join_first

# Parts that PyTorch inserts anywhere in a name: compiled, sharded and recomputed modules.
_INSERTED = ('_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module')
# What stands before a block's number in each naming scheme, and the patch embedding beside it.
_SCHEMES = types.MappingProxyType(
    {
        'v.blocks.': 'v.patch_embed.proj.weight',
        'blocks.': 'patch_embed.proj.weight',
        'blocks.modules_list.': 'patch_embed.0.weight',
        **{
            f'{model}{blocks}': f'{model}embeddings.patch_embeddings.projection.weight'
            for model in ('', 'vit.', 'deit.', 'audio_spectrogram_transformer.')
            for blocks in ('encoder.layer.', 'layers.')
        },
    }
)
# The shortest root wins, so that `v.` and `vit.` belong to the scheme and not to a wrapper.
_BLOCK = re.compile(
    rf'(?P<root>(?:.*?\.)??)(?P<scheme>{"|".join(map(re.escape, _SCHEMES))})\d+\.'
    r'(?:norm[12]|attn\.\w+|mlp\.\w+|layernorm_\w+|attention\.(?:attention\.\w+|[qkvo]_proj))\.'
)
# The modules of transformers 5 have other names than the files that its save_pretrained writes.
_MODULES = re.compile(r'((?:\w+\.)?)layers\.(\d+)\.(.+)\.(weight|bias)')
_SAVED = types.MappingProxyType(
    {
        'attention.q_proj': 'attention.attention.query',
        'attention.k_proj': 'attention.attention.key',
        'attention.v_proj': 'attention.attention.value',
        'attention.o_proj': 'attention.output.dense',
        'mlp.fc1': 'intermediate.dense',
        'mlp.fc2': 'output.dense',
        'layernorm_before': 'layernorm_before',
        'layernorm_after': 'layernorm_after',
    }
)
# Wrappers that are dropped around a network that is not recognized.
_WRAPPERS = ('module', 'model', 'state_dict', 'model_state_dict')
_AVERAGED = re.compile(r'(?:^|[._])(?:ema|averaged)(?:[._]|$)')
_MAX_NAMES = 5
# No name of a network comes near; a file may hold any.
_MAX_LENGTH = 1000


class WrapperError(UserError):
    """Tensors of several networks, none of which is preferred."""


class NetworkNames(NamedTuple):
    """The tensors of one network in a file.

    Attributes:
        names: Their names in the file, by their names in the network.
        notes: On what was dropped and ignored, one sentence each.
    """

    names: dict[str, str]
    notes: tuple[str, ...]


def find_network(names: Sequence[str], ignored: Sequence[str] = ()) -> NetworkNames:
    """Return the names of the network's tensors without the wrappers around them.

    Of a network and its moving average, the average is taken, as from this project's workdirs.

    Args:
        names: Of all tensors in the file.
        ignored: Of other entries, for the note.

    Raises:
        WrapperError: Several networks.
    """
    short_names, notes = _drop_inserted(names)
    root, is_average = _find_root(list(short_names))
    kept = {
        short.removeprefix(root): name
        for short, name in short_names.items()
        if short.startswith(root)
    }
    kept, renamed = _saved_names(kept)
    notes += renamed
    outside = [short for short in short_names if not short.startswith(root)]
    if root and outside:
        notes.append(f"took the tensors below '{root}'{', a moving average' if is_average else ''}")
    elif root:
        notes.append(f"dropped '{root}' from all names")
    if beside := dict.fromkeys(_diverging_name(name, root) for name in (*ignored, *outside)):
        notes.append(f'ignored beside the network: {join_first(list(beside), _MAX_NAMES)}')
    return NetworkNames(kept, tuple(notes))


def _drop_inserted(names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the names by what they are without inserted parts, and notes on these."""
    counts: collections.Counter[str] = collections.Counter()
    short_names = {}
    for name in names:
        parts = name.split('.')
        counts.update(set(parts).intersection(_INSERTED))
        short_names['.'.join(part for part in parts if part not in _INSERTED)] = name
    if len(short_names) < len(names):  # the parts tell names apart
        return {name: name for name in names}, []
    return short_names, [
        f"dropped '{part}.' from {'all' if count == len(names) else count} names"
        for part, count in counts.items()
    ]


def _find_root(names: Sequence[str]) -> tuple[str, bool]:
    """Return what stands before each name of the network, and whether it is a moving average."""
    networks = {
        (match['root'], match['scheme'])
        for name in names
        if len(name) <= _MAX_LENGTH and (match := _BLOCK.match(name))
        if not any(part.startswith('optim') for part in match['root'].split('.'))
    }
    present = set(names)
    roots = sorted({root for root, scheme in networks if root + _SCHEMES[scheme] in present})
    if not roots and len(networks) == 1:  # whose reader says what is missing
        roots = [root for root, _ in networks]
    averages = [root for root in roots if _AVERAGED.search(root)]
    if len(roots) == 2 and len(averages) == 1:
        return averages[0], True
    if len(roots) > 1:
        beginnings = join_first([repr(root) for root in roots], _MAX_NAMES)
        raise WrapperError(
            f'holds {len(roots)} networks, whose names begin with {beginnings}: save the tensors'
            ' of one of them alone'
        )
    return (roots[0], bool(averages)) if roots else (_shared_wrappers(names), False)


def _shared_wrappers(names: Sequence[str]) -> str:
    """Return the known wrappers that all names begin with."""
    if not names:
        return ''
    root = ''
    while wrapper := next(
        (part for part in _WRAPPERS if all(name.startswith(f'{root}{part}.') for name in names)), ''
    ):
        root += f'{wrapper}.'
    return root


def _saved_names(names: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the names in files of transformers for those of its modules, and a note on these."""
    saved = {}
    for name, source in names.items():
        match = _MODULES.fullmatch(name)
        if match and match[3] in _SAVED:
            name = f'{match[1]}encoder.layer.{match[2]}.{_SAVED[match[3]]}.{match[4]}'
        saved[name] = source
    if len(saved) < len(names) or saved.keys() == names.keys():
        return names, []
    return saved, ['renamed the modules of transformers as its save_pretrained does']


def _diverging_name(name: str, root: str) -> str:
    """Return a name up to its first part that the root lacks."""
    parts = name.split('.')
    shared = 0
    for part, outer in zip(parts[:-1], root.split('.'), strict=False):
        if part != outer:
            break
        shared += 1
    return '.'.join(parts[: shared + 1])
