"""An auto-encoder of digit images that becomes a generator: its codes are matched to a normal distribution.

The module below is an ordinary auto-encoder, and nothing in it knows of a prior. Its codes lie wherever they came to
lie, so decoding random codes gives smudges. With `SlicedWassersteinPenalty` attached to the encoder's output from the
command line the codes fill a standard normal distribution, and decoding normal numbers gives digits: a Wasserstein
auto-encoder (Kolouri et al. 2018), without a change to the auto-encoder.

    python examples/wae_digits.py --output runs/wae_digits/plain
    thunderstone run --with sliced_wasserstein_penalty:output=encoder,weight=2 \
        examples/wae_digits.py --output runs/wae_digits/penalty --beside runs/wae_digits/plain

Each takes under a minute; --fast trains for a few epochs only. Writes the measures (wae_digits.json), the samples
(wae_digits.pt) and a figure (wae_digits.png) to --output; with --beside the figure and the table show that run as well.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from thunderstone import Method
from thunderstone_estimators import sliced_wasserstein_distance

HELD_OUT, SAMPLES, TILES = 297, 1000, 10


class AutoEncoder(LightningModule):
    """Compresses 64 pixels to a few numbers and back; knows of no prior."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, code)
        )
        self.decoder = nn.Sequential(
            nn.Linear(code, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 64), nn.Sigmoid()
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images))

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return (self(batch[0]) - batch[0]).square().sum(1).mean()

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.Adam(self.parameters(), lr=2e-3)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@dataclass
class Outcome:
    """What a trained auto-encoder is worth.

    Attributes:
        methods: What was attached.
        reconstruction: Mean squared error a pixel on held-out images.
        codes_to_prior: Sliced W_2 between the codes of held-out images and normal numbers.
        samples_to_images: Sliced W_2 between decoded normal numbers and held-out images.
        recognised: The part of decoded normal numbers of which a classifier of real digits (ten nearest neighbours)
            is certain: all ten agree.
        kinds: How many digits there are among them: the exponential of the entropy of what the classifier takes them
            for, 10 where all are equally frequent.
        images_recognised, images_kinds: The same of held-out images.
    """

    methods: list[str]
    reconstruction: float
    codes_to_prior: float
    samples_to_images: float
    recognised: float
    kinds: float
    images_recognised: float
    images_kinds: float

    @property
    def name(self) -> str:
        """For tables and titles."""
        return f"with {' and '.join(self.methods)}" if self.methods else "plain auto-encoder"


def digits() -> tuple[Tensor, Tensor, Tensor]:
    """Images for training with their labels, (1500, 64) and (1500,), and held-out ones, (297, 64); pixels in [0, 1]."""
    data = load_digits()
    images = torch.tensor(data.data, dtype=torch.float32) / 16
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    training, held_out = order[:-HELD_OUT], order[-HELD_OUT:]
    return images[training], torch.tensor(data.target)[training], images[held_out]


def distance(x: Tensor, y: Tensor) -> float:
    """Sliced W_2 along directions that are the same in every run."""
    generator = torch.Generator().manual_seed(0)
    return float(
        sliced_wasserstein_distance(x, y, num_projections=1000, directions="orthogonal", generator=generator, chunk=200)
    )


@torch.no_grad()
def judged(module: AutoEncoder, methods: list[str], size: int) -> tuple[Outcome, dict[str, Tensor]]:
    """The measures, and what the figure shows."""
    images, labels, held_out = digits()
    module.eval()
    normal = torch.randn(SAMPLES, size, generator=torch.Generator().manual_seed(1))
    codes, samples = module.encoder(held_out), module.decoder(normal)
    classifier = KNeighborsClassifier(10).fit(images.numpy(), labels.numpy())

    def recognised(pictures: Tensor) -> tuple[float, float]:
        votes = torch.tensor(classifier.predict_proba(pictures.numpy()))
        shares = votes.argmax(1).bincount().double() / len(votes)
        return float((votes.max(1).values == 1).double().mean()), float(torch.special.entr(shares).sum().exp())

    outcome = Outcome(
        methods,
        float((module.decoder(codes) - held_out).square().mean()),
        distance(codes, normal),
        distance(samples, held_out),
        *recognised(samples),
        *recognised(held_out),
    )
    shown = {
        "images": held_out[: 2 * TILES],
        "reconstructions": module.decoder(codes)[: 2 * TILES],
        "samples": samples[: 4 * TILES],
        "codes": codes,
        "normal": normal[:HELD_OUT],
    }
    return outcome, {name: tensor.contiguous().clone() for name, tensor in shown.items()}


def figure_of(runs: list[tuple[Outcome, dict[str, Tensor]]]) -> Figure:
    """A row a run: reconstructions, decoded normal numbers, and where the codes lie."""
    figure = Figure(figsize=(12, 2.9 * len(runs)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(runs), 3, squeeze=False, width_ratios=[1, 1, 0.6])
    for row, (outcome, shown) in zip(grid, runs, strict=True):
        pairs = torch.stack([shown["images"].view(2, TILES, 64), shown["reconstructions"].view(2, TILES, 64)], 1)
        _draw(row[0], pairs.reshape(4 * TILES, 64))
        row[0].set_title(f"{outcome.name}\nheld-out images, each above its reconstruction", fontsize=9)
        _draw(row[1], shown["samples"])
        row[1].set_title("decoded normal numbers", fontsize=9)
        for key, colour, label in (("normal", "#bbbbbb", "normal numbers"), ("codes", "#d55e00", "codes of images")):
            row[2].scatter(*shown[key][:, :2].numpy().T, s=5, color=colour, label=label)
        row[2].set_title("first two coordinates of the codes", fontsize=9)
        row[2].set_aspect("equal", adjustable="datalim")
        row[2].spines[["top", "right"]].set_visible(False)
        row[2].legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2)
    return figure


def _draw(axes: Axes, images: Tensor) -> None:
    rows = len(images) // TILES
    framed = nn.functional.pad(images.view(rows, TILES, 8, 8), (1, 1, 1, 1))
    axes.imshow(framed.permute(0, 2, 1, 3).reshape(rows * 10, TILES * 10).numpy(), cmap="gray_r", vmin=0, vmax=1)
    axes.set_axis_off()


def kept(folder: Path) -> tuple[Outcome, dict[str, Tensor]]:
    """What an earlier run wrote."""
    outcome = Outcome(**json.loads((folder / "wae_digits.json").read_text(encoding="utf-8")))
    return outcome, torch.load(folder / "wae_digits.pt", weights_only=True)


def finished(text: str) -> Path:
    """The folder of an earlier run, for argparse."""
    if not (Path(text) / "wae_digits.json").is_file():
        raise argparse.ArgumentTypeError(f"there is no wae_digits.json in {text}")
    return Path(text)


def count(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/wae_digits"), help="where results go")
    parser.add_argument("--beside", type=finished, help="--output of an earlier run, to be shown as well")
    parser.add_argument("--code", type=count, default=4, help="numbers in a code (%(default)s)")
    parser.add_argument("--epochs", type=count, help="epochs of training (default: 100)")
    parser.add_argument("--fast", action="store_true", help="ten epochs")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*logging interval.*")
    # Matrices this small gain nothing from threads, and sums over one thread are the same on every machine.
    torch.set_num_threads(1)
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    seed_everything(0, verbose=False)
    module = AutoEncoder(options.code)
    trainer = Trainer(
        max_epochs=options.epochs or (10 if options.fast else 100),
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(digits()[0]), batch_size=125, shuffle=True, drop_last=True))
    # Only to label the figure: what the command line attached, less what comes with every method.
    methods = [type(each).__name__ for each in trainer.callbacks if isinstance(each, Method)]
    run = judged(module, [name for name in methods if name != "ExactResume"], options.code)
    (output / "wae_digits.json").write_text(json.dumps(asdict(run[0]), indent=1), encoding="utf-8")
    torch.save(run[1], output / "wae_digits.pt")

    runs = [*([kept(options.beside)] if options.beside else []), run]
    table = Table("run", "reconstruction", "codes to prior", "samples to images", "recognised", "kinds of digits")
    table.columns[0].no_wrap = True
    for outcome, _ in runs:
        table.add_row(
            outcome.name,
            f"{outcome.reconstruction:.4f}",
            f"{outcome.codes_to_prior:.3f}",
            f"{outcome.samples_to_images:.3f}",
            f"{outcome.recognised:.0%} (of images {outcome.images_recognised:.0%})",
            f"{outcome.kinds:.1f} (of images {outcome.images_kinds:.1f})",
        )
    Console().print(table)
    figure_of(runs).savefig(output / "wae_digits.png", dpi=150)
    Console().print(f"Figure, measures and samples are in {output}")


if __name__ == "__main__":
    main()
