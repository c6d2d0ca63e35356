"""ResNet-18 in whole rounds: running statistics travel and are averaged, but never personal."""

from urllib.error import URLError

import pytest
import torch
from helpers.literal import tiny_images
from torchvision.models import ResNet18_Weights, resnet18

from fedobp_lib.cli import main
from fedobp_lib.config import RunConfig
from fedobp_lib.errors import UserError
from fedobp_lib.models.networks import build_model
from fedobp_lib.paths import runs_dir
from fedobp_lib.simulation import simulate

SMALL = {
    "model": "resnet18", "clients": 2, "participation": 1.0, "rounds": 2, "local_epochs": 1,
    "batch_size": 32, "eval_every": 2, "eval_after": "never",
    "settings": {"quantile": 0.999},
}  # fmt: skip


@pytest.fixture(scope="module")
def played():
    """A simulation after a round, and what its two clients uploaded."""
    simulation = simulate(RunConfig(**SMALL), tiny_images(), backend="loop")
    uploads, finish = {}, simulation.method.finish

    def keep(clients, start, trained):
        uploads.update(zip(clients.tolist(), trained.clone(), strict=True))
        finish(clients, start, trained)

    simulation.method.finish = keep
    simulation.step()
    return simulation, uploads


@pytest.mark.parametrize("backend", ["loop", "batched"])
def test_batches_of_one_are_refused(backend):
    """Batch normalization divides by a deviation, and one sample has none."""
    with pytest.raises(UserError, match="batch_size must be at least 2 for 'resnet18'"):
        simulate(RunConfig(**(SMALL | {"batch_size": 1})), tiny_images(), backend=backend)


@pytest.mark.parametrize("shape", [(32, 32, 2), (32, 32, 4), (1, 28, 28)])
def test_images_of_other_channels_are_refused(shape):
    with pytest.raises(UserError, match=f"1 or 3 channels, got {shape[2]}"):
        build_model("resnet18", shape, 10, 0)


def test_the_server_averages_running_statistics_like_parameters(played):
    """Against modules that hold the uploads, weighted by hand."""
    simulation, uploads = played
    sizes = {c: len(simulation.data.partition.train(c)) for c in uploads}
    expected = {}
    for client, row in uploads.items():
        module = build_model("resnet18", (16, 16, 1), 3, seed=0)
        simulation.layout.bind(module, row.clone())
        for name, tensor in module.state_dict().items():
            share = sizes[client] / sum(sizes.values())
            expected[name] = expected.get(name, 0) + share * tensor.double()
    server = simulation.layout.views(simulation.method.global_params)
    running = [name for name in server if "running" in name]
    assert len(running) == 2 * 20 and sizes[0] != sizes[1]
    for name, tensor in server.items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-4, atol=1e-6)
    first = {c: simulation.layout.views(row)["bn1.running_var"] for c, row in uploads.items()}
    assert not torch.allclose(first[0], first[1])


def test_running_statistics_are_neither_scored_nor_personal(played):
    """However far a client's statistics are from the server's, it takes the server's."""
    simulation, _ = played
    method, size = simulation.method, simulation.layout.parameters
    clients = torch.tensor([0, 1])
    local = method.state["local"]
    before, mask = method.start(clients)
    kept = local.clone()
    try:
        local[:, size:] += 1e6
        after, same = method.start(clients)
    finally:
        local.copy_(kept)
    assert mask.shape == (2, size) and torch.equal(mask, same) and torch.equal(before, after)
    assert torch.equal(before[:, size:], method.global_params[size:].expand(2, -1))
    # A thousandth of the parameters, ties aside; of all columns it would be nine more.
    assert (mask.sum(1) - size / 1000).abs().max() < 3


def test_only_parameters_are_counted(played):
    simulation, _ = played
    layers = simulation.layers_frame()
    assert layers.groupby("round")["parameters"].sum().eq(simulation.layout.parameters).all()
    assert list(layers["layer"].unique()) == [
        "conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "classifier",
    ]  # fmt: skip


@pytest.fixture
def weights_file(tmp_path, monkeypatch):
    """Where torchvision looks for the ImageNet weights; no network."""

    def refuse(*args, **kwargs):
        raise URLError("Network is unreachable")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder / ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1]


def test_pretrained_weights_are_those_of_the_file(weights_file):
    """All but the classifier, whatever the seed; without `pretrained` none of them."""
    torch.manual_seed(11)
    given = resnet18().state_dict()
    torch.save(given, weights_file)
    models = [build_model("resnet18", (28, 28, 1), 3, seed, pretrained=True) for seed in (1, 2)]
    for model in models:
        state = model.state_dict()
        shared = [name for name in given if not name.startswith("fc.")]
        assert set(state) == {*shared, "classifier.weight", "classifier.bias"}
        assert all(torch.equal(state[name], given[name]) for name in shared)
    assert not torch.equal(models[0].classifier.weight, models[1].classifier.weight)
    plain = build_model("resnet18", (28, 28, 1), 3, seed=1)
    assert not torch.equal(plain.conv1.weight, given["conv1.weight"])


@pytest.mark.parametrize("damaged", [False, True], ids=["no network", "torn file"])
def test_weights_that_cannot_be_had_are_one_line(weights_file, capsys, damaged):
    if damaged:
        torch.save(resnet18().state_dict(), weights_file)
        weights_file.write_bytes(weights_file.read_bytes()[:100_000])
    assert main(["run", "--model", "resnet18", "--pretrained", "--rounds", "1"]) == 2
    out, err = capsys.readouterr()
    told = [line for line in err.splitlines() if not line.startswith("Downloading")]
    assert out == "" and len(told) == 1 and told[0].startswith("fedobp: the ImageNet weights")
    assert "without pretrained" in told[0] and not runs_dir().exists()
