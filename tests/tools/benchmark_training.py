"""What a step of the training loop spends its time on, and what each recipe costs here: part three of `make benchmark`.

Writes training.json and training.md. The step is the one that `fit` makes, in the precision that it chooses, with the
recipe's optimiser. A profile of its parts, each run alone: the network's stages forward and backward, the optimiser,
and the loading of a batch, which in `fit` goes on while the step before is computed. Minutes are those of the recipe's
own number of steps, on the paper's 7242 training copies where the recipe says nothing else. Two floors: its
multiply-adds at the rate of a matrix product, and its traffic at the rate of a copy, if every stage read its input once
and wrote its output once, three times in a training step.
"""

import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from benchmark import markdown, seconds, store
from benchmark_network import TRAIN, matrix_rate, matrix_size, measured, rounded, stages
from tqdm import tqdm

from deformlib.corpus import Corpus
from deformlib.dataset import loader
from deformlib.make.figures import plan_corpus
from deformlib.make.films import make_corpus
from deformlib.network import VideoNet
from deformlib.paper.study import RECIPES, Recipe, multiply_adds
from deformlib.progress import show_progress
from deformlib.splits import Split, by_copy
from deformlib.training import make_optimizer, precision, step_pairs, train_step

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def copy_rate(device: str) -> float:
    """Bytes a second that a copy reads and writes."""
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    run = partial(target.copy_, source)
    run()
    return 2 * source.nbytes / seconds(run, device, 5)


def profile(recipe: Recipe, corpus: Corpus, split: Split, device: str, repeats: int, bar: tqdm) -> Iterator[dict]:
    """Milliseconds of each part of a training step for one clip."""
    config, training = recipe.network, recipe.training
    for row in stages(config, training.batch, device, repeats, bar, DTYPES[precision()]):
        yield {"part": row["stage"], "ms": row["ms"], "numbers": row["numbers"]}
    net = VideoNet(config).to(device)
    optimizer, load = make_optimizer(net, training), loader(corpus, torch.device(device))
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    others = {"optimiser": optimizer.step, "data": partial(load, step_pairs(split, training, 0), length=config.length)}
    for name, run in others.items():
        run()  # warm up
        yield {"part": name, "ms": 1e3 * seconds(run, device, repeats) / training.batch, "numbers": 0}
        bar.update()


def cost(name: str, corpus: Corpus, device: str, repeats: int, rates: dict, bar: tqdm) -> tuple[dict, list[dict]]:
    """What a recipe costs on a device, and the profile of its step."""
    recipe, torch_device = RECIPES[name], torch.device(device)
    config, training, split = recipe.network, recipe.training, by_copy(corpus)
    net, accelerator = VideoNet(config).to(device), Accelerator(mixed_precision=precision())
    optimizer = make_optimizer(net, training)
    clips, labels = loader(corpus, torch_device)(step_pairs(split, training, 0), length=config.length)
    step = measured(partial(train_step, net, optimizer, accelerator, [(clips, labels)], training), device, repeats)
    parts = list(profile(recipe, corpus, split, device, repeats, bar))
    whole = sum(part["ms"] for part in parts)
    steps = training.epochs * (training.epoch_steps or -(-TRAIN // training.batch))
    work, traffic = 6 * multiply_adds(net), 3 * sum(part["numbers"] for part in parts) * clips.element_size()
    traffic = traffic if precision() == "no" else traffic // 2
    minutes = {"minutes": steps * step["seconds"] / 60}
    for floor, amount in (("arithmetic", work / rates["matrix"]), ("memory", traffic / rates["copy"])):
        minutes[f"{floor}_minutes"] = steps * training.batch * amount / 60
    where = {"where": device, "recipe": name, "in": str(DTYPES[precision()]).removeprefix("torch.")}
    found = where | {"batch": training.batch, "steps": steps} | step | minutes
    found["clips_per_second"] = training.batch / step["seconds"]
    found["of_matrix_rate"] = minutes["arithmetic_minutes"] / minutes["minutes"]
    return found, [where | part | {"share": part["ms"] / whole} for part in parts]


def main(words: list[str] | None = None) -> None:
    """Measure, print, store."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("results/benchmarks"))
    parser.add_argument(
        "--quick", action="store_true", help="the tiny recipe only, to see that it runs: the rates mean nothing"
    )
    arguments = parser.parse_args(words)
    found: dict[str, list] = {"rates": [], "recipes": [], "profile": []}
    with tempfile.TemporaryDirectory() as folder, show_progress(desc="benchmark") as bar:
        videos = make_corpus(Path(folder) / "videos", plan_corpus()[: 2 if arguments.quick else 8])
        for device in ["cuda" if torch.cuda.is_available() else "cpu"]:
            dtype = DTYPES[precision()]
            matrix = matrix_rate(device, dtype, matrix_size(device, arguments.quick))
            rates = {"matrix": matrix, "copy": copy_rate(device)}
            found["rates"].append({"where": device, "in": str(dtype).removeprefix("torch.")} | rates)
            for name in ["tiny"] if arguments.quick else RECIPES:
                corpus = Corpus(videos, RECIPES[name].network.size, cache=Path(folder) / "cache")
                row, parts = cost(name, corpus, device, 3, rates, bar)
                found["recipes"].append(row)
                found["profile"] += parts
    found = rounded(found)
    columns = {"recipe": "recipe", "where": "on", "in": "in", "batch": "batch", "seconds": "seconds a step", "mb": "MB"}
    columns |= {"clips_per_second": "clips a second", "of_matrix_rate": "share of the matrix rate", "steps": "steps"}
    columns |= {"minutes": "minutes", "arithmetic_minutes": "floor: arithmetic", "memory_minutes": "floor: memory"}
    part = {"recipe": "recipe", "part": "part of a step", "where": "on", "in": "in", "ms": "milliseconds a clip"}
    tables = [markdown(columns, found["recipes"]), markdown(part | {"share": "share"}, found["profile"])]
    print(
        store(
            arguments.folder,
            "training",
            "A training step of each recipe, as fit makes it (card without its compilation)",
            found,
            tables,
        )
    )


if __name__ == "__main__":
    main()
