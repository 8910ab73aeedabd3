"""Removing channels in the middle of a training."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from torch import nn

from thunderstone import ArgumentError, UnsupportedSettingError
from thunderstone_pruning import FixedStructure, StructuredPruning, load_structure

PROGRAM = Path(__file__).with_name("structured_networks.py")


def by_hand(module, data, at: int, penalty: float = 0.0, dtype=torch.float64) -> dict[str, torch.Tensor]:
    """Twelve updates of SGD with momentum 0.9 on the perceptron, whose hidden layer is halved after `at` of them."""
    w1, b1, w2, b2 = (p.detach().clone() for p in module.parameters())
    slots = [torch.zeros_like(w) for w in (w1, b1, w2, b2)]
    x, y = data.tensors
    for update in range(7):
        if update == at:
            sums = w1.abs().sum(dim=1).tolist()
            keep = sorted(sorted(range(6), key=lambda row: -sums[row])[:3])
            w1, b1, w2 = w1[keep], b1[keep], w2[:, keep]
            slots = [slots[0][keep], slots[1][keep], slots[2][:, keep], slots[3]]
        if update == 6:
            break
        rows = slice(8 * (update % 3), 8 * (update % 3 + 1))
        leaves = [w.clone().requires_grad_() for w in (w1, b1, w2, b2)]
        logits = torch.tanh(x[rows] @ leaves[0].T + leaves[1]) @ leaves[2].T + leaves[3]
        gradients = torch.autograd.grad(nn.functional.cross_entropy(logits, y[rows]), leaves)
        slots = [0.9 * slot + gradient for slot, gradient in zip(slots, gradients, strict=True)]
        w1, b1, w2, b2 = (w - 0.2 * s for w, s in zip((w1, b1, w2, b2), slots, strict=True))
    return {"net.0.weight": w1, "net.0.bias": b1, "net.2.weight": w2, "net.2.bias": b2}


@pytest.mark.parametrize("start", [0, 2, 3, 6])
def test_weights_and_momentum_go_on_as_by_hand(classifier, fit, dataset, start, tmp_path) -> None:
    module = classifier(dtype=torch.float64)
    data = dataset(torch.float64)
    expected = by_hand(module, data, start)
    fit(module, StructuredPruning(0.5, start=start), data=data, default_root_dir=tmp_path)
    found = {name: parameter.detach() for name, parameter in module.named_parameters()}
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    assert (module.net[0].out_features, module.net[2].in_features) == (3, 3)


def test_the_penalty_is_on_scales_until_channels_go(classifier, fit, tmp_path) -> None:
    module = classifier(noisy=True)
    seen = []

    class Notes(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            seen.append((float(outputs["loss"].detach()), float(pl_module.net[1].weight.detach().abs().sum())))

    def run(**arguments):
        seen.clear()
        torch.manual_seed(1)
        method = StructuredPruning(0.5, structure=None, **arguments)
        fit(copy.deepcopy(module), method, Notes(), default_root_dir=tmp_path, max_epochs=1)
        return list(seen)

    plain, penalised = run(start=2), run(start=2, penalty=0.01)
    assert penalised[0][0] - plain[0][0] == pytest.approx(0.01 * 6, rel=1e-3)
    assert penalised[1][1] < plain[1][1]
    with pytest.raises(ArgumentError, match=r"penalty=0\.1 is not allowed: the module has no batch normalisation"):
        fit(classifier(), StructuredPruning(0.5, start=2, penalty=0.1))


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("saved_at", [1, 4])
def test_a_resumed_run_ends_with_the_same_bits(classifier, fit, tmp_path, saved_at) -> None:
    def run(checkpoint=None):
        torch.manual_seed(3)
        saves = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        method = StructuredPruning(0.5, start=2, structure=None)
        settings = {"enable_checkpointing": True, "ckpt_path": checkpoint, "default_root_dir": tmp_path}
        return fit(classifier(noisy=True), method, saves, **settings)

    whole = run()
    resumed = run(tmp_path / f"step={saved_at}.ckpt")
    assert repr(resumed) == repr(whole)
    assert all(value.equal(resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    assert "on_load_checkpoint" not in vars(resumed)


def test_an_optimizer_with_one_vector_of_all_weights_begins_anew(classifier, fit, tmp_path) -> None:
    module = classifier()
    optimizer = torch.optim.LBFGS(module.parameters(), lr=0.1, max_iter=2)
    module.configure_optimizers = lambda: optimizer
    fit(module, StructuredPruning(0.5, start=4), default_root_dir=tmp_path)
    assert module.net[0].out_features == 3
    directions = optimizer.state[module.net[0].weight]["d"]
    assert directions.numel() == sum(parameter.numel() for parameter in module.parameters())


def test_a_checkpoint_of_it_becomes_a_module(classifier, fit, tmp_path) -> None:
    saves = ModelCheckpoint(tmp_path, filename="last")
    settings = {"enable_checkpointing": True, "default_root_dir": tmp_path}
    trained = fit(classifier(noisy=True), StructuredPruning(0.5), saves, **settings)
    structure, module = load_structure(tmp_path / "last.ckpt"), classifier(noisy=True)
    structure.apply(module)
    module.load_state_dict(structure.weights)
    x = torch.randn(2, 4)
    assert module.eval()(x).equal(trained.eval()(x))


def test_nothing_is_the_plain_run(classifier, fit, tmp_path) -> None:
    plain = fit(classifier())
    found = fit(classifier(), StructuredPruning(0.0), default_root_dir=tmp_path)
    assert all(a.equal(b) for a, b in zip(plain.parameters(), found.parameters(), strict=True))
    assert not list(tmp_path.iterdir())


def test_a_second_fit_does_not_prune_again(classifier, fit, tmp_path) -> None:
    method, module = StructuredPruning(0.5), classifier()
    fit(module, method, default_root_dir=tmp_path)
    fit(module, method, default_root_dir=tmp_path)
    assert module.net[0].out_features == 3
    other = fit(classifier(), method, default_root_dir=tmp_path)
    assert other.net[0].out_features == 3


def test_random_numbers_and_statistics_see_nothing(classifier, fit, tmp_path) -> None:
    """With everything kept but one channel of a layer that dropout does not see, draws are those of the plain run."""
    drawn = []

    class Draws(Callback):
        def on_train_end(self, trainer, pl_module) -> None:
            drawn.append((torch.rand(3), pl_module.net[1].num_batches_tracked.clone()))

    for method in (None, StructuredPruning(0.5, start=6)):
        torch.manual_seed(5)
        fit(classifier(noisy=True), *([method] if method else []), Draws(), default_root_dir=tmp_path)
    assert drawn[0][0].equal(drawn[1][0])
    assert drawn[0][1].equal(drawn[1][1])


@pytest.mark.parametrize("why", ["averages", "manual", "late", "empty"])
def test_what_cannot_work_is_refused(classifier, fit, tmp_path, why) -> None:
    module, beside, method = classifier(), [], StructuredPruning(0.5)
    if why == "averages":
        beside, expected = [StochasticWeightAveraging(0.1)], "cannot run with StochasticWeightAveraging beside it"
    elif why == "manual":
        module.automatic_optimization = False
        expected = "cannot run with manual optimization"
    elif why == "late":
        method, expected = StructuredPruning(0.5, start=7), "start=7 is not allowed: it is update 7, and the training"
    else:
        method, expected = StructuredPruning(0.95), "layer='net.0' is not allowed: it would have no weight left"
    before = copy.deepcopy(module.state_dict())
    with pytest.raises((ArgumentError, UnsupportedSettingError), match=f"StructuredPruning:? {expected}"):
        fit(module, method, *beside, default_root_dir=tmp_path)
    assert all(value.equal(before[name]) for name, value in module.state_dict().items())


@pytest.mark.ddp
@pytest.mark.slow
def test_two_replicas_are_one_process_with_the_joint_batch(replicas, tmp_path) -> None:
    ranks = replicas(PROGRAM)
    sys.path.insert(0, str(PROGRAM.parent))
    try:
        from structured_networks import trained
    finally:
        sys.path.remove(str(PROGRAM.parent))
    alone = trained(StructuredPruning(0.5, start=2), 1, str(tmp_path))
    assert all(ranks[0][name].equal(ranks[1][name]) for name in ranks[0])
    assert alone["net.hidden.weight"].shape[0] == 5
    torch.testing.assert_close(ranks[0], alone, rtol=1e-4, atol=1e-5)


class TestControls:
    """Training from the structure that was found."""

    @pytest.fixture
    def path(self, classifier, fit, tmp_path) -> str:
        fit(classifier(noisy=True), StructuredPruning(0.5, start=3), default_root_dir=tmp_path)
        return str(tmp_path / "structure.pt")

    def test_fine_tuning_begins_with_its_weights(self, classifier, fit, path) -> None:
        starts = {}

        class Starts(Callback):
            def on_train_batch_start(self, trainer, pl_module, *_) -> None:
                starts.update(starts or copy.deepcopy(pl_module.state_dict()))

        fit(classifier(noisy=True), FixedStructure(path), Starts())
        saved = load_structure(path).weights
        assert all(value.equal(starts[name]) for name, value in saved.items())

    def test_scratch_begins_with_new_ones(self, classifier, fit, path) -> None:
        ends = []
        for seed in (0, 0, 1):
            torch.manual_seed(2)
            module = fit(classifier(noisy=True), FixedStructure(path, control="scratch_e", seed=seed), max_epochs=1)
            ends.append(torch.cat([parameter.detach().flatten() for parameter in module.parameters()]))
        assert ends[0].equal(ends[1])
        assert not ends[0].equal(ends[2])
        assert module.net[0].weight.shape == (3, 4)

    @pytest.mark.parametrize("limit", [{"max_epochs": 4}, {"max_epochs": -1, "max_steps": 5}], ids=str)
    def test_scratch_b_has_the_budget_of_the_whole_network(self, classifier, fit, path, limit) -> None:
        """Half the channels of the hidden layer: half the operations, twice the training."""
        known = load_structure(path).metadata
        assert known["flops_before"] == 2 * known["flops_after"] == 8 * 2 * (4 * 6 + 6 * 3)
        seen = []

        class Notes(Callback):
            def on_train_end(self, trainer, pl_module) -> None:
                seen.append((trainer.current_epoch, trainer.global_step, trainer.estimated_stepping_batches))

            def teardown(self, trainer, pl_module, stage) -> None:
                seen.append((trainer.max_epochs, trainer.max_steps))

        notes = Notes()
        fit(classifier(noisy=True), notes, FixedStructure(path, control="scratch_b"), **limit)
        assert seen[0][1:] == ((24, 24) if limit["max_epochs"] > 0 else (10, 10))

    def test_the_trainer_is_left_as_it_was(self, classifier, path) -> None:
        from lightning.pytorch import Trainer
        from torch.utils.data import DataLoader, TensorDataset

        trainer = Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[FixedStructure(path, control="scratch_b")],
        )  # fmt: skip
        data = TensorDataset(torch.randn(4, 4), torch.tensor([0, 1, 2, 0]))
        trainer.fit(classifier(noisy=True), DataLoader(data, batch_size=4))
        assert trainer.global_step == 2
        assert trainer.max_epochs == 1

    def test_what_cannot_be_is_said(self, classifier, fit, path) -> None:
        method = FixedStructure(path, control="scratch_b")
        with pytest.raises(UnsupportedSettingError, match="control='scratch_b' in a training of unknown length"):
            fit(classifier(noisy=True), method, max_epochs=-1, max_time="00:00:00:01")
        with pytest.raises(ArgumentError, match=r"FixedStructure: structure='net.1.weight' is not allowed"):
            fit(classifier(), FixedStructure(path))
        module = classifier(noisy=True)
        module.register_parameter("scale", nn.Parameter(torch.ones(1)))
        with pytest.raises(ArgumentError, match="control='scratch_e' is not allowed: Classifier has weights of"):
            fit(module, FixedStructure(path, control="scratch_e"))

    @pytest.mark.parametrize("bad", [{"path": ""}, {"control": "scratch"}, {"seed": -1}], ids=str)
    def test_bad_arguments(self, bad) -> None:
        (name,) = bad
        with pytest.raises(ArgumentError, match=f"FixedStructure: {name}="):
            FixedStructure(**{"path": "x", **bad})


@pytest.mark.parametrize(
    "bad",
    [
        {"ratio": 1},
        {"ratio": -0.1},
        {"start": "then"},
        {"score": "l3"},
        {"scope": "all"},
        {"penalty": -1},
        {"structure": ""},
        {"include": 3},
        {"empty": "keep"},
    ],
    ids=str,
)
def test_bad_arguments(bad) -> None:
    (name,) = bad
    with pytest.raises(ArgumentError, match=f"StructuredPruning: {name}="):
        StructuredPruning(**bad)
