"""The course's jobs on the command line, one function a verb: `python -m deformlib --help`."""

import json
import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ..files import DeformlibError

# PyTorch takes seconds to import and --help need not wait, so every verb imports what it needs itself.
if TYPE_CHECKING:
    from .study import Experiment

DEFAULT_CORPUS, LARGE_CORPUS, SMALL_CORPUS = Path("data/procedural"), Path("data/large"), Path("data/small")
EXAMPLE = Path(__file__).parents[2] / "results" / "example-classroom"

CorpusOption = Annotated[Path, typer.Option("--corpus", help="videos or BVH files, made if it is the default one")]
RecipeOption = Annotated[
    str | None,
    typer.Option(help="tiny, classroom, narrow, large, small, paper, released or card", show_default="the study's own"),
]
SeedsOption = Annotated[
    int | None, typer.Option(min=1, help="runs of each kind, from 1 up", show_default="the study's own")
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="processes on a CPU, from 1 up", show_default="one a core, at most 4")
]
ResultsOption = Annotated[
    Path | None,
    typer.Option(help="folder for records and tables", show_default="results/NAME, with recipe and corpus if others"),
]
CacheOption = Annotated[
    Path | None,
    typer.Option(help="folder for decoded frames", show_default="deformlib in XDG_CACHE_HOME or ~/.cache"),
]


class UsageError(DeformlibError, ValueError):
    """A command that cannot be done as asked; the message says why and what to do."""


class _Verbs(TyperGroup):
    """The verbs; what one of them refuses is one sentence on stderr and exit code 1, Ctrl-C is 130."""

    def invoke(self, ctx: Any) -> Any:
        """Run a verb; what it refuses is one sentence."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on from here", file=sys.stderr)
            raise typer.Exit(130) from None
        except (DeformlibError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Verbs,
    help="Deformable video models on body videos.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main(words: list[str] | None = None) -> int:
    """Do the job that the command line names; 0, 1 after a sentence on what is wrong and what to do, 130 after Ctrl-C.

    Words that are no command leave with SystemExit 2, as typer has it.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a console that cannot show a name still shows the rest
    try:
        app(words, prog_name="python -m deformlib")
    except SystemExit as end:
        if end.code not in (None, 0, 1, 130):
            raise
        return int(end.code or 0)
    return 0


@app.command("corpus")
def make(
    folder: Annotated[
        Path | None,
        typer.Argument(help="where the videos go", show_default=f"{DEFAULT_CORPUS}, data/tasks, or data/NAME-videos"),
    ] = None,
    motion: Annotated[Path | None, typer.Option(help="a folder of BVH files with a manifest.csv, to render")] = None,
    tasks: Annotated[bool, typer.Option("--tasks", help="two corpora: FOLDER/words and FOLDER/styles")] = False,
    seed: Annotated[int, typer.Option(help="of the procedural videos")] = 0,
    cast: Annotated[int, typer.Option(min=2, help="actors of the procedural videos")] = 10,
) -> None:
    """Make the procedural corpus, two of gestures, or render motion capture."""
    if motion and tasks:
        raise typer.BadParameter("--motion and --tasks make different videos: give one of them.")
    if motion:
        from ..make.mocap import motion_corpus

        folder = motion_corpus(motion, folder or rendered(motion))
    elif tasks:
        from ..make.gestures import film_tasks

        folder = folder or Path("data/tasks")
        film_tasks(folder, seed=seed)
    else:
        from ..make.figures import plan_corpus
        from ..make.films import make_corpus

        folder = make_corpus(folder or DEFAULT_CORPUS, plan_corpus(seed, cast))
    print(f"the videos and manifest.csv are in {folder}")


def rendered(motion: Path) -> Path:
    """Where the videos of a folder of motion capture go."""
    return Path("data") / f"{motion.resolve().name}-videos"


def prepared(folder: Path) -> Path:
    """The folder of videos to read: the default corpora are made if missing, motion capture is rendered."""
    from ..make.films import make_corpus
    from ..make.large import make_large
    from ..make.mocap import has_motion, motion_corpus

    if folder in (LARGE_CORPUS, SMALL_CORPUS) and not (folder / "manifest.csv").exists():
        return make_large(folder, selection=folder == SMALL_CORPUS)
    if folder == DEFAULT_CORPUS and not (folder / "manifest.csv").exists():  # one of another seed stays
        return make_corpus(folder)
    return motion_corpus(folder, rendered(folder)) if has_motion(folder) else folder


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="videos or BVH files, made if missing")] = DEFAULT_CORPUS,
    sheet: Annotated[
        Path | None, typer.Option(help="where the picture goes", show_default="NAME-sheet.png, here")
    ] = None,
    cache: CacheOption = None,
) -> None:
    """Say what a folder of videos or BVH files holds, and draw one frame of each clip."""
    from ..corpus import Corpus
    from ..files import atomic_write
    from ..make.inspect import contact_sheet, describe

    if sheet and (sheet.suffix.lower() != ".png" or not sheet.parent.is_dir()):
        raise UsageError(f"{sheet} cannot be written: name a file that ends in .png, in a folder that is there.")
    corpus = Corpus(prepared(folder), cache=cache, quiet=True)
    print(describe(corpus, limit=1000))
    figure, strange = contact_sheet(corpus)
    for path, reason in list(strange.items())[:20]:
        print(f"WARNING: look at {path}, which seems to show nobody: {reason}")
    if len(strange) > 20:
        print(f"WARNING: {len(strange) - 20} more seem to show nobody")
    sheet = sheet or Path(f"{corpus.name}-sheet.png")
    try:
        with atomic_write(sheet) as beside:
            figure.savefig(beside, format="png")
    except OSError as error:
        raise UsageError(f"{sheet} cannot be written ({error.strerror}): name another file with --sheet.") from None
    print(f"one frame of each clip is in {sheet}: look at it")


@app.command()
def study(
    name: Annotated[
        str,
        typer.Argument(
            help="classroom, table1, table2, leakage, frames, robustness, cores, defects, tasks, narrow, large, "
            "large_splits, large_controls, large_warps, large_upright, large_frames, large_cores, large_actors, "
            "large_motion or large_from_motion"
        ),
    ],
    models: Annotated[
        list[str] | None,
        typer.Argument(help="only these of its models, as mbmic hog_klt of table2", show_default="all"),
    ] = None,
    corpus: CorpusOption = DEFAULT_CORPUS,
    recipe: RecipeOption = None,
    seeds: SeedsOption = None,
    workers: WorkersOption = None,
    results: ResultsOption = None,
    cache: CacheOption = None,
    small: Annotated[bool, typer.Option("--small", help="a large study in ten minutes, on 40 actors")] = False,
    more_models: Annotated[list[str] | None, typer.Option("--models", hidden=True)] = None,  # as it was: --models A B
) -> None:
    """Do the runs of a named study that are missing, and write its tables; torchrun starts it in several processes."""
    import torch

    from ..corpus import Corpus
    from ..make.inspect import describe
    from ..records import load_records
    from ..training import distributed_state
    from .methods import BASELINES, TABLE2
    from .pretraining import MOTION, PRETRAINED
    from .small import cannot_show, shrink
    from .study import METHODS, RECIPES, STUDIES, NetworkMethod, StudyError, run
    from .table2 import write_tables

    studies, methods = STUDIES | {"table2": TABLE2} | MOTION, METHODS | BASELINES | PRETRAINED
    if name not in studies:
        raise StudyError(f"There is no study {name!r}: take one of {', '.join(studies)}.")
    chosen, asked = studies[name], [*(more_models or ()), *(models or ())]
    if unknown := set(asked) - set(chosen.models):
        raise StudyError(f"{name} has no model {min(unknown)!r}: take from {', '.join(chosen.models)}.")
    if asked:
        chosen = replace(chosen, models=tuple(model for model in chosen.models if model in asked))
    chosen = shrink(name, chosen) if small else chosen
    recipe = recipe or chosen.recipe
    if recipe not in RECIPES:
        raise StudyError(f"There is no recipe {recipe!r}: take one of {', '.join(RECIPES)}.")
    if name == "tasks" and corpus == DEFAULT_CORPUS:
        raise StudyError(
            "The study tasks needs other films: make them with `corpus data/tasks --tasks`, then name "
            "--corpus data/tasks/words or data/tasks/styles."
        )
    if name == "large_motion" and corpus == DEFAULT_CORPUS:
        raise StudyError("The study large_motion needs motion capture: name a folder of BVH files with --corpus.")
    if chosen.recipe in ("large", "small") and corpus == DEFAULT_CORPUS:
        corpus = SMALL_CORPUS if small else LARGE_CORPUS
    usual = corpus in (DEFAULT_CORPUS, LARGE_CORPUS, SMALL_CORPUS) or name == "large_motion"
    others = [recipe] * (recipe != chosen.recipe) + [corpus.resolve().name] * (not usual)
    folder = results or Path("results") / "-".join([chosen.folder or name, *others])
    network, state = RECIPES[recipe].network, distributed_state()
    with state.main_process_first():  # the others find the videos made and decoded
        films = Corpus(prepared(corpus), network.size, network.in_channels == 3, cache, quiet=True)
    if state.is_main_process:
        print(describe(films))
    experiments = chosen.experiments(films, range(seeds) if seeds else None, recipe)
    if any(folder.glob("[!.]*.json")):  # refused before anything is trained, not when it comes to the table
        known = load_records(folder)[0]
        if (known["corpus"]["key"], known["experiment"]["recipe"]) != (films.key, recipe):
            raise StudyError(
                f"{folder} holds records of {known['corpus']['name']}, recipe {known['experiment']['recipe']}: "
                "name another folder with --results."
            )
    alone = torch.cuda.is_available() or state.num_processes > 1
    workers = workers or (1 if alone else min(4, os.cpu_count() or 1))
    if state.is_main_process:
        print(f"{name}: {chosen.question}")
        if any(isinstance(methods[experiment.model], NetworkMethod) for experiment in experiments):
            print(f"A run of {recipe} needs {RECIPES[recipe].needs}.")
        print(cost(experiments, folder, workers, chosen.warped), flush=True)
        if small:
            print(cannot_show(experiments, films))
    run(experiments, folder, cache, workers, methods, chosen.warped)
    state.wait_for_everyone()
    state.destroy_process_group()  # a process that leaves while another still talks to it would look like a crash
    if state.is_main_process:
        write_tables(folder)
        print(f"\n{tables(folder)}\nrecords, weights, tables and figures are in {folder}")


@app.command()
def reproduce(
    corpus: CorpusOption = DEFAULT_CORPUS,
    recipe: RecipeOption = None,
    seeds: SeedsOption = None,
    workers: WorkersOption = None,
    results: ResultsOption = None,
    cache: CacheOption = None,
) -> None:
    """Do the study called classroom: Table 1, in minutes."""
    study("classroom", None, corpus, recipe, seeds, workers, results, cache)


def cost(experiments: list["Experiment"], folder: Path, workers: int = 1, warped: bool = False) -> str:
    """What the runs without a record will take, in words: minutes from records in `folder` and beside it, if any."""
    from .study import machine, undone

    missing = undone(experiments, folder)
    said = f"{len(missing)} runs to do, {len(experiments) - len(missing)} done"
    if more := len(undone(experiments, folder, warped)) - len(missing):
        said += f", {more} of them to be evaluated on warped clips, from their weights"
    if not missing:
        return said
    here = machine()["device"].partition(", threads")[0]  # processor and cores, or the GPU
    seconds: dict[str, list[float]] = {}
    for path in folder.parent.glob(f"*/{missing[0].recipe}-*.json"):
        with suppress(ValueError, KeyError, TypeError, AttributeError):  # no whole record tells nothing of time
            done = json.loads(path.read_text(encoding="utf-8"))
            if done["device"].partition(", threads")[0] == here:
                seconds.setdefault(done["experiment"]["model"], []).append(float(done["seconds"]))
    if not seconds:
        return f"{said}; no run of this recipe is recorded here yet, so nobody knows how long they take"
    runs = [value for values in seconds.values() for value in values]
    minutes = sum(median(seconds.get(experiment.model, runs)) for experiment in missing) / workers / 60
    return f"{said}: about {max(1, round(minutes))} min, going by {len(runs)} earlier runs of this recipe"


@app.command()
def table(folder: Annotated[Path, typer.Argument(help="records of one study")]) -> None:
    """Make the tables and figures of a results folder anew."""
    from .table2 import write_tables

    write_tables(folder)
    print(tables(folder))


def tables(folder: Path) -> str:
    """The tables of a results folder: Table 1 of plain and deformable, Table 2 if there are other models."""
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("table[12].md")))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="with large, example-claims and others in it")] = Path("results"),
) -> None:
    """Write the report, the page of small studies and the info sheet from the records of all studies."""
    from .report import write_report

    path = write_report(folder)
    print(f"{path.read_text(encoding='utf-8')}\nthis page, SMALL_STUDIES.md, INFO_SHEET.md and report/ are in {folder}")


FolderArgument = Annotated[Path, typer.Argument(help="of the study's records and weights")]
FilmsOption = Annotated[Path, typer.Option("--corpus", help="the procedural corpus, made if missing")]


@app.command()
def align(folder: FolderArgument, corpus: FilmsOption = DEFAULT_CORPUS, cache: CacheOption = None) -> None:
    """Ask trained offsets whether they follow the figures of the procedural corpus."""
    from .alignment import write_alignment

    print(f"{write_alignment(folder, corpus, cache)} is written; `python -m deformlib report` reads it")


@app.command(hidden=True)
def follow(folder: FolderArgument, corpus: FilmsOption = DEFAULT_CORPUS, cache: CacheOption = None) -> None:
    """Do what `align` does, under its old name."""
    print("`follow` is now called `align`; the old word goes with the next version", file=sys.stderr)
    align(folder, corpus, cache)


@app.command()
def migrate(folders: list[Path]) -> None:
    """Bring the run records of results folders to the schema of today."""
    from .migrate import migrate_folder

    for folder in folders:
        print(f"{folder}: today's schema; {len(migrate_folder(folder))} files have new names")


@app.command("gpu-check")
def gpu_check(
    folder: Annotated[Path, typer.Argument(help="of the record and its table")] = Path("results/gpu"),
    device: Annotated[str, typer.Option(help="cuda, or cpu to see what it does where there is no GPU")] = "cuda",
    small: Annotated[bool, typer.Option("--small", help="everything tiny, in seconds")] = False,
    computed: Annotated[bool, typer.Option("--computed", help="only the table of memory, which needs no GPU")] = False,
) -> None:
    """Measure operator, training step, memory and a run that is killed on a GPU, in ten minutes, and record them."""
    if computed:
        from .device import write_memory

        print(write_memory(folder))
        return
    from .gpu_check import GpuCheckError, check, describe_check, failures

    try:
        record = check(folder, device, small)
    except GpuCheckError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    files = f"{folder / record['name']}.json and .md"
    print(f"\n{describe_check(record)}\n{files} are written{': send them as a pull request' if record['gpu'] else ''}")
    if failures(record):
        raise typer.Exit(1)


@app.command()
def predict(
    video: Path,
    weights: Annotated[
        Path | None,
        typer.Option(help="a .safetensors file of a run", show_default="the newest deformable one of results/"),
    ] = None,
) -> None:
    """Name the emotion in a video."""
    import torch

    from ..network import NetworkError, load_network
    from ..video import read_clip

    found = sorted(Path("results").glob("*/[!.]*deformable*.safetensors"), key=lambda path: path.stat().st_mtime)
    weights = weights or next(reversed(found or sorted(EXAMPLE.glob("*deformable*.safetensors"))), None)
    if weights is None:
        raise NetworkError(
            "No trained network here: do `python -m deformlib reproduce`, or name a file with --weights."
        )
    net, classes = load_network(weights)
    config = net.config
    clip = torch.from_numpy(read_clip(video, config.length, config.size, config.in_channels == 3))
    with torch.inference_mode():
        probabilities = net(clip[None] / 255)[0].softmax(0)
    print(f"{video} according to {weights}:")
    for share, label in sorted(zip(probabilities.tolist(), classes, strict=True), reverse=True)[:5]:
        print(f"  {100 * share:5.1f} %  {label:12} {'#' * round(40 * share)}")


@app.command()
def colab(repository: Annotated[str, typer.Argument(help="OWNER/NAME of your copy on GitHub")]) -> None:
    """Point Colab badges, set-up cells and README of the course in this folder at your own copy."""
    from .copy import rewrite

    changed = rewrite(Path(), repository)
    print(f"{len(changed)} files now point to github.com/{repository}; commit them")
