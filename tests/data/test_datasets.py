"""Data sets: official formats served by a local server, and files that cannot be used."""

import errno
import gzip
import hashlib
import io
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import sklearn.datasets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torchvision import datasets as official

from fedobp_lib.data import datasets, download
from fedobp_lib.data import official as readers
from fedobp_lib.data.registry import DATASETS
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
    serve_mnist(*server, monkeypatch, kind, parts := [grey(TRAIN), grey(TEST)])
    assert_pooled(datasets.load(name), *zip(*parts, strict=True), 1)


def serve_mnist(folder, url, monkeypatch, kind, parts):
    resources = []
    for prefix, (images, labels) in zip(("train", "t10k"), parts, strict=True):
        for what, array in (("images-idx3", images), ("labels-idx1", labels)):
            file = f"{prefix}-{what}-ubyte.gz"
            resources.append((file, publish(folder, file, gzip.compress(idx(array)))))
    monkeypatch.setattr(getattr(official, kind), "mirrors", [url])
    monkeypatch.setattr(getattr(official, kind), "resources", resources)


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
    monkeypatch.setattr(readers, "MEDMNIST", url.rstrip("/"))
    spec = DATASETS[name]
    read = readers.medmnist(file, md5)
    monkeypatch.setitem(DATASETS, name, replace(spec, read=read))
    both = [np.concatenate([parts["train"][k], parts["val"][k]]) for k in (0, 1)]
    assert_pooled(datasets.load(name), [both[0], parts["test"][0]], [both[1], parts["test"][1]], 1)


def assert_refused(match, name="medmnistA"):
    with pytest.raises(UserError, match=match) as caught:
        datasets.load(name)
    assert "\n" not in str(caught.value)
    assert not data_dir().exists() or not list(data_dir().iterdir())


def test_a_damaged_download_is_thrown_away(server, monkeypatch):
    folder, url = server
    (folder / "organamnist.npz").write_bytes(b"half a file")
    monkeypatch.setattr(readers, "MEDMNIST", url.rstrip("/"))
    assert_refused("wrong checksum")
    serve_mnist(folder, url, monkeypatch, "MNIST", [grey(TRAIN), grey(TEST)])
    file = folder / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-100])
    assert_refused("wrong checksum", "mnist")


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nhalf", "wrong checksum"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz", "cannot be reached"),
        (b"no HTTP at all\r\n\r\n", "cannot be reached"),
        (b"", "cannot be reached"),
        (None, "cannot be reached"),
    ],
    ids=["cut off", "broken off", "not HTTP", "hung up", "silent"],
)
def test_a_server_that_fails_half_way(monkeypatch, answer, match):
    monkeypatch.setattr(download, "TIMEOUT", 0.3 if answer is None else 60)
    done = threading.Event()

    def serve():
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                client.recv(4096)
                if answer is None:
                    done.wait(120)
                else:
                    client.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setattr(readers, "MEDMNIST", f"http://127.0.0.1:{port}")
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        started = time.monotonic()
        assert_refused(match)
        assert time.monotonic() - started < 60
        assert socket.getdefaulttimeout() is None
        done.set()
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def test_no_network_is_named_as_such(monkeypatch):
    monkeypatch.setattr(readers, "MEDMNIST", "http://127.0.0.1:9")
    assert_refused("cannot be reached; connect to a network")
    monkeypatch.setattr(official.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    assert_refused("cannot be reached; connect to a network", "mnist")


def test_a_missing_file_on_the_server(server, monkeypatch):
    monkeypatch.setattr(readers, "MEDMNIST", server[1].rstrip("/"))
    assert_refused("answers 404")


def register(monkeypatch, read, name="mnist"):
    spec = replace(DATASETS[name], read=read)
    monkeypatch.setitem(DATASETS, name, spec)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_leaves_nothing(monkeypatch, number):
    def read(folder):
        (folder / "official").write_bytes(b"downloaded")
        raise OSError(number, os.strerror(number))

    register(monkeypatch, read)
    assert_refused(f"cannot write .*mnist.npz: {os.strerror(number)}; make room", "mnist")


def test_no_route_is_no_full_disk(monkeypatch):
    def read(folder):
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    register(monkeypatch, read)
    assert_refused("connect to a network", "mnist")


@pytest.mark.parametrize("where", ["os.replace", "numpy.savez"])
@pytest.mark.parametrize(
    ("error", "raised"),
    [(OSError(errno.ENOSPC, "No space left"), UserError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_an_interrupted_write_leaves_the_old_file(monkeypatch, where, error, raised):
    path = write("mnist")
    before = path.read_bytes()
    register(monkeypatch, lambda folder: (*grey(9), np.ones(9, bool)))

    def fail(target, *_, **__):
        Path(target).write_bytes(b"half")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(where, fail)
        with pytest.raises(raised):
            download.fetch("mnist", force=True)
    assert path.read_bytes() == before
    assert list(data_dir().iterdir()) == [path]
    download.fetch("mnist", force=True)
    assert len(datasets.load("mnist")) == 9


def test_fetch_downloads_once_and_is_silent_on_standard_output(monkeypatch, capsys):
    def read(folder):
        print("Downloading")
        return *grey(9), np.ones(9, bool)

    register(monkeypatch, read)
    path = download.fetch("mnist")
    assert path == data_dir() / "mnist.npz"
    assert capsys.readouterr() == ("", "Downloading\n")
    assert download.fetch("mnist") == path
    assert capsys.readouterr() == ("", "")
    download.fetch("mnist", force=True)
    assert capsys.readouterr().err == "Downloading\n"


def test_a_missing_file_is_not_fetched_unasked(monkeypatch):
    register(monkeypatch, lambda folder: pytest.fail("fetched"))
    with pytest.raises(UserError, match="run `fedobp data fetch mnist`"):
        datasets.load("mnist", fetch_missing=False)


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
        ({"images": np.zeros((8, 784), np.uint8)}, "uint8"),
        ({"images": np.zeros((8, 32, 32, 3), np.uint8)}, r"\(N, 28, 28, 1\)"),
        ({"images": np.array([None] * 8)}, "cannot be read"),
        ({"labels": np.zeros(7, int)}, "labels must be 8"),
        ({"labels": np.full(8, np.nan)}, "labels must be 8 integers"),
        ({"labels": np.full(8, 11)}, r"0\.\.9"),
        ({"labels": np.full(8, -1)}, r"0\.\.9"),
        ({"is_train": np.zeros(8, int)}, "is_train"),
        ({"is_train": np.ones(9, bool)}, "is_train"),
        ({"is_train": np.zeros(8, bool)}, "no training images"),
    ],
)
def test_files_that_are_no_data_sets(arrays, match):
    write("mnist", **arrays)
    with pytest.raises(UserError, match=match) as caught:
        datasets.load("mnist")
    assert "mnist.npz" in str(caught.value)
    assert "delete it and run `fedobp data fetch mnist`" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [slice(-3000), slice(0), slice(3000, None), slice(60)])
def test_a_file_cut_short(kept):
    path = write("mnist")
    path.write_bytes(path.read_bytes()[kept])
    with pytest.raises(UserError, match=r"mnist.npz cannot be read.*fedobp data fetch mnist"):
        datasets.load("mnist")
    assert datasets.listing().set_index("name").loc["mnist", "here"] == "unreadable"


def test_a_label_far_from_the_others_is_refused():
    """A classifier of five million rows, for two classes, would take all memory."""
    for top in (5_000_000, np.iinfo(np.uint64).max):
        write("own", labels=np.array([0] * 7 + [top], dtype=np.uint64))
        with pytest.raises(UserError, match=rf"own.npz: labels must count from 0.* is {top};"):
            datasets.load("own")
    write("own", labels=np.array([0] * 7 + [999]))  # some classes may lack images
    assert datasets.load("own").classes == 1000


def test_unknown_names():
    with pytest.raises(UserError, match="did you mean 'cifar10'"):
        datasets.load("cifar-10")
    with pytest.raises(UserError, match="unknown data set"):
        datasets.load("")
    path = write()
    with pytest.raises(UserError, match="unknown data set"):
        datasets.load(f"../{path.parent.name}/own")
    with pytest.raises(UserError, match="did you mean 'mnist'"):
        download.fetch("mnits")
    with pytest.raises(UserError, match="embedded"):
        download.fetch("digits")


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
    assert data.images.shape == (1797, 28, 28, 1)
    assert len(data) == 1797
    assert np.array_equal(np.unique(data.labels), np.arange(data.classes))
    assert data.classes == 10
    assert data.images.max() == 255
    assert data.images.reshape(1797, -1).std(1).min() > 20
    assert data.is_train.tolist() == [True] * 1438 + [False] * 359
    assert data.fingerprint == datasets.load("digits").fingerprint
    assert not data_dir().exists()
    # The images are those of scikit-learn, enlarged threefold inside a border.
    small = sklearn.datasets.load_digits().images
    shrunk = data.images[:, 2:-2, 2:-2, 0].reshape(-1, 8, 3, 8, 3)[:, :, 1, :, 1]
    np.testing.assert_array_equal(shrunk, np.round(small * (255 / 16)))


def test_benchmark_constants_and_measured_ones():
    write("mnist")
    write("medmnistA")
    data = datasets.load("mnist")
    assert data.normalization("benchmark") == (np.float32(0.1307), np.float32(0.3015))
    mean, std = data.normalization("data")
    np.testing.assert_allclose(mean, (data.images[:6] / 255).mean(), rtol=1e-5)
    np.testing.assert_allclose(std, (data.images[:6] / 255).std(), rtol=1e-5)
    organs = datasets.load("medmnistA").normalization("benchmark")
    assert organs == (np.float32(118.7546), np.float32(62.3489))
    with pytest.raises(UserError, match="did you mean 'benchmark'"):
        data.normalization("benchmrk")
    for spec in DATASETS.values():
        for numbers in (spec.mean, spec.std):
            assert numbers is None or len(numbers) == spec.shape[2]


def test_measured_constants_of_many_and_of_constant_images():
    images = RNG.integers(0, 256, (9001, 2, 2, 3), dtype=np.uint8)
    images[..., 1] = 51
    write(images=images, labels=np.zeros(9001, int), is_train=np.arange(9001) < 9000)
    mean, std = datasets.load("own").normalization("data")
    assert mean.dtype == std.dtype == np.float32
    pixels = images[:9000].reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-5)
    np.testing.assert_allclose(std[[0, 2]], pixels.std(0)[[0, 2]], rtol=1e-5)
    assert std[1] == 1


def test_listing_says_what_is_here(monkeypatch):
    write("own")
    np.savez(data_dir() / "other.npz", images=np.zeros((5, 3)))
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("the arrays were read"))
    table = datasets.listing().set_index("name")
    here = {"digits": "embedded", "mnist": "no", "own": "yes", "other": "unreadable"}
    assert table.loc[list(here), "here"].to_dict() == here
    assert table.loc["own", "samples"] == 8
    assert table.loc["digits", "samples"] == 1797
    assert table.loc[["mnist", "other"], "samples"].isna().all()
    assert table.loc["emnist", "note"] == "upright"
    assert table.loc["cifar10", ["classes", "size"]].tolist() == [10, "32x32"]
    assert set(DATASETS) < set(table.index)


def test_importing_loads_no_torchvision():
    code = (
        "import sys, fedobp_lib.data.datasets; print({'torchvision', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
