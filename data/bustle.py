"""What comes and goes in a walk beside the monster, so that change alone does not give it away: things and light."""

from __future__ import annotations

import numpy as np

THINGS = {
    "items": "Medikit GreenArmor BlueArmor Soulsphere Megasphere BlurSphere Backpack ShellBox RocketBox CellPack "
    "Chaingun RocketLauncher BFG9000 Chainsaw",
    "decorations": "TechLamp Column TallGreenColumn HeartColumn EvilEye FloatingSkull BlueTorch GreenTorch RedTorch "
    "Candelabra BurningBarrel ExplosiveBarrel HeadsOnAStick HangBNoBrain LiveStick",
    "effects": "TeleportFog ItemFog BFGBall CacodemonBall BaronBall RevenantTracer DoomImpBall SpawnFire ArchvileFire",
}
"""By their names in ZDoom; in a picture as large as a monster, none of them dangerous by itself."""
THING_SHARE = 0.2  # of frames in which something comes: 13 in a clip
LIGHT_SHARE = 0.06  # of frames in which the light begins to flicker
LIGHT_FRAMES = 3  # at most, until it is back
DIMMEST, BRIGHTEST, NORMAL = 2.0, 24.0, 8.0  # of ZDoom's r_visibility


class Bustle:
    """Console commands for each frame of a walk, by seed; they take nothing from the draws of the walk itself.

    Args:
        seed: of the walk.
    """

    def __init__(self, seed: int) -> None:
        self._draw = np.random.default_rng([seed, 1])
        self._kinds = [names.split() for names in THINGS.values()]
        self._left = 0

    def begin(self) -> list[str]:
        """What undoes whatever an earlier walk left."""
        return [f"r_visibility {NORMAL:g}"]

    def commands(self) -> list[str]:
        """What happens in the next frame."""
        found = []
        if self._draw.random() < THING_SHARE:
            names = self._kinds[self._draw.integers(len(self._kinds))]
            found.append(f"summon {names[self._draw.integers(len(names))]}")
        if self._left:
            self._left -= 1
            if not self._left:
                found.append(f"r_visibility {NORMAL:g}")
        elif self._draw.random() < LIGHT_SHARE:
            self._left = int(self._draw.integers(1, LIGHT_FRAMES + 1))
            light = np.exp(self._draw.uniform(np.log(DIMMEST), np.log(BRIGHTEST)))
            found.append(f"r_visibility {light:.2f}")
        return found
