"""The course's jobs for people without make: python -m deformlib --help."""

import argparse
import os
import sys
from pathlib import Path

DEFAULT_CORPUS = Path("data/procedural")
EXAMPLE = Path(__file__).parent.parent / "results" / "example-classroom"


def main(words: list[str] | None = None) -> int:
    """Do the job that the command line names; return 0, or 1 after printing what is wrong and what to do."""
    parser = argparse.ArgumentParser(prog="python -m deformlib", description="Deformable video models on body videos.")
    jobs = parser.add_subparsers(title="jobs", required=True)

    job = jobs.add_parser("corpus", help="make the procedural corpus, or render a folder of motion capture")
    job.add_argument("folder", type=Path, nargs="?", default=DEFAULT_CORPUS, help="where the videos go (%(default)s)")
    job.add_argument("--motion", type=Path, help="a folder of BVH files with a manifest.csv, to render")
    job.add_argument("--seed", type=int, default=0, help="of the procedural corpus (%(default)s)")
    job.set_defaults(do=make)

    job = jobs.add_parser("reproduce", help="train plain and deformable, clean and as the paper split, and print Table 1")
    job.add_argument("--corpus", type=Path, default=DEFAULT_CORPUS, help="videos or BVH files (%(default)s, made if missing)")
    job.add_argument("--recipe", default="classroom", help="tiny, classroom, paper or released (%(default)s)")
    job.add_argument("--seeds", type=_count, default=3, help="runs of each kind (%(default)s)")
    job.add_argument("--workers", type=_count, help="processes on a CPU (as many as cores, at most 4)")
    job.add_argument("--results", type=Path, help="folder for records and tables (results/RECIPE, with the corpus' name)")
    job.set_defaults(do=reproduce)

    job = jobs.add_parser("table", help="make the tables and figures of a results folder anew")
    job.add_argument("folder", type=Path)
    job.set_defaults(do=table)

    job = jobs.add_parser("predict", help="name the emotion in a video")
    job.add_argument("video", type=Path)
    job.add_argument("--weights", type=Path, help="a .safetensors file of a run (the newest of results/)")
    job.set_defaults(do=predict)

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
        motion_corpus(options.motion, options.folder)
    else:
        make_corpus(options.folder, seed=options.seed)
    print(f"the videos and manifest.csv are in {options.folder}")


def reproduce(options: argparse.Namespace) -> None:
    """Run the study behind Table 1 on a corpus and write its tables."""
    import torch

    from .bodies import make_corpus
    from .mocap import has_motion, motion_corpus
    from .corpus import Corpus
    from .results import write_tables
    from .study import RECIPES, StudyError, run, table1_experiments

    folder, results = options.corpus, options.results
    if results is None:
        name = options.recipe if folder == DEFAULT_CORPUS else f"{options.recipe}-{folder.resolve().name}"
        results = Path("results") / name
    if options.recipe not in RECIPES:
        raise StudyError(f"There is no recipe {options.recipe!r}: take one of {', '.join(RECIPES)}.")
    if folder == DEFAULT_CORPUS:
        make_corpus(folder)
    elif has_motion(folder):
        folder = motion_corpus(folder, Path("data") / f"{folder.resolve().name}-videos")
    network = RECIPES[options.recipe].network
    corpus = Corpus(folder, network.size, network.in_channels == 3)
    experiments = table1_experiments(corpus, range(options.seeds), options.recipe)
    workers = options.workers or (1 if torch.cuda.is_available() else min(4, os.cpu_count() or 1))
    print(f"{len(experiments)} runs into {results}; those with a record there are done")
    run(experiments, results, workers=workers)
    write_tables(results)
    print(f"\n{(results / 'table1.md').read_text(encoding='utf-8')}")
    print(f"records, weights, table1.md, table1.csv, recall.csv, table1.png and confusion.png are in {results}")


def table(options: argparse.Namespace) -> None:
    """Make the tables of a results folder anew and print Table 1."""
    from .results import write_tables

    write_tables(options.folder)
    print((options.folder / "table1.md").read_text(encoding="utf-8"))


def predict(options: argparse.Namespace) -> None:
    """Print what a trained network says of one video, likeliest class first."""
    import torch

    from .frames import read_clip
    from .network import NetworkError, load_network

    found = sorted(Path("results").glob("*/[!.]*deformable*.safetensors"), key=lambda path: path.stat().st_mtime)
    weights = options.weights or (found or sorted(EXAMPLE.glob("*.safetensors")) or [None])[-1]
    if weights is None:
        raise NetworkError("No trained network here: run `make reproduce` first, or name a file with --weights.")
    net, classes = load_network(weights)
    config = net.config
    clip = torch.from_numpy(read_clip(options.video, config.length, config.size, config.in_channels == 3))
    with torch.inference_mode():
        probabilities = net(clip[None] / 255)[0].softmax(0)
    print(f"{options.video} according to {weights}:")
    for share, label in sorted(zip(probabilities.tolist(), classes), reverse=True)[:5]:
        print(f"  {100 * share:5.1f} %  {label:12} {'#' * round(40 * share)}")


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
