"""One short YAML an experiment; `temporal list` names them."""

if __name__ == "configs":
    raise ImportError(
        "configs: this folder is imported as temporal.configs; install the project with `pip install -e .`"
    )
