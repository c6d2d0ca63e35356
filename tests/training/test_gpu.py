"""What is set before a GPU computes, and what is said where it cannot. No GPU is needed."""

import weakref
from types import SimpleNamespace

import pytest
import torch

from fedobp_lib import RunConfig, UserError, run
from fedobp_lib.config import ResolvedConfig
from fedobp_lib.training import backends, gpu
from fedobp_lib.training.precision import best_precision

GPU = torch.device("cuda")


def allowed():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture
def switches():
    """PyTorch's switches are as they were when the test is over."""
    before = allowed()
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("backend", ["loop", "batched"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_tf32_only_where_it_was_asked_for(switches, monkeypatch, backend, precision):
    torch.backends.cudnn.allow_tf32 = True  # PyTorch's default
    found = []
    for name in ("LoopBackend", "BatchedBackend"):
        monkeypatch.setattr(backends, name, lambda *_: found.append(allowed()))
    backends.make_backend(backend, None, None, GPU, precision)
    assert found == [(precision == "tf32",) * 2]


@pytest.fixture
def triton():
    """PyTorch's switch for kernels that Triton compiles."""
    native = pytest.importorskip("torch.backends.python_native")
    if "bmm" not in native.get_dsl_operations("triton"):
        pytest.skip("this PyTorch does not send products to Triton")
    yield native.triton
    native.triton.enabled = True


def products_on_a_gpu():
    """Which code PyTorch calls for a batched product on a GPU."""
    lines = torch._C._dispatch_dump("aten::bmm").splitlines()
    [line] = [line for line in lines if line.startswith("CUDA:")]
    return line


@pytest.mark.parametrize("lacks", ["compiler", "headers", None])
def test_products_are_not_sent_to_triton_where_it_cannot_compile(
    switches, triton, monkeypatch, tmp_path, lacks
):
    (tmp_path / "Python.h").touch()
    headers = tmp_path / "nowhere" if lacks == "headers" else tmp_path
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(
        gpu.shutil, "which", lambda name: None if lacks == "compiler" else f"/bin/{name}"
    )
    monkeypatch.setattr(gpu.sysconfig, "get_config_var", lambda name: str(headers))
    assert "_native" in products_on_a_gpu() and triton.enabled
    gpu.prepare(torch.device("cpu"), "fp32")
    assert triton.enabled
    gpu.prepare(GPU, "fp32")
    assert triton.enabled == ("_native" in products_on_a_gpu()) == (lacks is None)


@pytest.fixture
def broken(monkeypatch):
    """A driver is there and PyTorch is made for CUDA, but the two do not fit."""

    def init():
        raise RuntimeError("The driver is too old (found version 11040).\nMore of it.")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(gpu, "_driver_is_there", lambda: True)
    gpu.warn_if_unusable.cache_clear()
    yield monkeypatch
    gpu.warn_if_unusable.cache_clear()


def test_a_gpu_that_cannot_be_used_is_told_once_with_the_reason(broken, capsys):
    assert backends.choose_device("auto").type == backends.choose_device().type == "cpu"
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "too old (found version 11040)" in err


@pytest.mark.parametrize("case", ["no driver", "made for CPUs", "works", "CPU asked for"])
def test_nothing_is_told_where_nothing_is_wrong(broken, capsys, case):
    if case == "no driver":
        broken.setattr(gpu, "_driver_is_there", lambda: False)
    elif case == "made for CPUs":
        broken.setattr(torch.version, "cuda", None)
    elif case == "works":
        broken.setattr(torch.cuda, "is_available", lambda: True)
    backends.choose_device("cpu" if case == "CPU asked for" else "auto")
    assert capsys.readouterr().err == ""


TINY = {"clients": 6, "participation": 0.5, "rounds": 1, "local_epochs": 1}


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_the_precision_that_the_cpu_has(monkeypatch, native, precision):
    """In the run's configuration and its id, so that another machine's runs are not taken."""
    monkeypatch.setattr("fedobp_lib.training.precision.bf16_is_native", lambda: native)
    result = run(RunConfig(**TINY, precision="auto"), device="cpu")
    assert result.config.precision == precision
    assert result.run_id == run(RunConfig(**TINY, precision=precision)).run_id
    assert RunConfig().resolved().precision == "fp32"


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp32"), ((8, 0), "bf16")])
def test_auto_is_the_precision_that_the_gpu_has(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert best_precision(GPU) == precision
    monkeypatch.setattr("fedobp_lib.config.choose_device", lambda name: torch.device(name))
    config = RunConfig(precision="auto").resolved("cuda")
    assert isinstance(config, ResolvedConfig) and config.precision == precision


def test_a_resolved_precision_is_never_auto():
    with pytest.raises(UserError, match="did you mean 'auto'"):
        RunConfig(precision="aut").resolved()


def test_a_runs_memory_is_given_back_when_it_is_over(monkeypatch):
    seen, alive = [], []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: seen.append("emptied"))
    gpu.release(torch.device("cpu"))
    gpu.release(GPU)
    assert seen == ["emptied"]

    def release(device):
        gpu.gc.collect()
        alive.append([ref() is not None for ref in seen])

    monkeypatch.setattr("fedobp_lib.runs.execution.release", release)
    seen.clear()
    run(RunConfig(**TINY), on_round=lambda simulation: seen.append(weakref.ref(simulation)))
    assert alive == [[False]]


def test_linear_algebra_is_loaded_before_threads_ask_for_it(monkeypatch):
    asked = []
    linalg = SimpleNamespace(inv=lambda tensor: asked.append(tensor))
    monkeypatch.setattr(gpu.torch, "linalg", linalg)
    monkeypatch.setattr(gpu.torch, "ones", lambda *_, device: device)
    gpu.load_linear_algebra(torch.device("cpu"))
    assert not asked
    gpu.load_linear_algebra(GPU)
    assert asked == [GPU]
