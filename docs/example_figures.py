"""Makes the figures of docs/inverse_problems.md and docs/autoencoders.md, by running the examples.

python docs/example_figures.py [EXAMPLE ...]

The pictures go to docs/images; each is below 200 kB.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
PICTURES = {
    "inverse_sine.py": ("inverse_sine.png",),
    "robot_arm.py": ("robot_arm.png", "robot_arm_errors.png", "robot_arm.gif"),
    "vae.py": ("vae.png",),
    "cvae.py": ("cvae.png",),
}


def main() -> None:
    """Makes all figures, or those of the examples named."""
    chosen = sys.argv[1:] or list(PICTURES)
    images = ROOT / "docs" / "images"
    images.mkdir(exist_ok=True)
    for example in chosen:
        names = PICTURES[example]
        with tempfile.TemporaryDirectory() as out:
            command = [sys.executable, str(ROOT / "examples" / example), "--out", out]
            subprocess.run(command, check=True)
            for name in names:
                size = (pathlib.Path(out) / name).stat().st_size
                if size > 200_000:
                    raise SystemExit(f"{name} is {size} bytes; at most 200000 are committed")
                shutil.copyfile(pathlib.Path(out) / name, images / name)
                print(f"{name}: {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
