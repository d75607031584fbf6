"""Records: a toy tree of every shape, densities bit for bit, and directories that survive interrupted writes."""

from __future__ import annotations

import json
import math

import pytest
import torch

from ttvi import records
from ttvi.records import from_json, load_record, pack, register, save_record, to_json, unpack
from ttvi.tt import Fourier, Hermite, Legendre, TTDensity
from ttvi.tt.basis import Categorical
from ttvi.tt.train import TensorTrain


@register("test node")
class Node:
    """A tree: a number, a tensor, one child or none, and a list of children."""

    def __init__(self, number, tensor, child=None, parts=()):
        self.number, self.tensor, self.child, self.parts = number, tensor, child, list(parts)

    def _to_record(self):
        return {"number": self.number}, {"tensor": self.tensor}, {"child": self.child, "parts": self.parts}

    @classmethod
    def _from_record(cls, spec, tensors, children):
        return cls(spec["number"], tensors["tensor"], children["child"], children["parts"])


def same(a, b):
    if a is None or b is None:
        return a is b
    numbers = a.number == b.number or (math.isnan(a.number) and math.isnan(b.number))
    parts = len(a.parts) == len(b.parts) and all(same(x, y) for x, y in zip(a.parts, b.parts))
    return numbers and torch.equal(a.tensor, b.tensor) and same(a.child, b.child) and parts


@pytest.fixture
def tree():
    leaf = Node(math.inf, torch.arange(3))
    return Node(1, torch.ones(2), Node(math.nan, torch.zeros(0)), [leaf, Node(-math.inf, torch.eye(2), leaf, [leaf])])


def density(generator, bases=None, batch=()):
    bases = bases or [Legendre(-1.0, 2.0, size=4), Fourier(0.0, 1.0, size=5), Categorical(3), Hermite(size=3)]
    ranks = [1, *[3] * (len(bases) - 1), 1]
    cores = [
        torch.randn(*batch, r, basis.size, s, dtype=torch.float64, generator=generator)
        for r, basis, s in zip(ranks, bases, ranks[1:])
    ]
    return TTDensity(TensorTrain(cores, 1.5), bases, defensive=1e-3)


def test_a_tree_comes_back(tree):
    spec, tensors = pack(tree)
    assert set(tensors) == {
        "tensor", "child/tensor", "parts/0/tensor", "parts/1/tensor", "parts/1/child/tensor", "parts/1/parts/0/tensor",
    }  # fmt: skip
    text = json.dumps(to_json(spec), allow_nan=False)
    assert same(unpack(from_json(json.loads(text)), tensors), tree)


@pytest.mark.parametrize("form", ["plain", "batched", "marginal", "conditional", "conditionals"])
def test_densities_are_equal(form, tmp_path):
    """Bit for bit, but where saving changes the layout of a tensor in memory and with it the order of a sum."""
    generator = torch.Generator().manual_seed(0)
    made = density(generator, batch=(2, 3) if form == "batched" else ())
    if form == "marginal":
        made = made.marginal([1, 3])
    if form.startswith("conditional"):
        made = made.condition({0: 0.3 if form == "conditional" else torch.tensor([0.3, 0.5])})
    save_record(made, tmp_path / "a" / "b")
    loaded = load_record(tmp_path / "a" / "b", kind="TTDensity")
    x = made.sample((7,), generator=generator)
    assert loaded.batch_shape == made.batch_shape
    if form in ("plain", "batched"):
        assert torch.equal(loaded.log_prob(x), made.log_prob(x))
    torch.testing.assert_close(loaded.log_prob(x), made.log_prob(x), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(loaded.log_evidence, made.log_evidence, rtol=1e-13, atol=1e-13)


def test_other_dtype(tmp_path):
    made = density(torch.Generator().manual_seed(0))
    save_record(Node(1, torch.arange(3), child=None, parts=[]), tmp_path / "node")
    save_record(made, tmp_path / "density")
    assert load_record(tmp_path / "density", dtype=torch.float32).dtype == torch.float32
    assert load_record(tmp_path / "node", dtype=torch.float32).tensor.dtype == torch.int64  # indices stay indices


def test_saving_again_replaces_and_leaves_other_files_alone(tree, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    save_record(tree, tmp_path)
    save_record(Node(2, torch.ones(1)), tmp_path)
    assert load_record(tmp_path).number == 2
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 3
    assert {"notes.txt", "record.json"} < set(names)


@pytest.mark.parametrize("broken", ["save_tensors", "os.replace"])
def test_an_interrupted_save_leaves_the_old_object(tree, tmp_path, monkeypatch, broken):
    save_record(tree, tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(records.os if broken == "os.replace" else records, broken.rpartition(".")[2], interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_record(Node(2, torch.ones(1)), tmp_path)
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert same(load_record(tmp_path), tree)


def edit(path, **changes):
    file = path / "record.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_errors_of_files(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is none. Check the path"):
        load_record(tmp_path)
    save_record(tree, tmp_path)
    with pytest.raises(ValueError, match="expected a saved TTDensity in .*; got a test node"):
        load_record(tmp_path, kind="TTDensity")
    edit(tmp_path, tensors="../other.safetensors")
    with pytest.raises(ValueError, match="expected a record"):
        load_record(tmp_path)
    edit(tmp_path, schema=99)
    with pytest.raises(ValueError, match="expected schema 1 or older; got 99. Upgrade ttvi"):
        load_record(tmp_path)
    for text in ("{", "[]", "{}"):
        (tmp_path / "record.json").write_text(text)
        with pytest.raises(ValueError, match="expected JSON in .*Was the copy complete"):
            load_record(tmp_path)
    save_record(tree, tmp_path)  # over a damaged record
    next(tmp_path.glob("*.safetensors")).write_bytes(b"nothing")
    save_record(tree, tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="expected a directory; got the file"):
        save_record(tree, tmp_path / "file")


def test_errors_of_classes(tree):
    class Unknown(Node):
        """A subclass holds more than its parent writes, so that it needs a name of its own."""

    with pytest.raises(TypeError, match="got Unknown.*decorate it"):
        pack(Unknown(1, torch.ones(1)))
    with pytest.raises(TypeError, match="got int"):
        pack(Node(1, torch.ones(1), parts=[3]))
    with pytest.raises(ValueError, match="'test node', which Node has"):
        register("test node")(Unknown)
    with pytest.raises(TypeError, match="expected a class with `_to_record`"):
        register("nothing")(int)
    with pytest.raises(ValueError, match="got 'new class'. Import the module"):
        unpack({"kind": "new class", "spec": {}, "children": {}}, {})
    spec, tensors = pack(tree)
    del tensors["child/tensor"]
    with pytest.raises(ValueError, match="without 'tensor'"):
        unpack(spec, tensors)
