"""What this package declares. Light: neither torch nor Lightning is imported here."""

from thunderstone import MethodSpec, Reference, StrategySpec, hookimpl

THUNDERSTONE_API = "1.0"

_MAGNITUDE = Reference(
    "Learning both Weights and Connections for Efficient Neural Networks",
    "Han, Pool, Tran, Dally",
    2015,
    "https://arxiv.org/abs/1506.02626",
)
_SNIP = Reference(
    "SNIP: Single-shot Network Pruning based on Connection Sensitivity",
    "Lee, Ajanthan, Torr",
    2019,
    "https://arxiv.org/abs/1810.02340",
)
_RIGL = Reference(
    "Rigging the Lottery: Making All Tickets Winners",
    "Evci, Gale, Menick, Castro, Elsen",
    2020,
    "https://arxiv.org/abs/1911.11134",
)
_RANDOM = Reference(
    "The Unreasonable Effectiveness of Random Pruning: Return of the Most Naive Baseline for Sparse Training",
    "Liu, Chen, Chen, Shen, Mocanu, Wang, Pechenizkiy",
    2022,
    "https://arxiv.org/abs/2202.02643",
)
_GRADUAL = Reference(
    "To prune, or not to prune: exploring the efficacy of pruning for model compression",
    "Zhu, Gupta",
    2017,
    "https://arxiv.org/abs/1710.01878",
)
_GRANET = Reference(
    "Sparse Training via Boosting Pruning Plasticity with Neuroregeneration",
    "Liu, Chen, Chen, Atashgahi, Yin, Kou, Shen, Pechenizkiy, Wang, Mocanu",
    2021,
    "https://arxiv.org/abs/2106.10404",
)
_BIP = Reference(
    "Advancing Model Pruning via Bi-level Optimization",
    "Zhang, Yao, Ram, Zhao, Chen, Hong, Wang, Liu",
    2022,
    "https://arxiv.org/abs/2210.04092",
)
_FILTERS = Reference(
    "Pruning Filters for Efficient ConvNets",
    "Li, Kadav, Durdanovic, Samet, Graf",
    2017,
    "https://arxiv.org/abs/1608.08710",
)
_SCRATCH = Reference(
    "Rethinking the Value of Network Pruning",
    "Liu, Sun, Zhou, Huang, Darrell",
    2019,
    "https://arxiv.org/abs/1810.05270",
)
_LAYERS = Reference(
    "When Layers Play the Lottery, all Tickets Win at Initialization",
    "Jordao, Araujo, Maia, Pedrini",
    2023,
    "https://arxiv.org/abs/2301.10740",
)
_SEARCH = Reference(
    "Random Search as a Baseline for Sparse Neural Network Architecture Search",
    "Farahani",
    2024,
    "https://arxiv.org/abs/2403.08265",
)
_TICKETS = Reference(
    "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks",
    "Frankle, Carbin",
    2019,
    "https://arxiv.org/abs/1803.03635",
)


@hookimpl
def thunderstone_methods() -> list[MethodSpec]:
    """The methods of the pruning family."""
    return [
        MethodSpec(
            "imp",
            "thunderstone_pruning.imp:IMP",
            "pruning",
            "Finds lottery tickets: trains, prunes, rewinds and trains again, round after round",
            _TICKETS,
            conformance="thunderstone_pruning.conformance:IMP",
        ),
        MethodSpec(
            "fixed_mask",
            "thunderstone_pruning.fixed_mask:FixedMask",
            "pruning",
            "Trains under the masks of a file: a lottery ticket, its controls, or another run's masks",
            _TICKETS,
            conformance="thunderstone_pruning.conformance:FIXED_MASK",
        ),
        MethodSpec(
            "random_pruning",
            "thunderstone_pruning.random_pruning:RandomPruning",
            "pruning",
            "Removes random weights before the first step, with exact densities by layer",
            _RANDOM,
            conformance="thunderstone_pruning.conformance:RANDOM_PRUNING",
        ),
        MethodSpec(
            "random_search",
            "thunderstone_pruning.random_search:RandomSearch",
            "pruning",
            "Draws sparse networks before the first step and trains the one with the lowest loss",
            _SEARCH,
            conformance="thunderstone_pruning.conformance:RANDOM_SEARCH",
        ),
        MethodSpec(
            "snip",
            "thunderstone_pruning.snip:SNIP",
            "pruning",
            "Removes the connections to which the loss answers least, before the first step",
            _SNIP,
            conformance="thunderstone_pruning.conformance:SNIP",
        ),
        MethodSpec(
            "gradual_pruning",
            "thunderstone_pruning.gradual_pruning:GradualPruning",
            "pruning",
            "Prunes by magnitude while the network trains, along a cubic schedule",
            _GRADUAL,
            conformance="thunderstone_pruning.conformance:GRADUAL_PRUNING",
        ),
        MethodSpec(
            "granet",
            "thunderstone_pruning.granet:GraNet",
            "pruning",
            "Prunes gradually and lets connections move: the smallest go, others grow where gradients are large",
            _GRANET,
            conformance="thunderstone_pruning.conformance:GRANET",
        ),
        MethodSpec(
            "bip",
            "thunderstone_pruning.bip:BiP",
            "pruning",
            "Learns which weights to keep while it trains them, the masks by first-order bi-level steps",
            _BIP,
            conformance="thunderstone_pruning.conformance:BIP",
        ),
        MethodSpec(
            "structured_pruning",
            "thunderstone_pruning.structured_pruning:StructuredPruning",
            "pruning",
            "Removes whole channels: what is left is an ordinary module, smaller and faster",
            _FILTERS,
            conformance="thunderstone_pruning.conformance:STRUCTURED_PRUNING",
        ),
        MethodSpec(
            "layer_tickets",
            "thunderstone_pruning.layer_tickets:LayerTickets",
            "pruning",
            "Removes whole residual blocks before the first step",
            _LAYERS,
            conformance="thunderstone_pruning.conformance:LAYER_TICKETS",
        ),
        MethodSpec(
            "fixed_structure",
            "thunderstone_pruning.fixed_structure:FixedStructure",
            "pruning",
            "Trains the smaller module another run found: fine-tuning, or scratch-E and scratch-B",
            _SCRATCH,
            conformance="thunderstone_pruning.conformance:FIXED_STRUCTURE",
        ),
    ]


@hookimpl
def thunderstone_strategies() -> list[StrategySpec]:
    """Scores of weights, densities of layers, and schedules of density."""
    scores, score = "thunderstone_pruning.scores", "pruning.score"
    densities, density = "thunderstone_pruning.densities", "pruning.density"
    schedules, schedule = "thunderstone_pruning.schedules", "pruning.schedule"
    return [
        StrategySpec(score, "magnitude", f"{scores}:magnitude", "|w|", _MAGNITUDE),
        StrategySpec(score, "random", f"{scores}:random", "Uniform random numbers"),
        StrategySpec(score, "snip", f"{scores}:snip", "|w dL/dw|: sensitivity of the loss to the connection", _SNIP),
        StrategySpec(score, "gradient", f"{scores}:gradient", "|dL/dw|", _RIGL),
        StrategySpec(density, "uniform", f"{densities}:uniform", "The same in every layer", _RANDOM),
        StrategySpec(density, "erk", f"{densities}:erk", "Erdős–Rényi-Kernel: small layers stay denser", _RIGL),
        StrategySpec(schedule, "cubic", f"{schedules}:cubic", "Fast at first, slow at the end", _GRADUAL),
        StrategySpec(schedule, "linear", f"{schedules}:linear", "The same number of weights at every step"),
        StrategySpec(schedule, "geometric", f"{schedules}:geometric", "The same share of the rest each time", _TICKETS),
        StrategySpec(schedule, "one_shot", f"{schedules}:one_shot", "All at the first step"),
    ]
