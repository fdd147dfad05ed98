"""Render this sample again: python make_sample.py OUT [WORKERS]."""

import sys
from pathlib import Path

from temporal.data.doom import make_doom

KINDS = ("Demon", "Cacodemon", "BaronOfHell", "LostSoul")  # those that look least alike
SHARES = (0.6, 0.15, 0.25)
CRF = 36  # 24 kB a clip; at 23 it would be 180


def main() -> None:
    """Render 240 clips into the folder named first."""
    workers = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    make_doom(
        Path(sys.argv[1]),
        clips=240,
        seed=0,
        workers=workers,
        progress=lambda done, total: print(f"\r{done}/{total}", end="", file=sys.stderr, flush=True),
        kinds=KINDS,
        shares=SHARES,
        crf=CRF,
    )


if __name__ == "__main__":
    main()
