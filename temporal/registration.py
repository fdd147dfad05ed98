"""Makes `gymnasium.make("temporal/Read-v0")` known; imports nothing heavy, for gymnasium calls it at import."""


def register_environments() -> None:
    """Register the environments with gymnasium; calling it twice is harmless."""
    from gymnasium.envs.registration import register, registry

    if "temporal/Read-v0" not in registry:
        register(
            id="temporal/Read-v0",
            entry_point="temporal.env:ReadEnv",
            vector_entry_point="temporal.env:ReadVectorEnv",
        )
