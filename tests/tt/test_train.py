"""The value object: what it refuses, what it tells, and its views."""

import pytest
import torch
from cases import random_train

from ttvi.tt import TensorTrain, to_dense


def test_describes_itself():
    train = random_train((2, 3, 4), (2, 5), log_scale=1.5)
    assert (train.dim, train.mode_sizes, train.ranks) == (3, (2, 3, 4), (1, 2, 5, 1))
    assert train.num_parameters == 1 * 2 * 2 + 2 * 3 * 5 + 5 * 4 * 1
    assert (train.dtype, train.device.type, train.batch_shape) == (torch.float64, "cpu", torch.Size())
    assert float(train.log_scale) == 1.5
    assert repr(train) == "TensorTrain(mode_sizes=(2, 3, 4), ranks=(1, 2, 5, 1))"


def test_repr_of_long_and_batched_trains():
    train = random_train((2,) * 40, (3,) * 39, batch=(7,))
    assert (
        repr(train)
        == "TensorTrain(mode_sizes=(2, 2, 2, 2, ..., 2, 2, 2), ranks=(1, 3, 3, 3, ..., 3, 3, 1), batch_shape=(7,))"
    )


def test_batch_shapes_broadcast():
    assert TensorTrain([torch.ones(5, 1, 2, 3), torch.ones(3, 2, 1)]).batch_shape == (5,)
    assert TensorTrain([torch.ones(1, 2, 1)], torch.zeros(4)).batch_shape == (4,)


def test_reversed_is_the_transposed_tensor_and_copies_nothing():
    train = random_train((2, 3, 4), (2, 5), log_scale=0.3)
    mirrored = train.reversed()
    torch.testing.assert_close(to_dense(mirrored), to_dense(train).permute(2, 1, 0))
    assert mirrored.cores[0].data_ptr() == train.cores[2].data_ptr()
    torch.testing.assert_close(to_dense(mirrored.reversed()), to_dense(train), rtol=0, atol=0)


def test_to_changes_the_dtype_of_everything():
    train = random_train((2, 3), (2,), log_scale=0.3)
    single = train.to(dtype=torch.float32)
    assert all(core.dtype == torch.float32 for core in single.cores)
    assert single.log_scale.dtype == torch.float32
    assert train.dtype == torch.float64
    torch.testing.assert_close(to_dense(single).double(), to_dense(train), rtol=1e-5, atol=1e-5)


def test_is_immutable():
    train = random_train((2, 3), (2,))
    with pytest.raises(AttributeError):
        train.cores = ()


@pytest.mark.parametrize(
    ("cores", "message"),
    [
        ([], "at least one core"),
        ([torch.ones(2, 3)], "at least one core of shape (r, n, s); got shapes [(2, 3)]"),
        ([torch.ones(2, 3, 1)], "outer ranks 1; got 2 and 1"),
        ([torch.ones(1, 3, 2)], "outer ranks 1; got 1 and 2"),
        ([torch.ones(1, 3, 2), torch.ones(3, 3, 1)], "cores 0 and 1 to share a rank; got 2 and 3"),
        ([torch.ones(1, 3, 2), torch.ones(2, 3, 1, dtype=torch.float64)], "one dtype"),
    ],
)
def test_refuses_what_does_not_chain(cores, message):
    with pytest.raises(ValueError) as caught:
        TensorTrain(cores)
    assert str(caught.value).startswith("TensorTrain: expected")
    assert message in str(caught.value)
