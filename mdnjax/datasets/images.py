"""Small images with labels: scikit-learn's digits, MNIST and Fashion-MNIST.

References:
    E. Alpaydin and C. Kaynak. "Optical Recognition of Handwritten Digits." UCI, 1998.
    Y. LeCun, C. Cortes and C. J. C. Burges. "The MNIST database of handwritten digits." 1998.
    H. Xiao, K. Rasul and R. Vollgraf. "Fashion-MNIST." 2017.
"""

import hashlib
import os
import pathlib
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Int, UInt8

from mdnjax._checks import require, require_extra
from mdnjax.datasets.idx import parse_idx, read_content

Split: TypeAlias = Literal["train", "test"]


class LabelledImages(NamedTuple):
    """Grey images and what they show.

    Attributes:
        images: `[N, H, W]`, 0 is background; 255 (digits: 16) is full.
        labels: `[N]`, 0 to 9.
    """

    images: UInt8[np.ndarray, "N H W"]
    labels: Int[np.ndarray, " N"]


class _File(NamedTuple):
    name: str
    md5: str
    """Of the file as it is published, compressed."""
    sha256: str | None
    """Of its content, where known."""


_MNIST: dict[Split, tuple[_File, _File]] = {
    "train": (
        _File(
            "train-images-idx3-ubyte",
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        _File(
            "train-labels-idx1-ubyte",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
    ),
    "test": (
        _File(
            "t10k-images-idx3-ubyte",
            "9fb629c4189551a2d022fa330f9573f3",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        _File(
            "t10k-labels-idx1-ubyte",
            "ec29112dd5afa0611ce80d1b7f02629c",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
}
_FASHION: dict[Split, tuple[_File, _File]] = {
    "train": (
        _File("train-images-idx3-ubyte", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", None),
        _File("train-labels-idx1-ubyte", "25c81989df183df01b3e8a0aad5dffbe", None),
    ),
    "test": (
        _File("t10k-images-idx3-ubyte", "bef4ecab320f06d8554ea6380940ec79", None),
        _File("t10k-labels-idx1-ubyte", "bb300cfdad3c16e7a12a480ee83cd310", None),
    ),
}
_SETS = {
    "mnist": (_MNIST, "https://ossci-datasets.s3.amazonaws.com/mnist/"),
    "fashion_mnist": (_FASHION, "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
}


def digits(split: Split = "train") -> LabelledImages:
    """The 1,797 handwritten digits that come with scikit-learn, 8 x 8 pixels of 0 to 16.

    Args:
        split: "test" is every sixth image, 300 of them; "train" is all others.

    Returns:
        The images.

    Raises:
        ValueError: `split` is neither.
        ImportError: scikit-learn is not installed.

    Example:
        >>> from mdnjax import datasets
        >>> datasets.digits("test").images.shape
        (300, 8, 8)
    """
    _check_split("digits", split)
    found = require_extra("sklearn.datasets", "examples").load_digits()
    is_test = np.arange(len(found.target)) % 6 == 0
    chosen = is_test if split == "test" else ~is_test
    return LabelledImages(
        found.images[chosen].astype(np.uint8), found.target[chosen].astype(np.int64)
    )


def mnist(folder: str | os.PathLike[str], split: Split = "train") -> LabelledImages:
    """MNIST from its IDX files: 60,000 or 10,000 handwritten digits, 28 x 28 pixels.

    Args:
        folder: Where the files are, with their own names, with `.gz` or without.
        split: "train" or "test".

    Returns:
        The images, whose checksum is that of the published ones.

    Raises:
        FileNotFoundError: A file is not there; says how to fetch it.
        ValueError: A file is corrupt, or is not the one published; or `split` is neither.
    """
    return _read("mnist", folder, split)


def fashion_mnist(folder: str | os.PathLike[str], split: Split = "train") -> LabelledImages:
    """Fashion-MNIST from its IDX files: as many pieces of clothing, 28 x 28 pixels.

    Args:
        folder: Where the files are, with their own names; as they were published, with `.gz`.
        split: "train" or "test".

    Returns:
        The images, whose checksum is that of the published ones.

    Raises:
        FileNotFoundError: A file is not there; says how to fetch it.
        ValueError: A file is corrupt, or is not the one published; or `split` is neither.
    """
    return _read("fashion_mnist", folder, split)


def download_images(
    name: Literal["mnist", "fashion_mnist"],
    folder: str | os.PathLike[str],
    *,
    url: str | None = None,
) -> pathlib.Path:
    """Fetches MNIST or Fashion-MNIST, 12 or 31 MB; the library does so only when told to here.

    Files that are there already and right are not fetched again.

    Args:
        name: Which.
        folder: Where to put the four files; made if need be.
        url: Where they are; by default a public copy.

    Returns:
        The folder.

    Raises:
        ValueError: `name` is neither, or a checksum is wrong: nothing of that file is left.
        ImportError: Pooch is not installed.
        OSError: No answer, or the folder cannot be written.
    """
    require(name in _SETS, "download_images", "name", repr(name), " or ".join(map(repr, _SETS)))
    pooch = require_extra("pooch", "examples")
    files, default = _SETS[name]
    url = default if url is None else url
    for file in (file for split in files.values() for file in split):
        pooch.retrieve(
            f"{url.rstrip('/')}/{file.name}.gz",
            known_hash=f"md5:{file.md5}",
            fname=f"{file.name}.gz",
            path=folder,
        )
    return pathlib.Path(folder)


def _read(name: str, folder: str | os.PathLike[str], split: Split) -> LabelledImages:
    _check_split(name, split)
    images, labels = (_checked(name, pathlib.Path(folder), file) for file in _SETS[name][0][split])
    return LabelledImages(images, labels.astype(np.int64))


def _checked(name: str, folder: pathlib.Path, file: _File) -> np.ndarray:
    compressed = folder / f"{file.name}.gz"
    path = next((path for path in (compressed, folder / file.name) if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{name}: {compressed} is not there (nor without .gz); "
            f"datasets.download_images({name!r}, {str(folder)!r}) fetches it."
        )
    content = read_content(path)
    array = parse_idx(content, path)
    if file.sha256 is not None:
        is_right = hashlib.sha256(content).hexdigest() == file.sha256
    else:
        is_right = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == file.md5
    if not is_right:
        raise ValueError(f"{path}: its checksum is not that of the file published as {file.name}.")
    return array


def _check_split(function: str, split: str) -> None:
    require(split in ("train", "test"), function, "split", repr(split), "'train' or 'test'")
