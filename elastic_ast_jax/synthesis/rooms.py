"""Draw rooms and microphones."""

from elastic_ast_jax.synthesis.draws import Draws
from elastic_ast_jax.synthesis.sounds import Room

__all__ = ['draw_room']


def draw_room(draws: Draws) -> Room:
    """Return a random room and microphone: half of all rooms echo, most have some noise."""
    echoes, noisy = draws.chance(0.5), draws.chance(0.7)
    return Room(
        seconds=draws.log_uniform(0.05, 0.8) if echoes else 0.0,
        level=draws.log_uniform(0.05, 0.7) if echoes else 0.0,
        noise_db=draws.uniform(-70, -5) if noisy else -90.0,
        noise_tilt=draws.uniform(-8, 2),
        lowpass=draws.log_uniform(2500, 8000) if draws.chance(0.4) else 0.0,
        highpass=draws.log_uniform(40, 400) if draws.chance(0.3) else 0.0,
    )
