"""Pack configs/ as `elastic_ast_jax.configs`, so that the wheel has the recipes; see setup.cfg."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=['elastic_ast_jax*']), 'elastic_ast_jax.configs'],
    package_dir={'elastic_ast_jax.configs': 'configs'},
)
