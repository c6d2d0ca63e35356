"""Messages as bytes."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedobp_lib.methods.messages import nbytes, pack, unpack

KINDS = [torch.float32, torch.float64, torch.int32, torch.int64, torch.uint8, torch.bool]


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.lists(st.integers(0, 4), max_size=3))))
def test_what_is_packed_comes_out_as_it_was(kinds):
    sent = {
        f"tensor {n}": torch.randint(0, 2, shape).to(kind) for n, (kind, shape) in enumerate(kinds)
    }
    got = unpack(pack(sent))
    assert got.keys() == sent.keys()
    for name, tensor in sent.items():
        assert got[name].dtype == tensor.dtype and torch.equal(got[name], tensor)
    assert nbytes(got) == sum(t.numel() * t.element_size() for t in sent.values())


def test_numbers_keep_their_bits():
    numbers = torch.tensor([-0.0, 1e-45, torch.inf, torch.nan])
    got = unpack(pack({"numbers": numbers}))["numbers"]
    assert torch.equal(got.view(torch.int32), numbers.view(torch.int32))


def saved(write, content):
    file = io.BytesIO()
    write(file, content)
    return file.getvalue()


WHOLE = pack({"model": torch.arange(4.0)})


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\xff",
        WHOLE[:-1],
        WHOLE[:40],
        WHOLE.replace(torch.arange(4.0).numpy().tobytes(), bytes(16)),  # not as it was written
        saved(np.save, np.ones(2)),  # an array, and not a file of arrays
        saved(np.savez, np.array([{}])),  # which has to be executed
        saved(np.savez, np.array(["word"])),  # no tensor
    ],
)
def test_other_bytes_are_no_message(sent):
    with pytest.raises(ValueError, match="it cannot be read"):
        unpack(sent)
