"""Makes `gymnasium.make("temporal/Read-v0", ...)` known; `import temporal.env` does it.

Since 1.0 gymnasium calls no entry points of other packages, so something has to be imported first; gymnasium does that
itself for `gymnasium.make("temporal.env:temporal/Read-v0", ...)`.
"""


def register_environments() -> None:
    """Register the environments with gymnasium; calling it twice is harmless."""
    from gymnasium.envs.registration import register, registry

    if "temporal/Read-v0" not in registry:
        register(
            id="temporal/Read-v0",
            entry_point="temporal.env:ReadEnv",
            vector_entry_point="temporal.env:ReadVectorEnv",
        )
