"""`python -m temporal` does what `temporal` does."""

from temporal.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
