"""Name the sizes of models, as numbers that a config is checked with before JAX is imported."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Size:
    """Dimensions of a model.

    Attributes:
        width: Width D of the tokens.
        depth: Number of blocks.
        heads: Number of attention heads.
    """

    width: int
    depth: int
    heads: int


# ViT's sizes; Ti, S, B and L have heads of width 64. Mi is for a laptop's processor.
SIZES = {
    'Mi': Size(128, 4, 4),
    'Ti': Size(192, 12, 3),
    'S': Size(384, 12, 6),
    'B': Size(768, 12, 12),
    'L': Size(1024, 24, 16),
}
