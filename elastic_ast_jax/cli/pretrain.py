"""`elastic-ast pretrain`: train an encoder on synthesized sounds, and write it to one file."""

import argparse
import dataclasses

from elastic_ast_jax.cli.commands import ConfigOptions, UsageError, add_config, load_config
from elastic_ast_jax.cli.types import path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(ConfigOptions):
    """What is trained, where the run is stored, and the file of the encoder."""

    workdir: str
    out: str

    def __post_init__(self) -> None:
        """Check the name of the file before anything is trained."""
        if not self.out.endswith('.safetensors'):
            raise UsageError(f'--out={self.out}: must end in .safetensors')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_config(parser)
    parser.add_argument(
        '--workdir',
        required=True,
        help='folder of the run; an unfinished run in it is resumed',
    )
    parser.add_argument(
        '--out', required=True, type=path, help='file of the encoder, .safetensors of float16'
    )


def run(options: Options) -> None:
    """Train to the last epoch, then write the encoder."""
    config = load_config(options)
    from elastic_ast_jax import train
    from elastic_ast_jax.distributed import processes
    from elastic_ast_jax.pretrained import encoder_file

    encoder_file.check_config(config)
    processes.initialize()
    train.run(config, options.workdir)
    if processes.is_primary():
        size, digest = encoder_file.write(options.workdir, options.out)
        print(f'{options.out}: {size / 1e6:.1f} MB, SHA-256 {digest}')
        print(f'start from it with --config.init.from={options.out}')
