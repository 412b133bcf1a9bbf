"""The words: prose that ships with the package, cut into lines at seeded places."""

import importlib.resources

import numpy as np

_FILE = "plain_english.txt"
_SHORTEST, _LONGEST = 20, 45  # characters in a line


def load_words() -> list[str]:
    """Loads the words of the shipped text, in order, without its header.

    Returns:
        The words, punctuation attached.
    """
    text = importlib.resources.files("mdnjax.datasets").joinpath(_FILE).read_text("ascii")
    # The header, which says where the text is from, ends at the first line of dashes.
    return text.split("\n----\n", 1)[1].split()


def cut_lines(rng: np.random.Generator, words: list[str], num_lines: int) -> list[str]:
    """Cuts consecutive lines out of a text, from a seeded place on; the text is a circle.

    Args:
        rng: Draws the place, and how long the writer means each line to be.
        words: The text's.
        num_lines: How many lines to cut.

    Returns:
        Lines of 20 to 45 characters.
    """
    at = int(rng.integers(len(words)))
    lines = []
    for target in rng.integers(26, _LONGEST - 2, num_lines):
        line = words[at % len(words)]
        at += 1
        while len(line) < _SHORTEST or len(line) + 1 + len(words[at % len(words)]) <= target:
            line += " " + words[at % len(words)]
            at += 1
        lines.append(line)
    return lines
