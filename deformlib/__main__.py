"""The course's jobs for people without make: python -m deformlib --help."""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # PyTorch takes seconds to import, and --help need not wait
    from .corpus import Corpus
    from .study import Experiment, Fitter

DEFAULT_CORPUS = Path("data/procedural")
EXAMPLE = Path(__file__).parent.parent / "results" / "example-classroom"


def main(words: list[str] | None = None) -> int:
    """Do the job that the command line names; return 0, or 1 after printing what is wrong and what to do."""
    parser = argparse.ArgumentParser(prog="python -m deformlib", description="Deformable video models on body videos.")
    jobs = parser.add_subparsers(title="jobs", required=True)

    job = jobs.add_parser("corpus", help="make the procedural corpus, two of gestures, or render motion capture")
    job.add_argument("folder", type=Path, nargs="?", help=f"where the videos go ({DEFAULT_CORPUS}, data/tasks, or data/NAME-videos)")
    others = job.add_mutually_exclusive_group()
    others.add_argument("--motion", type=Path, help="a folder of BVH files with a manifest.csv, to render")
    others.add_argument("--tasks", action="store_true", help="two corpora of gestures: FOLDER/words and FOLDER/styles")
    job.add_argument("--seed", type=int, default=0, help="of the procedural videos (%(default)s)")
    job.set_defaults(do=make)

    job = jobs.add_parser("inspect", help="say what a folder of videos or BVH files holds, and draw one frame of each clip")
    job.add_argument("folder", type=Path, nargs="?", default=DEFAULT_CORPUS, help="(%(default)s, made if missing)")
    job.add_argument("--sheet", type=Path, help="where the picture goes (NAME-sheet.png, here)")
    _cache_option(job)
    job.set_defaults(do=inspect)

    for name, text in (("study", "do the runs of a named study"), ("reproduce", "the study called classroom: Table 1, in minutes")):
        job = jobs.add_parser(name, help=text)
        if name == "study":
            job.add_argument("name", help="classroom, table1, table2, leakage, frames, robustness, cores, defects, real or tasks")
            job.add_argument("--models", nargs="+", help="only these of its models, as mbmic hog_klt of table2 (all)")
        job.add_argument("--corpus", type=Path, default=DEFAULT_CORPUS, help="videos or BVH files (%(default)s, made if missing)")
        job.add_argument("--recipe", help="tiny, classroom, paper, released or card (the study's own)")
        job.add_argument("--seeds", type=_count, help="runs of each kind (the study's own)")
        job.add_argument("--workers", type=_count, help="processes on a CPU (as many as cores, at most 4)")
        job.add_argument("--results", type=Path, help="folder for records and tables (results/NAME, with recipe and corpus if others)")
        _cache_option(job)
        job.set_defaults(do=study, name="classroom", models=None)

    job = jobs.add_parser("table", help="make the tables and figures of a results folder anew")
    job.add_argument("folder", type=Path)
    job.set_defaults(do=table)

    job = jobs.add_parser("report", help="write the one-page report and the info sheet from the records of all studies")
    job.add_argument("folder", type=Path, nargs="?", default=Path("results"), help="with example-claims and others in it (%(default)s)")
    job.set_defaults(do=report)

    job = jobs.add_parser("follow", help="ask trained offsets whether they follow the figures of the procedural corpus")
    job.add_argument("folder", type=Path, help="of the study's records and weights")
    _cache_option(job)
    job.set_defaults(do=follow)

    job = jobs.add_parser("predict", help="name the emotion in a video")
    job.add_argument("video", type=Path)
    job.add_argument("--weights", type=Path, help="a .safetensors file of a run (the newest deformable one of results/)")
    job.set_defaults(do=predict)

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a console that cannot show a name still shows the rest
    options = parser.parse_args(words)
    try:
        options.do(options)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    except _expected_errors() as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def make(options: argparse.Namespace) -> None:
    """Write a corpus of body videos."""
    from .bodies import make_corpus
    from .mocap import motion_corpus

    if options.motion:
        folder = motion_corpus(options.motion, options.folder or rendered(options.motion))
    elif options.tasks:  # claims draws results with pandas, which takes its time to import
        from .claims import film_tasks

        folder = options.folder or Path("data/tasks")
        film_tasks(folder, seed=options.seed)
    else:
        folder = make_corpus(options.folder or DEFAULT_CORPUS, seed=options.seed)
    print(f"the videos and manifest.csv are in {folder}")


def rendered(motion: Path) -> Path:
    """Where the videos of a folder of motion capture go."""
    return Path("data") / f"{motion.resolve().name}-videos"


def prepared(folder: Path) -> Path:
    """The folder of videos to read: the default corpus is made if it is missing, motion capture is rendered."""
    from .bodies import make_corpus
    from .mocap import has_motion, motion_corpus

    if folder == DEFAULT_CORPUS and not (folder / "manifest.csv").exists():  # one of another seed stays
        return make_corpus(folder)
    return motion_corpus(folder, rendered(folder)) if has_motion(folder) else folder


def inspect(options: argparse.Namespace) -> None:
    """Say what a corpus holds, what was left out, which films seem to show nobody, and draw its contact sheet."""
    from .bodies import replacing
    from .corpus import Corpus, CorpusError, contact_sheet, describe

    if options.sheet and (options.sheet.suffix.lower() != ".png" or not options.sheet.parent.is_dir()):
        raise CorpusError(f"{options.sheet} cannot be written: name a file that ends in .png, in a folder that is there.")
    corpus = Corpus(prepared(options.folder), cache=options.cache, quiet=True)
    print(describe(corpus, limit=1000))
    figure, strange = contact_sheet(corpus)
    for path, reason in list(strange.items())[:20]:
        print(f"WARNING: look at {path}, which seems to show nobody: {reason}")
    if len(strange) > 20:
        print(f"WARNING: {len(strange) - 20} more seem to show nobody")
    sheet = options.sheet or Path(f"{corpus.name}-sheet.png")
    try:
        with replacing(sheet) as beside:
            figure.savefig(beside, format="png")
    except OSError as error:
        raise CorpusError(f"{sheet} cannot be written ({error.strerror}): name another file with --sheet.") from None
    print(f"one frame of each clip is in {sheet}: look at it")


def study(options: argparse.Namespace) -> None:
    """Say what a study costs, do its runs that are missing, and write its tables; torchrun starts it in several processes."""
    import torch

    from .corpus import Corpus, describe
    from .results import load_records, write_tables
    from .study import FITTERS, RECIPES, STUDIES, NetworkFitter, StudyError, run
    from .training import processes

    studies, fitters = dict(STUDIES), dict(FITTERS)
    if options.name == "table2":  # scikit-learn takes its time to import
        from .baselines import BASELINES, TABLE2

        fitters |= BASELINES
        studies["table2"] = TABLE2
    if options.name not in studies:
        raise StudyError(f"There is no study {options.name!r}: take one of {', '.join(studies)} or table2.")
    chosen, folder, results = studies[options.name], options.corpus, options.results
    if unknown := set(options.models or ()) - set(chosen.models):
        raise StudyError(f"{options.name} has no model {min(unknown)!r}: take from {', '.join(chosen.models)}.")
    if options.models:
        chosen = replace(chosen, models=tuple(model for model in chosen.models if model in options.models))
    recipe = options.recipe or chosen.recipe
    if recipe not in RECIPES:
        raise StudyError(f"There is no recipe {recipe!r}: take one of {', '.join(RECIPES)}.")
    if options.name == "real" and folder == DEFAULT_CORPUS:
        raise StudyError("The study real needs motion capture: name a folder of BVH files with --corpus.")
    if options.name == "tasks" and folder == DEFAULT_CORPUS:
        raise StudyError(
            "The study tasks needs other films: make them with `corpus data/tasks --tasks`, then name --corpus data/tasks/words or data/tasks/styles."
        )
    if results is None:
        others = [recipe] * (recipe != chosen.recipe) + [folder.resolve().name] * (folder != DEFAULT_CORPUS)
        results = Path("results") / "-".join([options.name, *others])
    network, state = RECIPES[recipe].network, processes()
    with state.main_process_first():  # the others find the videos made and decoded
        corpus = Corpus(prepared(folder), network.size, network.in_channels == 3, options.cache, quiet=True)
    if state.is_main_process:
        print(describe(corpus))
    experiments = chosen.experiments(corpus, options.seeds and range(options.seeds), recipe)
    if any(results.glob("[!.]*.json")):  # refused before anything is trained, not when it comes to the table
        known = load_records(results)[0]
        if (known["corpus"]["key"], known["experiment"]["recipe"]) != (corpus.key, recipe):
            raise StudyError(
                f"{results} holds records of {known['corpus']['name']}, recipe {known['experiment']['recipe']}: "
                "name another folder with --results."
            )
    alone = torch.cuda.is_available() or state.num_processes > 1
    workers = options.workers or (1 if alone else min(4, os.cpu_count() or 1))
    if state.is_main_process:
        print(f"{options.name}: {chosen.question}")
        if any(isinstance(fitters[experiment.model], NetworkFitter) for experiment in experiments):
            print(f"A run of {recipe} needs {RECIPES[recipe].needs}.")
        print(cost(experiments, results, corpus, fitters, workers), flush=True)
    run(experiments, results, options.cache, workers, fitters, chosen.warped)
    state.wait_for_everyone()
    state.destroy_process_group()  # a process that leaves while another still talks to it would look like a crash
    if state.is_main_process:
        write_tables(results)
        print(f"\n{tables(results)}\nrecords, weights, tables and figures are in {results}")


def cost(
    experiments: Sequence["Experiment"], folder: Path, corpus: "Corpus", fitters: Mapping[str, "Fitter"], workers: int = 1
) -> str:
    """What the runs without a record will take, in words: from records in `folder` and beside it, else from arithmetic."""
    from .study import machine

    missing = [experiment for experiment in experiments if not (folder / f"{experiment.name}.json").exists()]
    said = f"{len(missing)} runs to do, {len(experiments) - len(missing)} done"
    if not missing:
        return said
    here, seconds = machine()["device"].partition(", threads")[0], {}  # processor and cores, or the card
    for path in folder.parent.glob(f"*/{missing[0].recipe}-*.json"):
        with suppress(ValueError, KeyError, TypeError, AttributeError):  # no whole record tells nothing of time
            done = json.loads(path.read_text(encoding="utf-8"))
            if done["device"].partition(", threads")[0] == here:
                seconds.setdefault(done["experiment"]["model"], []).append(float(done["seconds"]))
    if seconds:
        runs = [value for values in seconds.values() for value in values]
        minutes = sum(median(seconds.get(experiment.model, runs)) for experiment in missing) / workers / 60
        return f"{said}: about {max(1, round(minutes))} min, going by {len(runs)} earlier runs of this recipe"
    minutes = arithmetic_seconds(missing, corpus, fitters) / workers / 60
    floor = f"{max(1, round(minutes))} min for the bare arithmetic" if minutes else "none trains a network"
    return f"{said}: {floor}; no run of this recipe is recorded here yet"


def arithmetic_seconds(experiments: Sequence["Experiment"], corpus: "Corpus", fitters: Mapping[str, "Fitter"]) -> float:
    """Seconds of the networks' arithmetic at the rate of matrix products here, in the precision that `fit` chooses.

    Three forward passes for each training clip, one forwards and two for the gradients; a multiply-add counts once. Only
    the convolution of chapter 05, which saves multiplications on a CPU, can be faster.
    """
    import torch

    from .network import multiply_adds
    from .study import RECIPES, NetworkFitter, make_split
    from .training import precision

    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision()]
    device, size = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 1024)  # a small product leaves a card idle
    matrix, products = torch.full((size, size), 1 / size, device=device, dtype=dtype), 30
    for _ in range(2):  # the first time warms up
        started, product = time.perf_counter(), matrix
        for _ in range(products):
            product = product @ matrix
        product.sum().item()  # a GPU has finished only now
        rate = products * size**3 / (time.perf_counter() - started)

    @cache
    def work(model: str, split: str) -> float:
        experiment = next(each for each in experiments if (each.model, each.split) == (model, split))
        if not isinstance(fitters[model], NetworkFitter):
            return 0.0
        training = RECIPES[experiment.recipe].training
        clips = training.epochs * training.steps(make_split(experiment, corpus)) * training.batch
        return 3 * multiply_adds(fitters[model].network(experiment, len(corpus.classes))) * clips

    return sum(work(experiment.model, experiment.split) for experiment in experiments) / rate


def table(options: argparse.Namespace) -> None:
    """Make the tables of a results folder anew and print them."""
    from .results import write_tables

    write_tables(options.folder)
    print(tables(options.folder))


def tables(folder: Path) -> str:
    """The tables of a results folder, one below the other: Table 1 of plain and deformable, Table 2 if there are other models."""
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("table[12].md")))


def report(options: argparse.Namespace) -> None:
    """Write REPORT.md, INFO_SHEET.md and their figures, and print the report."""
    from .report import write_report

    path = write_report(options.folder)
    print(f"{path.read_text(encoding='utf-8')}\nthis page, INFO_SHEET.md and the figures in report/ are in {options.folder}")


def follow(options: argparse.Namespace) -> None:
    """Write offsets/follow.json of a results folder: whether the offsets of its deformable runs by actor follow the figures."""
    from .claims import write_follow

    print(f"{write_follow(options.folder, DEFAULT_CORPUS, options.cache)} is written; `python -m deformlib report` reads it")


def predict(options: argparse.Namespace) -> None:
    """Print what a trained network says of one video, likeliest class first."""
    import torch

    from .frames import read_clip
    from .network import NetworkError, load_network

    found = sorted(Path("results").glob("*/[!.]*deformable*.safetensors"), key=lambda path: path.stat().st_mtime)
    weights = options.weights or (found or sorted(EXAMPLE.glob("*deformable*.safetensors")) or [None])[-1]
    if weights is None:
        raise NetworkError("No trained network here: do `python -m deformlib reproduce` first, or name a file with --weights.")
    net, classes = load_network(weights)
    config = net.config
    clip = torch.from_numpy(read_clip(options.video, config.length, config.size, config.in_channels == 3))
    with torch.inference_mode():
        probabilities = net(clip[None] / 255)[0].softmax(0)
    print(f"{options.video} according to {weights}:")
    for share, label in sorted(zip(probabilities.tolist(), classes), reverse=True)[:5]:
        print(f"  {100 * share:5.1f} %  {label:12} {'#' * round(40 * share)}")


def _cache_option(job: argparse.ArgumentParser) -> None:
    job.add_argument("--cache", type=Path, help="folder for decoded frames (deformlib in XDG_CACHE_HOME or ~/.cache)")


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word} is no number from 1 up")
    return int(word)


def _expected_errors() -> tuple[type[Exception], ...]:
    from .bodies import BodyError
    from .corpus import CorpusError
    from .frames import VideoError
    from .network import NetworkError
    from .results import ResultsError
    from .study import StudyError
    from .training import TrainingError

    return BodyError, CorpusError, VideoError, NetworkError, ResultsError, StudyError, TrainingError, OSError


if __name__ == "__main__":
    sys.exit(main())
