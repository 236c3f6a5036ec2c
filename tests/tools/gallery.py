"""Pictures, answer and results table of README.md, from committed networks and records.

Writes results/gallery and what is between README's marks. Numbers in the texts come from the arrays that are drawn.
The screenshot needs Chromium and playwright; without them it stays as it is. With --texts nothing is drawn: only the
answer and the table are written.
"""

import importlib.util
import json
import re
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from execute_notebooks import few_colours, small_picture

from deformlib.align.view import AlignExplorer, example, save_pair_film
from deformlib.explorer import ClipTrace, Explorer, trace_clip
from deformlib.files import atomic_write
from deformlib.make.animation import save_film
from deformlib.make.figures import plan_corpus
from deformlib.make.films import make_corpus
from deformlib.network import VideoNet, load_network
from deformlib.offsets import base_points, offset_magnitude, point_weights, sampling_points
from deformlib.paper.answer import (
    all_large,
    answer_sentence,
    cause_sentence,
    choice_sentence,
    compared,
    dose_sentence,
    find_large,
    margin_sentence,
    read_answer,
)
from deformlib.paper.claims import describe_runs
from deformlib.paper.measures import receptive_field
from deformlib.paper.table2 import corrected_ci, held_out_ratio
from deformlib.records import load_records
from deformlib.tables import paired_differences, runs_table
from deformlib.video import read_clip
from deformlib.views import POINT, draw_direction, draw_frame, draw_magnitude, draw_map, draw_points, draw_quiver

ROOT = Path(__file__).parents[2]
RUNS, GALLERY = ROOT / "results" / "example-narrow", ROOT / "results" / "gallery"
ALIGN, SOMEONE = ROOT / "results" / "align", "Someone the network never saw (not GEMEP)"
TABLE = {"procedural": "example-claims", "motion capture": "example-motion"}  # whose records README's table shows
PLAIN = "#bbbbbb"  # the points of a plain network, beside those of a deformable one


def load() -> tuple[dict[str, VideoNet], torch.Tensor, torch.Tensor]:
    """Both example networks; a clip of joy by an actor they never saw, as they see it and larger."""
    nets = {name: load_network(RUNS / f"narrow-{name}-by_actor-0.safetensors")[0] for name in ("plain", "deformable")}
    record, config = json.loads((RUNS / "narrow-deformable-by_actor-0.json").read_text()), nets["plain"].config
    cast = plan_corpus(cast=record["corpus"]["actors"])
    unseen = [clip for clip in cast if f"a{clip.actor:02d}" in record["split"]["held_out"]]
    plan = [clip for clip in unseen if clip.name[3:6] == "joy"][:1]
    with tempfile.TemporaryDirectory() as folder:
        path = make_corpus(folder, plan) / plan[0].name
        small, large = (torch.from_numpy(read_clip(path, config.length, size)) / 255 for size in (config.size, 224))
    return nets, small, large


def accuracy(name: str) -> str:
    """How many clips of people that it never saw a network names rightly, in words."""
    tested = json.loads((RUNS / f"narrow-{name}-by_actor-0.json").read_text())["validation"]
    right = sum(label == said for label, said in zip(tested["label"], tested["predicted"], strict=True))
    return f"{right} of {len(tested['label'])} clips of unseen people right"


def answer() -> str:
    """README's answer: the sentences of the study `large`, and what they are of."""
    found = find_large(ROOT / "results")
    records = all_large(found)
    read = read_answer(records)
    if read.row is None:
        return f"Its runs are not there yet ({len(read.pairs)} of {read.seeds} pairs), so it has no answer so far.\n"
    told = [f"**{answer_sentence(read, found)}**", margin_sentence(read), choice_sentence(read)]
    told += [dose_sentence(read, records), cause_sentence(read, found)]
    ran = compared(records, read.seeds)
    of = f" ({ran[0]['corpus']['videos']:,} clips; {describe_runs(ran)}.)" if ran else ""
    return " ".join(filter(None, told)) + of + "\n"


def results() -> str:
    """README's table: accuracies in percent with corrected 95 % intervals, and their difference, paired by seed; and
    what to see in it.
    """
    rows, seen = [], []
    for data, folder in TABLE.items():
        records = load_records(ROOT / "results" / folder)
        runs, chance = runs_table(records), 100 / len(records[0]["corpus"]["classes"])
        for split in (split for split in ("by_copy", "by_clip", "by_actor") if split in set(runs["split"])):
            row, ratio = {"data": data, "split": split, "chance level": f"{chance:.1f}"}, held_out_ratio(records, split)
            both = runs[
                (runs["split"] == split) & runs["model"].isin(("plain", "deformable"))
            ]  # not the rows of Table 2
            for model, found in both.groupby("model")["accuracy"]:
                row[model] = "{:.1f} ± {:.1f}".format(*corrected_ci(found, ratio))
            pairs = paired_differences(runs, split)
            mean, half = corrected_ci(pairs, ratio)
            rows.append(row | {"difference": f"{mean:+.1f} ± {half:.1f}", "seeds": str(len(pairs))})
            seen.append((mean, half, both[both["model"] == "plain"]["accuracy"].mean()))
    columns = ["data", "split", "chance level", "plain", "deformable", "difference", "seeds"]
    means, halves, (copied, _, unseen, *_) = np.transpose(seen)
    table = pd.DataFrame(rows)[columns].to_markdown(index=False, disable_numparse=True)
    return (
        f"{table}\n\nRead it from line to line: on procedural clips the same kind of network, plain, has {copied:.0f} "
        f"% right by copy and {unseen:.0f} % on people it never saw. From left to right, "
        f"{(abs(means) > halves).sum() or 'none'} of the {len(rows)} intervals of the difference leaves out zero: they "
        f"reach {halves.min():.0f} to {halves.max():.0f} points to either side.\n"
    )


def save(name: str, figure: plt.Figure) -> None:
    """One picture of the gallery."""
    with atomic_write(GALLERY / name) as beside:
        figure.savefig(beside, dpi=80)
    plt.close(figure)


def lighten(path: Path) -> None:
    """Write a PNG in at most 256 colours, a GIF in the same 96 in all its frames."""
    with atomic_write(path) as beside:
        if path.suffix == ".png":
            beside.write_bytes(small_picture(path.read_bytes()))
            return
        frames, milliseconds = iio.imread(path, index=None)[..., :3], iio.immeta(path)["duration"]
        sheet = few_colours(frames.reshape(-1, *frames.shape[2:]), 96)  # one below the other
        height, width = frames.shape[1:3]
        parts = [sheet.crop((0, top, width, top + height)) for top in range(0, sheet.height, height)]
        parts[0].save(beside, "GIF", save_all=True, append_images=parts[1:], duration=milliseconds, loop=0)


def moved(seen: ClipTrace, step: int, layer: int, depth: int, place: tuple[int, int]) -> float:
    """How far the points of a position are from where a plain network looks, in pixels of the frame."""
    stack = seen.stack(step, layer, depth)
    regular = [replace(field, offset=0 * field.offset) for field in stack]
    return (sampling_points(stack, place) - sampling_points(regular, place)).norm(dim=1).mean().item()


def draw(seen: ClipTrace, step: int, depth: int, place: tuple[int, int], ax: plt.Axes, **options) -> plt.Axes:
    """The points of a position, `depth` layers deep, counted from layer 1, on the frame of their step."""
    stack = seen.stack(step, depth - 1, depth)
    return draw_points(
        sampling_points(stack, place), draw_frame(seen.frames[step], ax), base_points(stack, place), **options
    )


def follow() -> str:
    """The film that opens README and chapter 00: every second pair as a GIF, all as an MP4; returns what it shows."""
    alignment = example(ALIGN, 288)
    save_pair_film(alignment, GALLERY / "follow.gif", fps=2.5, every=2)
    save_pair_film(alignment, GALLERY / "follow.mp4")
    learned, ordinary = alignment.distances().mean(0)
    return (
        "A small alignment network of chapter 06b, not the paper's network, on somebody it never saw. Left, frame b "
        "and places on hands, elbows and head; in the middle, the frame 160 ms before: nine unmoved taps stay at the "
        "same places and miss the hands. Right, the same frame: the nine taps of a deformable kernel, red, look where "
        f"each place truly was, the green crosses. Over all {len(alignment)} pairs of this clip, chosen among 25 "
        f"because seen arms go farthest in it, unmoved taps are {ordinary:.1f} of 96 pixels off, "
        f"learned ones {learned:.1f}"
    )


def zoom(ax: plt.Axes, seen: ClipTrace, place: tuple[int, int], side: int = 80) -> plt.Axes:
    """Show only so many pixels around a position, for points that are close together."""
    plt.setp(ax.texts, clip_on=True)  # of the frame
    y, x = (seen.to_frame[0] * torch.tensor(place) + seen.to_frame[1]).tolist()
    ax.set(xlim=(x - side / 2, x + side / 2), ylim=(y + side / 2, y - side / 2))
    return ax


def screenshot(explorer: Explorer | AlignExplorer, name: str) -> None:
    """An explorer as a page shows it."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None or importlib.util.find_spec("playwright") is None:
        print(f"{name} stays as it is: Chromium and playwright are needed for a new one.")
        return
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        path = explorer.export_html(Path(folder) / "explorer.html")
        with play.chromium.launch(executable_path=program, args=["--no-sandbox"]) as chromium:
            page = chromium.new_page(viewport={"width": 960, "height": 700})
            page.goto(path.as_uri())
            with atomic_write(GALLERY / name) as beside:
                page.locator(".deformlib-explorer").screenshot(path=beside)


def main() -> None:
    """Draw everything, and put the texts between the marks of README.md."""
    torch.set_num_threads(1)
    GALLERY.mkdir(parents=True, exist_ok=True)
    nets, clip, large = load()
    traces = {name: trace_clip(net, clip, large) for name, net in nets.items()}
    plain, seen, config = traces["plain"], traces["deformable"], nets["deformable"].config
    middle = (config.map_size // 2, config.map_size // 2)
    step, wide = config.deform_steps[0][1], large.shape[-1]
    said = {name: f"{name}: {accuracy(name)}" for name in nets}
    both, texts = ", ".join(said.values()), {}

    def film(step: int, ax: plt.Axes) -> None:
        draw_frame(seen.frames[step], ax)
        for trace, colour in ((plain, PLAIN), (seen, POINT)):
            y, x = sampling_points(trace.stack(step, 2, 3), middle).T
            ax.scatter(x, y, s=4, linewidths=0, zorder=3, color=colour)
        ax.set(title=f"step {step + 1} of {config.steps}", xlim=(-8, wide + 8), ylim=(wide + 8, -8))
        ax.axis("off")

    save_film(film, range(config.steps), GALLERY / "offsets.gif", size=3.0)
    far = max(moved(seen, at, 2, 3, middle) for at in range(config.steps))
    texts["offsets.gif"] = (
        f"A figure raises its arms; at each of {config.steps} steps, 729 points show where three trained layers look "
        f"from the middle of the map, up to {far:.1f} of {wide} pixels away, on average, "
        "from the gray grid of a plain network"
    )

    figure, axes = plt.subplots(1, 3, figsize=(9, 2.9), layout="constrained")
    figure.suptitle(said["deformable"])
    for depth, ax in zip((1, 2, 3), axes, strict=True):
        weights = point_weights(seen.stack(step, depth - 1, depth), middle)
        zoom(draw(seen, step, depth, middle, ax, weights=weights), seen, middle).set_title(f"{9**depth} points")
    save("points.png", figure)
    distances = ", ".join(f"{moved(seen, step, depth - 1, depth, middle):.1f}" for depth in (1, 2, 3))
    texts["points.png"] = (
        f"Where one position looks, one, two and three layers deep: 9, 81 and 729 points, coloured by weight, "
        f"{distances} of {wide} pixels from where they would be without offsets"
    )

    (field,) = seen.stack(step, 0)
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.9), layout="constrained")
    figure.suptitle(said["deformable"])
    zoom(draw_quiver(field.offset, draw_frame(seen.frames[step], axes[0]), field.to_input), seen, middle, wide // 2)
    draw_magnitude(field.offset, axes[1], field.to_input)
    draw_direction(field.offset, axes[2], field.to_input)
    save("field.png", figure)
    sizes = offset_magnitude(field.offset)
    texts["field.png"] = (
        f"The field of the first layer at step {step}: mean offsets as arrows, around the middle, magnitude everywhere "
        f"(mean {sizes.mean():.2f}, largest {sizes.max():.2f} map pixels), and direction"
    )

    figure, axes = plt.subplots(2, 3, figsize=(9, 6.4), layout="constrained")
    figure.suptitle(both)
    for row, (name, trace) in zip(axes, traces.items(), strict=True):
        for at, ax in zip(config.deform_steps[0], row, strict=True):
            zoom(draw(trace, at, 1, middle, ax), trace, middle).set_title(f"{name}, step {at}")
    save("plain_and_deformable.png", figure)
    steps = [moved(seen, at, 0, 1, middle) for at in config.deform_steps[0]]
    texts["plain_and_deformable.png"] = (
        f"The nine taps of layer 1 at three steps: above a square in the plain network, below moved by "
        f"{', '.join(f'{each:.1f}' for each in steps)} of {wide} pixels in the deformable one"
    )

    at, fields = config.deform_steps[2][1], {}
    for name, net in nets.items():
        pixels = clip[None].clone().requires_grad_()
        hidden = []  # states of layer 3
        hook = net.recurrent[2].register_forward_hook(lambda layer, given, output, kept=hidden: kept.append(output[0]))
        net(pixels)
        hook.remove()
        fields[name] = receptive_field(hidden[0][(0, slice(None), at, *middle)].norm(), pixels).sum(0)
    figure, axes = plt.subplots(2, 2, figsize=(9, 7.4), layout="constrained")
    top = max(float(field.max()) for field in fields.values())
    for row, (name, trace) in zip(axes, traces.items(), strict=True):
        draw(trace, at, 3, middle, row[0]).set_title(said[name])
        draw_map(fields[name], row[1], label="|gradient|", limits=(0, top)).set_title("effective receptive field")
    save("receptive_field.png", figure)
    shared = torch.stack([field.flatten() / field.sum() for field in fields.values()]).amin(0).sum()
    texts["receptive_field.png"] = (
        f"Dots beside what really counts, the gradient to the pixels: the effective receptive fields of the plain "
        f"and the deformable network share {100 * shared:.0f} %, however different their dots"
    )

    title = f"Joy, by an actor the networks never saw. {both} (not GEMEP)"
    screenshot(Explorer(traces, title, step=step, layer=2, depth=3), "explorer.png")
    texts["explorer.png"] = (
        "The explorer: hover over a frame, plain and deformable side by side, up to three layers deep"
    )

    screenshot(AlignExplorer(example(ALIGN), SOMEONE), "follow_explorer.png")
    texts["follow_explorer.png"] = (
        "The explorer of chapter 00: point at a place of one frame, and see where taps look for it in the frame before"
    )
    texts["follow.gif"] = follow()
    for path in (*GALLERY.glob("*.png"), *GALLERY.glob("*.gif")):
        lighten(path)
    pictures = {name: f"![{text}](results/gallery/{name})\n\n*{text}.*\n" for name, text in texts.items()}
    told = f"One network of each kind, one run of each ({both}): pictures to look at, no comparison.\n"
    write({"film": pictures.pop("follow.gif"), "gallery": "\n".join([told, *pictures.values()])} | blocks())
    weight = sum(file.stat().st_size for file in GALLERY.iterdir())
    print(f"results/gallery: {len(texts)} pictures, {weight / 1e3:.0f} kB, none from GEMEP")


def blocks() -> dict[str, str]:
    """What of README is written from records alone: mark -> text."""
    return {"answer": answer(), "results": results()}


def write(texts: dict[str, str]) -> None:
    """Put texts between the marks of README.md."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, block in texts.items():
        marks = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
        readme, found = re.subn(marks, lambda match, block=block: match[1] + block + match[2], readme, flags=re.DOTALL)
        if not found:
            print(
                f"README.md has no marks <!-- {name} --> and <!-- end of {name} -->; between them belongs:\n\n{block}"
            )
    with atomic_write(ROOT / "README.md") as beside:
        beside.write_text(readme, encoding="utf-8")


if __name__ == "__main__":
    write(blocks()) if "--texts" in sys.argv else main()
