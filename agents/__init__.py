"""Agents that read sparingly, and the ways to train them."""

if __name__ == "agents":
    raise ImportError(
        "agents: this folder is imported as temporal.agents; install the project with `pip install -e .`"
    )
