"""Sources of sequences: text files, and generated tasks."""

if __name__ == "data":
    raise ImportError(
        "data: this folder is imported as temporal.data; install the project with `pip install -e .`"
    )
