"""What Hyperfit measures on held-out texts: before, in between and after, without a trace in the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from language_model import LENGTH, VOCABULARY, LanguageModel, Texts, fit, texts_loader
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from thunderstone import ArgumentError, Table, UnsupportedSettingError
from thunderstone_hyperfitting import Hyperfit
from thunderstone_hyperfitting.held_out import token_ids
from thunderstone_hyperfitting.predictions import prediction_statistics

pytestmark = [
    pytest.mark.filterwarnings("ignore:Hyperfit. the mean training loss"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
]

SCALARS = {
    "val_loss", "entropy", "top1_probability", "type_token_ratio", "distinct_2", "repetition_2", "self_bleu", "overlap",
    "overlap_above_10",
}  # fmt: skip


class Noted(Hyperfit):
    """Keeps what it records."""

    name = "hyperfit"
    noted: dict[str, list[Any]]

    def record(self, name: str, value: Any) -> None:
        vars(self).setdefault("noted", {}).setdefault(name, []).append(value)


class Letters:
    """One letter a token; `tokenizers` and `transformers` have these two methods."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") for letter in text.strip()]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(ord("a") + token) for token in ids)


def method(**arguments: Any) -> Noted:
    return Noted(**{"samples": 6, "max_epochs": 4, "contexts": 5, "context_length": 4, "max_new_tokens": 6} | arguments)


def test_measures_before_every_few_epochs_and_after() -> None:
    noted = method(every_n_epochs=3)
    module, _ = fit(noted, LanguageModel(lr=0.05), validation=texts_loader(8, seed=1))
    assert set(noted.noted) == SCALARS | {"train_loss", "generations"}
    assert len(noted.noted["train_loss"]) == 4
    # Before, after the third epoch, after the fourth and last.
    assert {name: len(noted.noted[name]) for name in SCALARS} == dict.fromkeys(SCALARS, 3)
    assert len(noted.noted["generations"]) == 2
    held_out = list(Texts(8, seed=1).ids[:5])
    expected = prediction_statistics(module, held_out)
    assert noted.noted["val_loss"][-1] == pytest.approx(expected["loss"])
    assert noted.noted["entropy"][-1] < noted.noted["entropy"][0]
    table = noted.noted["generations"][-1]
    assert isinstance(table, Table)
    assert list(table.columns) == ["prompt", "before", "after"]
    assert [row[0] for row in table.rows] == [" ".join(map(str, text[:4].tolist())) for text in held_out]
    for row, text in zip(table.rows, held_out, strict=True):
        assert row[2] == " ".join(map(str, greedy(module, text[:4], 6)))
        assert len(row[1].split()) == 6


def greedy(module: nn.Module, ids: Tensor, count: int) -> list[int]:
    """One token after the other, each the most probable."""
    module.eval()
    with torch.no_grad():
        for _ in range(count):
            ids = torch.cat([ids, module(ids[None])[0, -1].argmax().reshape(1)])
    return ids[-count:].tolist()


def test_statistics_match_the_definitions() -> None:
    module = LanguageModel(dtype=torch.float64)
    texts = [*Texts(3).ids, *Texts(4, seed=5, length=7).ids]
    found = prediction_statistics(module, texts, batch_size=2)
    assert module.training
    module.eval()
    losses, entropies, tops = [], [], []
    for text in texts:
        probabilities = module(text[None])[0, :-1].softmax(dim=-1)
        for position, token in enumerate(text[1:]):
            row = probabilities[position]
            losses.append(-row[token].log().item())
            entropies.append(-(row * row.log()).sum().item())
            tops.append(row.max().item())
    expected = [sum(values) / len(values) for values in (losses, entropies, tops)]
    assert list(found.values()) == pytest.approx(expected, rel=1e-5)
    assert list(found) == ["loss", "entropy", "top1_probability"]


def test_training_is_the_same_with_and_without_measuring() -> None:
    weights = []
    for contexts in (0, 5):
        torch.manual_seed(3)
        loader, validation = texts_loader(shuffle=True), texts_loader(8, seed=1)
        module, _ = fit(method(contexts=contexts, every_n_epochs=1), LanguageModel(), loader, validation)
        weights.append({**module.state_dict(), "random": torch.get_rng_state()})
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_prompts_beside_contexts_and_without_validation_data() -> None:
    class WithTokenizer(LanguageModel):
        tokenizer = Letters()

    noted = method(prompts=["bad", "cab"], tokenizer="tokenizer", contexts=0)
    module, _ = fit(noted, WithTokenizer())
    assert "val_loss" not in noted.noted
    (table,) = noted.noted["generations"]
    assert [row[0] for row in table.rows] == ["bad", "cab"]
    assert table.rows[0][2] == Letters().decode(greedy(module, torch.tensor([1, 0, 3]), 6))
    noted = method(prompts=["bad"], tokenizer="tokenizer", contexts=2)
    fit(noted, WithTokenizer(), validation=texts_loader(3, seed=1))
    assert len(noted.noted["generations"][0].rows) == 3


def test_texts_end_with_the_tokenizers_end_token() -> None:
    class Ending(Letters):
        eos_token_id = 0

    class WithTokenizer(LanguageModel):
        tokenizer: Any = Letters()

    start = LanguageModel(lr=0.05).state_dict()

    def texts(tokenizer: Letters) -> list[str]:
        module = WithTokenizer(lr=0.05)
        module.load_state_dict(start)
        module.tokenizer = tokenizer
        noted = method(prompts=[*"abdefghijklm"], tokenizer="tokenizer", contexts=0, max_new_tokens=8)
        fit(noted, module)
        return [row[2] for row in noted.noted["generations"][-1].rows]

    whole = texts(Letters())
    # Without an end token every text has its full length; with one, a letter that occurs, it ends there.
    assert {len(text) for text in whole} == {8}
    end = whole[0][0]
    Ending.eos_token_id = Letters().encode(end)[0]
    assert texts(Ending()) == [text[: text.index(end) + 1] if end in text else text for text in whole]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_run_shows_the_texts_from_before(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "saved", every_n_train_steps=3, save_top_k=-1)

    def run(path: Path | None, seed: int) -> Noted:
        torch.manual_seed(seed)
        noted = method()
        fit(
            [noted, checkpoint], LanguageModel(lr=0.05), validation=texts_loader(8, seed=1), ckpt_path=path,
            enable_checkpointing=True,
        )  # fmt: skip
        return noted

    whole = run(None, 1)
    resumed = run(next((tmp_path / "saved").glob("*step=3.ckpt")), 2)
    assert len(whole.noted["val_loss"]) == 2
    assert resumed.noted["val_loss"] == whole.noted["val_loss"][1:]
    assert resumed.noted["generations"][0].rows == whole.noted["generations"][0].rows


@pytest.mark.filterwarnings("ignore:.*tokenizer.*")
def test_a_hugging_face_model_as_a_submodule() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    class GPT(LanguageModel):
        def __init__(self) -> None:
            super().__init__(schedule=None)
            config = GPT2Config(
                vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=8, n_layer=1, n_head=2, eos_token_id=0,
                bos_token_id=None,
            )  # fmt: skip
            self.lm = GPT2LMHeadModel(config)

        def forward(self, ids: Tensor) -> Tensor:
            return self.lm(ids, use_cache=False).logits

    class ValidatesOnAnything(GPT):
        def validation_step(self, batch: Any) -> None:
            return None

    noted = method(model="lm")
    fit(noted, GPT(), validation=texts_loader(8, seed=1))
    assert len(noted.noted["val_loss"]) == 2
    # 4 + 10 - 1 positions are one more than there are.
    problem = r"Noted cannot run with contexts of 4 tokens and max_new_tokens=10: the longest prompt .* 12 positions"
    with pytest.raises(UnsupportedSettingError, match=problem) as caught:
        fit(method(model="lm", max_new_tokens=10), GPT(), validation=texts_loader(8, seed=1))
    assert str(caught.value).count("HINT") == 1
    longer = DataLoader(Texts(5, seed=1, length=20), batch_size=2)
    with pytest.raises(UnsupportedSettingError, match="texts of 20 tokens: GPT2LMHeadModel has 12 positions"):
        fit(method(model="lm"), ValidatesOnAnything(), validation=longer)
    with pytest.raises(ArgumentError, match=r"Noted: model='ln' is not allowed: there is no such submodule.*lm"):
        fit(method(model="ln"), GPT(), validation=texts_loader(8, seed=1))


class Stream(IterableDataset[dict[str, Tensor]]):
    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        yield from (Texts(8, seed=1)[index] for index in range(8))


class Other(Dataset[Any]):
    """Samples in which no ids are found without being told where."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"ids": Texts(4).ids[index], "weights": torch.ones(3)}


class Anything(LanguageModel):
    """Validates on whatever comes, so that only what Hyperfit measures is in question."""

    def validation_step(self, batch: Any) -> None:
        return None


def test_held_out_texts_of_a_stream_or_a_named_entry() -> None:
    from_stream, from_dataset = method(), method()
    torch.manual_seed(0)
    fit(from_stream, Anything(), validation=DataLoader(Stream(), batch_size=4))
    torch.manual_seed(0)
    fit(from_dataset, Anything(), validation=texts_loader(8, seed=1))
    assert from_stream.noted["val_loss"] == from_dataset.noted["val_loss"]

    class Named(Anything):
        def loss(self, batch: dict[str, Tensor]) -> Tensor:
            return super().loss({"input_ids": batch["ids"]})

    noted = method(tokens="ids", samples=4, contexts=4)
    fit(noted, Named(), loader=DataLoader(Other(), batch_size=2), validation=DataLoader(Other()))
    assert len(noted.noted["val_loss"]) == 2


@pytest.mark.parametrize(
    ("arguments", "validation", "error", "message"),
    [
        ({}, None, UnsupportedSettingError, "no validation DataLoader.*prompts instead"),
        ({"context_length": 12}, texts_loader(3), UnsupportedSettingError, "is longer than context_length=12"),
        ({}, DataLoader(Other()), UnsupportedSettingError, r"no token ids were found in it, only nothing.*tokens="),
        ({"tokens": "weights"}, DataLoader(Other()), UnsupportedSettingError, "at 'weights', only a tensor of float32"),
        ({"tokens": "id"}, DataLoader(Other()), UnsupportedSettingError, r"tokens=...\), one of 'ids', 'weights'"),
        ({"tokenizer": "embedding"}, texts_loader(3), ArgumentError, "a Embedding has no encode and decode"),
        ({"tokenizer": "nowhere:name"}, texts_loader(3), ArgumentError, "ModuleNotFoundError"),
        ({"tokenizer": "no/such/folder"}, texts_loader(3), ArgumentError, "tokenizer='no/such.*loading it failed"),
    ],
)  # fmt: skip
def test_nothing_to_measure_on(
    arguments: dict[str, Any], validation: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"Noted.*{message}"):
        fit(method(**arguments), Anything(), validation=validation)


def test_says_when_there_are_fewer_texts_than_asked_for() -> None:
    noted = method(contexts=20)
    with pytest.warns(
        UserWarning, match="Noted: the validation data has 8 texts of more than 4 tokens, fewer than con"
    ):
        fit(noted, validation=texts_loader(8, seed=1))
    assert len(noted.noted["generations"][0].rows) == 8


@pytest.mark.filterwarnings("ignore:Noted. the validation data has")
def test_a_module_without_a_forward() -> None:
    class Headless(Anything):
        forward = LightningModule.forward

        def loss(self, batch: dict[str, Tensor]) -> Tensor:
            return self.head(self.recurrent(self.embedding(batch["input_ids"]))[0]).square().mean()

    with pytest.raises(ArgumentError, match=r"Noted: model=None .* Headless has no forward .*\(embedding, recurrent"):
        fit(method(), Headless(), validation=texts_loader(8, seed=1))


def test_a_prompt_without_a_token() -> None:
    class WithTokenizer(LanguageModel):
        tokenizer = Letters()

    with pytest.raises(ArgumentError, match="prompts=' ' is not allowed: the tokenizer makes no token of it"):
        fit(method(prompts=[" "], tokenizer="tokenizer", contexts=0), WithTokenizer())


def test_ids_are_found_where_batches_hold_them() -> None:
    ids = torch.arange(6)[None]
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    floats = torch.zeros(1, 3)
    assert token_ids("Hyperfit", ids, None).tolist() == [0, 1, 2, 3, 4, 5]
    assert token_ids("Hyperfit", [floats, ids], None).tolist() == [0, 1, 2, 3, 4, 5]
    assert token_ids("Hyperfit", (floats, ids), "1").tolist() == [0, 1, 2, 3, 4, 5]
    assert token_ids("Hyperfit", {"input_ids": ids, "attention_mask": mask}, None).tolist() == [0, 1, 2, 3]
    for batch, where in ((floats, None), ([floats], None), ((ids,), "3"), ({"x": ids}, None), ([], None), (ids, "x")):
        with pytest.raises(UnsupportedSettingError, match="no token ids were found"):
            token_ids("Hyperfit", batch, where)
