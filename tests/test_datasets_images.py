"""Small images: read from IDX files, right or refused, and downloaded only when told to."""

import gzip
import hashlib
import http.server
import struct
import threading

import numpy as np
import pytest

from mdnjax import datasets
from mdnjax.datasets import images as module


def idx(array, code):
    """An IDX file's bytes, written out by the format's description."""
    header = struct.pack(">BBBB", 0, 0, code, array.ndim)
    sizes = b"".join(struct.pack(">I", size) for size in array.shape)
    return header + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(8, np.uint8), (9, np.int8), (11, np.int16), (12, np.int32), (13, "f4"), (14, "f8")],
)
def test_every_type_is_read_compressed_or_not(tmp_path, code, dtype):
    array = (np.random.default_rng(0).normal(size=(3, 4, 2)) * 50).astype(dtype)
    for name, content in (("plain", idx(array, code)), ("packed", gzip.compress(idx(array, code)))):
        (tmp_path / name).write_bytes(content)
        found = datasets.read_idx(tmp_path / name)
        assert found.dtype == np.dtype(dtype)
        assert found.flags.writeable
        np.testing.assert_array_equal(found, array)
    (tmp_path / "empty").write_bytes(idx(array[:0], code))
    assert datasets.read_idx(tmp_path / "empty").shape == (0, 4, 2)


WHOLE = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4), 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file: it begins with nothing"),
        (b"\0\0\x08", "not an IDX file: it begins with 00 00 08"),
        (b"\x89PNG and more", "not an IDX file: it begins with 89 50 4e 47"),
        (b"\0\0\x0a" + WHOLE[3:], "not an IDX file: it begins with 00 00 0a"),
        (WHOLE[:10], "truncated in its header, after 10 bytes"),
        (WHOLE[:-1], r"23 bytes of data, expected 24 for the shape \(2, 3, 4\)"),
        (WHOLE + b"\0", "25 bytes of data, expected 24"),
        (gzip.compress(WHOLE)[:-9], "truncated or corrupt, gzip says"),
        (gzip.compress(WHOLE)[:-6] + b"abcdef", "truncated or corrupt, gzip says"),
        (b"\x1f\x8b garbage", "truncated or corrupt, gzip says"),
    ],
)
def test_damaged_files_are_named_and_refused(tmp_path, content, message):
    (tmp_path / "some-idx3").write_bytes(content)
    with pytest.raises(ValueError, match=f"some-idx3: .*{message}"):
        datasets.read_idx(tmp_path / "some-idx3")


def test_the_digits_are_all_of_scikit_learns_once():
    train, test = (datasets.digits(split) for split in ("train", "test"))
    assert train.images.shape == (1497, 8, 8)
    assert test.images.shape == (300, 8, 8)
    assert train.images.max() == 16
    counts = np.bincount(np.concatenate([train.labels, test.labels]))
    np.testing.assert_array_equal(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])


def test_mnist_is_mnist(data_dir):
    test = datasets.mnist(data_dir / "mnist", "test")
    assert test.images.shape == (10_000, 28, 28)
    # Published counts of the test set's digits.
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_array_equal(np.bincount(test.labels), counts)


@pytest.fixture
def published(monkeypatch):
    """Four small files, as if they were the published ones: their bytes by name."""
    rng, files = np.random.default_rng(0), {}
    table = {}
    for split, begin in (("train", "train"), ("test", "t10k")):
        entries = []
        for kind, array in (
            ("images-idx3", rng.integers(0, 256, (5, 28, 28)).astype(np.uint8)),
            ("labels-idx1", rng.integers(0, 10, 5).astype(np.uint8)),
        ):
            name, content = f"{begin}-{kind}-ubyte", idx(array, 8)
            files[f"{name}.gz"] = gzip.compress(content, mtime=0)
            md5 = hashlib.md5(files[f"{name}.gz"], usedforsecurity=False).hexdigest()
            entries.append(module._File(name, md5, hashlib.sha256(content).hexdigest()))
        table[split] = tuple(entries)
    without = {
        split: tuple(e._replace(sha256=None) for e in files) for split, files in table.items()
    }
    monkeypatch.setitem(module._SETS, "mnist", (table, "http://nowhere.invalid/"))
    monkeypatch.setitem(module._SETS, "fashion_mnist", (without, "http://nowhere.invalid/"))
    return files


READERS = (datasets.mnist, datasets.fashion_mnist)


@pytest.mark.parametrize("read", READERS)
def test_files_that_are_right_are_read_and_others_named(tmp_path, published, read):
    with pytest.raises(FileNotFoundError, match=r"train-images.*\.gz is not there.*download_im"):
        read(tmp_path)
    for name, content in published.items():
        (tmp_path / name).write_bytes(content)
    found = read(tmp_path, "test")
    assert found.images.shape == (5, 28, 28)
    assert found.labels.shape == (5,)
    other = bytearray(gzip.decompress(published["t10k-images-idx3-ubyte.gz"]))
    other[-1] ^= 1
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(other))
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz: its checksum is not that"):
        read(tmp_path, "test")


def test_a_file_without_its_compression_will_do(tmp_path, published):
    for name, content in published.items():
        (tmp_path / name.removesuffix(".gz")).write_bytes(gzip.decompress(content))
    assert datasets.mnist(tmp_path).images.shape == (5, 28, 28)


@pytest.fixture
def server(published):
    """A server of the files on this machine: its address, and what was asked of it."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.rpartition("/")[2]
            asked.append(name)
            self.send_response(200)
            self.send_header("Content-Length", str(len(published[name])))
            self.end_headers()
            self.wfile.write(published[name])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}", asked
        listening.shutdown()
        thread.join()


@pytest.mark.filterwarnings("default::ResourceWarning")  # of requests' pool of connections
def test_a_download_fetches_what_is_missing_and_refuses_what_is_wrong(tmp_path, published, server):
    url, asked = server
    assert datasets.download_images("mnist", tmp_path / "new", url=url) == tmp_path / "new"
    assert sorted(asked) == sorted(published)
    assert datasets.mnist(tmp_path / "new").images.shape == (5, 28, 28)
    datasets.download_images("mnist", tmp_path / "new", url=url)
    assert len(asked) == 4  # nothing again
    published["train-images-idx3-ubyte.gz"] = b"something else"
    with pytest.raises(ValueError, match="hash"):
        datasets.download_images("mnist", tmp_path / "other", url=url)
    assert not list((tmp_path / "other").glob("*"))


def test_names_that_are_none(without_jaxtyping, tmp_path):
    with pytest.raises(ValueError, match=r"mnist: split must be 'train' or 'test', got 'valid'"):
        datasets.mnist(tmp_path, "valid")
    with pytest.raises(ValueError, match="name must be 'mnist' or 'fashion_mnist', got 'cifar'"):
        datasets.download_images("cifar", tmp_path)
