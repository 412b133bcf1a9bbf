"""The command line of `handwriting.py`."""

import argparse
import pathlib
from collections.abc import Sequence

from command_line import count, not_negative, positive

from mdnjax import strokes


def parse_arguments(
    description: str | None, argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        metavar="PATH",
        type=pathlib.Path,
        help="handwriting or drawings, a file or a folder (default: the built-in pens)",
    )
    data.add_argument(
        "--format",
        choices=[form.name for form in strokes.FORMATS],
        help="what --data and --test are (default: what their content says)",
    )
    data.add_argument(
        "--test",
        metavar="PATH",
        type=pathlib.Path,
        help="lines to be judged on (default: the data's own test part, or a tenth, by forms)",
    )
    data.add_argument("--strict", action="store_true", help="stop at a broken file, do not skip it")
    data.add_argument(
        "--clean",
        action="store_true",
        help="fill in missing readings and drop over-long jumps of the training lines (Graves)",
    )
    data.add_argument(
        "--lines", metavar="N", type=count, default=6000, help="size of the built-in corpus (6000)"
    )

    network = parser.add_argument_group("network")
    network.add_argument(
        "--hidden", metavar="N", type=count, default=256, help="cells a layer (256)"
    )
    network.add_argument("--layers", metavar="N", type=count, default=1, help="LSTM layers (1)")
    network.add_argument(
        "--components", metavar="K", type=count, default=20, help="Gaussians in the mixture (20)"
    )

    learning = parser.add_argument_group("learning")
    budget = learning.add_mutually_exclusive_group()
    budget.add_argument("--steps", metavar="N", type=count, help="train for N steps; or")
    budget.add_argument(
        "--minutes",
        metavar="M",
        type=positive,
        default=4.8,
        help="train for so many steps that the whole run takes M minutes (4.8)",
    )
    learning.add_argument("--batch", metavar="B", type=count, default=32, help="lines a batch (32)")
    learning.add_argument(
        "--window", metavar="T", type=count, default=64, help="points of each line in a batch (64)"
    )
    learning.add_argument(
        "--lr", metavar="RATE", type=positive, default=1e-2, help="peak learning rate (0.01)"
    )
    learning.add_argument("--seed", metavar="N", type=int, default=0, help="of all randomness (0)")

    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        metavar="FOLDER",
        type=pathlib.Path,
        default=pathlib.Path("runs/handwriting"),
        help="for pictures, metrics and checkpoints (runs/handwriting)",
    )
    there = output.add_mutually_exclusive_group()
    there.add_argument("--resume", action="store_true", help="go on with the run in that folder")
    there.add_argument("--overwrite", action="store_true", help="delete the run in that folder")
    output.add_argument(
        "--prime",
        metavar="FILE",
        type=pathlib.Path,
        help="a line to continue in its style, in any format of --data; with --resume on a "
        "finished run nothing is learned again",
    )
    output.add_argument(
        "--prime-line", metavar="N", type=count, default=1, help="which line of that file (1)"
    )
    output.add_argument("--sample", metavar="N", type=count, default=8, help="lines to write (8)")
    output.add_argument(
        "--bias",
        metavar="B",
        type=not_negative,
        default=0.5,
        help="neatness: 0 as it was learned, 1 or more tidier, after Graves (0.5)",
    )
    return parser.parse_args(argv)
