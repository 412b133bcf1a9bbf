"""The lines that `handwriting.py` learns from, stops by, is judged on, or goes on with."""

import argparse
import pathlib
from typing import NamedTuple

import numpy as np

from mdnjax import datasets, strokes

FEWEST = 5  # forms, or lines, of which some can be held out


class Lines(NamedTuple):
    """The lines to learn from, to stop by, and to be judged on; no form stands in two."""

    train: strokes.Corpus
    valid: strokes.Corpus
    test: strokes.Corpus
    name: str


def read_lines(arguments: argparse.Namespace) -> Lines:
    """Reads or generates the corpus, splits it, and cleans what is learned from."""
    if arguments.data is None:
        corpus = datasets.built_in_pens(arguments.lines, seed=arguments.seed)
        name = "the built-in pens"
    else:
        corpus = read_data(arguments.data, arguments)
        name = arguments.data.name
    train, valid, test = split(corpus, name, arguments)
    points, least = len(train.strokes.pen_up), arguments.batch * (arguments.window + 1)
    if points < least:
        raise ValueError(
            f"{name}: {points:,} points to learn from, and a batch takes {arguments.batch} x "
            f"({arguments.window} + 1) = {least:,}; take a smaller --batch or --window"
        )
    if arguments.clean:
        # The lines to be judged on stay as they are: cleaning changes what is to be predicted.
        train, report = strokes.clean(train)
        print(report)
    return Lines(train, valid, test, name)


def read_data(path: pathlib.Path, arguments: argparse.Namespace) -> strokes.Corpus:
    """Reads a file or folder and says what it was taken for."""
    name = arguments.format or strokes.recognise(path)
    corpus = strokes.read(path, format=name, strict=arguments.strict)
    described = {form.name: form.description for form in strokes.FORMATS}
    print(f"{path.name}: {len(corpus):,} lines, read as {name}: {described[name]}")
    return corpus


def split(
    corpus: strokes.Corpus, name: str, arguments: argparse.Namespace
) -> tuple[strokes.Corpus, strokes.Corpus, strokes.Corpus]:
    """Lines to learn from, to stop by, to be judged on: as the publisher split them, or by form."""
    test = None if arguments.test is None else read_data(arguments.test, arguments)
    if test is not None and (test.resolution, test.unit) != (corpus.resolution, corpus.unit):
        raise ValueError(
            f"--test {arguments.test}: in {test.unit}, resolution {test.resolution:g}; the lines "
            f"to learn from are in {corpus.unit}, resolution {corpus.resolution:g}"
        )
    published = ("train", "valid", "test")
    if corpus.parts is not None and set(corpus.parts.tolist()) == set(published):
        train, valid, held = (corpus.subset(corpus.parts == part) for part in published)
        return train, valid, held if test is None else test
    groups = groups_of(corpus, name)
    # A twentieth to stop by, a tenth to be judged on; of a handful of forms, at least one each.
    least = 1.5 / len(set(groups))
    stop, judge = max(0.05, least), max(0.10, least)
    if test is not None:
        train, valid = strokes.split_by(groups, (1 - stop, stop), seed=arguments.seed)
        return corpus.subset(train), corpus.subset(valid), test
    shares = (1 - stop - judge, stop, judge)
    train, valid, held = strokes.split_by(groups, shares, seed=arguments.seed)
    return corpus.subset(train), corpus.subset(valid), corpus.subset(held)


def groups_of(corpus: strokes.Corpus, name: str) -> list[str]:
    """What must not be divided: the forms, sheets of one text by one hand; lines where few."""
    if len(set(corpus.forms)) >= FEWEST:
        return corpus.forms.tolist()
    if len(corpus) < FEWEST:
        raise ValueError(
            f"{name}: {FEWEST} lines are needed to hold some out, got {len(corpus)}; --data takes "
            "a folder of such files too"
        )
    print(f"{name}: of fewer than {FEWEST} forms, so it is divided by lines")
    return [str(number) for number in range(len(corpus))]


def read_prime(arguments: argparse.Namespace) -> strokes.Strokes:
    """The line to go on with."""
    corpus = strokes.read(arguments.prime, strict=arguments.strict)
    if arguments.prime_line > len(corpus):
        raise ValueError(
            f"--prime-line: {arguments.prime} has {len(corpus)} lines, got {arguments.prime_line}"
        )
    line = corpus[arguments.prime_line - 1]
    if not np.any(line.offsets):
        raise ValueError(
            f"--prime: line {arguments.prime_line} of {arguments.prime} never moves: "
            f"{len(line.pen_up)} point(s)"
        )
    text = str(corpus.texts[arguments.prime_line - 1])
    print(
        f"{arguments.prime}, line {arguments.prime_line} of {len(corpus):,}: "
        f"{len(line.pen_up)} points" + (f", {text!r}" if text else "")
    )
    return line
