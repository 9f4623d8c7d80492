"""Define the error of a config."""

from collections.abc import Sequence

from elastic_ast_jax.utils.errors import UserError


class ConfigError(UserError):
    """A config that cannot be used. The message lists every problem."""

    def __init__(self, problems: Sequence[str]):
        count = '1 problem' if len(problems) == 1 else f'{len(problems)} problems'
        super().__init__(
            f'{count} in the configuration:\n' + '\n'.join(f'  - {problem}' for problem in problems)
        )
        self.problems = tuple(problems)
