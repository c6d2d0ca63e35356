"""Data sets: official formats served by a local server, and files that cannot be used."""

import errno
import gzip
import hashlib
import io
import pickle
import tarfile
import threading
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torchvision import datasets as official

from fedobp_lib import datasets
from fedobp_lib.errors import UserError
from fedobp_lib.paths import data_dir

RNG = np.random.default_rng(0)
TRAIN, TEST = 12, 5


@pytest.fixture
def server(tmp_path):
    """A folder and the address under which its files are served."""
    folder = tmp_path / "server"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{http.server_port}/"
        http.shutdown()
        thread.join()


def grey(count, classes=10):
    images = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    return images, RNG.integers(0, classes, count)


def idx(array) -> bytes:
    """The IDX format: two zero bytes, type 8 (uint8), dimensions, big-endian sizes, data."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def publish(folder, name, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return hashlib.md5(content).hexdigest()


def assert_pooled(data, images, labels, channels):
    assert data.images.shape[1:] == (*images[0].shape[1:3], channels)
    np.testing.assert_array_equal(data.images.reshape(-1), np.concatenate(images).reshape(-1))
    np.testing.assert_array_equal(data.labels, np.concatenate(labels))
    assert data.is_train.tolist() == [True] * len(images[0]) + [False] * len(images[1])
    assert list(data_dir().iterdir()) == [data_dir() / f"{data.name}.npz"]


@pytest.mark.parametrize(("name", "kind"), [("mnist", "MNIST"), ("fmnist", "FashionMNIST")])
def test_mnist_and_fashion_mnist(server, monkeypatch, name, kind):
    folder, url = server
    parts = [grey(TRAIN), grey(TEST)]
    resources = []
    for prefix, (images, labels) in zip(("train", "t10k"), parts, strict=True):
        for what, array in (("images-idx3", images), ("labels-idx1", labels)):
            file = f"{prefix}-{what}-ubyte.gz"
            resources.append((file, publish(folder, file, gzip.compress(idx(array)))))
    monkeypatch.setattr(getattr(official, kind), "mirrors", [url])
    monkeypatch.setattr(getattr(official, kind), "resources", resources)
    assert_pooled(datasets.load(name), *zip(*parts, strict=True), 1)


def serve_emnist(folder, url, monkeypatch, split, parts):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for part, (images, labels) in zip(("train", "test"), parts, strict=True):
            stored = images.transpose(0, 2, 1)  # NIST stores the images on their side
            for what, array in (("images-idx3", stored), ("labels-idx1", labels)):
                name = f"gzip/emnist-{split}-{part}-{what}-ubyte.gz"
                archive.writestr(name, gzip.compress(idx(array)))
    monkeypatch.setattr(official.EMNIST, "url", url + "gzip.zip")
    monkeypatch.setattr(official.EMNIST, "md5", publish(folder, "gzip.zip", content.getvalue()))


def test_emnist_byclass_stands_upright(server, monkeypatch):
    parts = [grey(TRAIN, 62), grey(TEST, 62)]
    serve_emnist(*server, monkeypatch, "byclass", parts)
    assert_pooled(datasets.load("emnist"), *zip(*parts, strict=True), 1)


def test_emnist_letters_count_from_zero(server, monkeypatch):
    parts = [(images, labels % 26 + 1) for images, labels in (grey(TRAIN), grey(TEST))]
    serve_emnist(*server, monkeypatch, "letters", parts)
    images, labels = zip(*parts, strict=True)
    assert_pooled(datasets.load("emnist_letters"), images, [part - 1 for part in labels], 1)


@pytest.mark.parametrize(
    ("name", "kind", "folder_name", "key", "classes"),
    [
        ("cifar10", "CIFAR10", "cifar-10-batches-py", "labels", 10),
        ("cifar100", "CIFAR100", "cifar-100-python", "fine_labels", 100),
    ],
)
def test_cifar(server, monkeypatch, name, kind, folder_name, key, classes):
    folder, url = server
    parts = [
        (RNG.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), RNG.integers(0, classes, n))
        for n in (TRAIN, TEST)
    ]
    meta = {"label_names": list("ab"), "fine_label_names": list("ab")}
    lists, content = {"train": [], "test": [], "meta": []}, io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:

        def add(where, file, entry):
            data = pickle.dumps(entry)
            info = tarfile.TarInfo(f"{folder_name}/{file}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            lists[where].append([file, hashlib.md5(data).hexdigest()])

        for where, (images, labels) in zip(("train", "test"), parts, strict=True):
            rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
            add(where, f"{where}_part", {"data": rows, key: labels.tolist()})
        add("meta", "meta_part", meta)
    cls = getattr(official, kind)
    monkeypatch.setattr(cls, "url", url + "cifar.tar.gz")
    monkeypatch.setattr(cls, "filename", "cifar.tar.gz")
    monkeypatch.setattr(cls, "tgz_md5", publish(folder, "cifar.tar.gz", content.getvalue()))
    monkeypatch.setattr(cls, "train_list", lists["train"])
    monkeypatch.setattr(cls, "test_list", lists["test"])
    file, md5 = lists["meta"][0]
    names = "label_names" if name == "cifar10" else "fine_label_names"
    monkeypatch.setattr(cls, "meta", {"filename": file, "md5": md5, "key": names})
    assert_pooled(datasets.load(name), *zip(*parts, strict=True), 3)


def test_svhn_digit_ten_is_zero(server, monkeypatch):
    folder, url = server
    parts, split_list = [], {}
    for split, count in (("train", TRAIN), ("test", TEST)):
        images = RNG.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        labels = np.arange(count) % 10
        content = io.BytesIO()
        stored = np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)
        scipy.io.savemat(content, {"X": images.transpose(1, 2, 3, 0), "y": stored})
        file = f"{split}_32x32.mat"
        split_list[split] = [url + file, file, publish(folder, file, content.getvalue())]
        parts.append((images, labels))
    monkeypatch.setattr(official.SVHN, "split_list", split_list)
    assert_pooled(datasets.load("svhn"), *zip(*parts, strict=True), 3)


@pytest.mark.parametrize(
    ("name", "file"), [("medmnistA", "organamnist.npz"), ("medmnistC", "organcmnist.npz")]
)
def test_medmnist_validation_part_counts_as_training(server, monkeypatch, name, file):
    folder, url = server
    parts = {part: grey(n, 11) for part, n in (("train", 8), ("val", 4), ("test", 5))}
    arrays = {f"{p}_images": images for p, (images, _) in parts.items()}
    arrays |= {f"{p}_labels": labels[:, None] for p, (_, labels) in parts.items()}
    content = io.BytesIO()
    np.savez(content, **arrays)
    md5 = publish(folder, file, content.getvalue())
    monkeypatch.setattr(datasets, "MEDMNIST", url.rstrip("/"))
    spec = datasets.DATASETS[name]
    read = datasets._read_medmnist(file, md5)
    monkeypatch.setitem(datasets.DATASETS, name, replace(spec, read=read))
    both = [np.concatenate([parts["train"][k], parts["val"][k]]) for k in (0, 1)]
    assert_pooled(
        datasets.load(name), [both[0], parts["test"][0]], [both[1], parts["test"][1]], 1
    )


def assert_refused(match, name="medmnistA"):
    with pytest.raises(UserError, match=match) as caught:
        datasets.load(name)
    assert "\n" not in str(caught.value)
    assert not data_dir().exists() or not list(data_dir().iterdir())


def test_a_damaged_download_is_thrown_away(server, monkeypatch):
    folder, url = server
    (folder / "organamnist.npz").write_bytes(b"half a file")
    monkeypatch.setattr(datasets, "MEDMNIST", url.rstrip("/"))
    assert_refused("wrong checksum")


def test_no_network_is_named_as_such(monkeypatch):
    monkeypatch.setattr(datasets, "MEDMNIST", "http://127.0.0.1:9")
    assert_refused("cannot be reached; connect to a network")
    monkeypatch.setattr(official.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    assert_refused("cannot be reached; connect to a network", "mnist")


def test_a_missing_file_on_the_server(server, monkeypatch):
    monkeypatch.setattr(datasets, "MEDMNIST", server[1].rstrip("/"))
    assert_refused("answers 404")


def test_a_full_disk_leaves_nothing(monkeypatch):
    def read(folder):
        (folder / "official").write_bytes(b"downloaded")
        raise OSError(errno.ENOSPC, "No space left on device")

    spec = replace(datasets.DATASETS["mnist"], read=read)
    monkeypatch.setitem(datasets.DATASETS, "mnist", spec)
    assert_refused("No space left", "mnist")


def write(name="own", **arrays):
    data_dir().mkdir(parents=True, exist_ok=True)
    images, labels = grey(8)
    content = {"images": images, "labels": labels, "is_train": np.arange(8) < 6} | arrays
    content = {k: v for k, v in content.items() if v is not None}
    np.savez(data_dir() / f"{name}.npz", **content)
    return data_dir() / f"{name}.npz"


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"labels": None}, "lacks 'labels'"),
        ({"images": np.zeros((8, 28, 28))}, "uint8"),
        ({"labels": np.zeros(7, int)}, "labels must be 8"),
        ({"labels": np.full(8, 11)}, r"0\.\.9"),
        ({"is_train": np.zeros(8, int)}, "is_train"),
    ],
)
def test_files_that_are_no_data_sets(arrays, match):
    write("mnist", **arrays)
    with pytest.raises(UserError, match=match) as caught:
        datasets.load("mnist")
    assert "mnist.npz" in str(caught.value) and "\n" not in str(caught.value)


def test_a_truncated_file():
    path = write("mnist")
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(UserError, match=r"mnist.npz cannot be read.*fedobp data fetch mnist"):
        datasets.load("mnist")


def test_unknown_names():
    with pytest.raises(UserError, match="did you mean 'cifar10'"):
        datasets.load("cifar-10")
    with pytest.raises(UserError, match="embedded"):
        datasets.fetch("digits")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(seed=st.integers(0, 999), colour=st.booleans(), count=st.integers(2, 30))
def test_a_file_of_ones_own_is_a_data_set(seed, colour, count):
    rng = np.random.default_rng(seed)
    shape = (count, 20, 17, 3) if colour else (count, 20, 17)
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    labels, is_train = rng.integers(0, 5, count), np.arange(count) % 2 == 0
    write(images=images, labels=labels, is_train=is_train)
    data = datasets.load("own")
    assert data.shape == (20, 17, 3 if colour else 1)
    assert data.classes == labels.max() + 1
    np.testing.assert_array_equal(data.images.reshape(shape), images)
    mean, std = data.normalization("benchmark")
    pixels = data.images[is_train].reshape(-1, data.shape[2]) / 255
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-5)
    np.testing.assert_allclose(std, pixels.std(0), rtol=1e-5)
    first = data.fingerprint
    images.reshape(-1)[0] ^= 1
    write(images=images, labels=labels, is_train=is_train)
    assert datasets.load("own").fingerprint != first


def test_digits_are_embedded():
    data = datasets.load("digits")
    assert data.images.shape == (1797, 28, 28, 1) and data.classes == 10
    assert np.bincount(data.labels).min() > 150 and data.images.max() == 255
    assert data.images.reshape(1797, -1).std(1).min() > 20
    assert not data_dir().exists()


def test_listing_says_what_is_here():
    write("own")
    table = datasets.listing().set_index("name")
    assert table.loc["digits", "here"] == "embedded"
    assert table.loc["mnist", "here"] == "no" and table.loc["own", "here"] == "yes"
    assert table.loc["own", "samples"] == 8
