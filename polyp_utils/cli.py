"""What the notebooks do, as commands: ``python -m polyp_utils train --recipe card``."""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from polyp_utils.common.config import RECIPES, RunConfig
from polyp_utils.common.exceptions import ExtraError, UserError, few
from polyp_utils.common.names import printable

_SHOWN_FINDINGS = 3  # of each check
_SHEET_PAIRS = 120  # on the contact sheet of an audit


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the verb.

    Returns:
        0 on success; 1 if an audit found errors; 2 after a user error, which is one line on stderr.
    """
    parser = argparse.ArgumentParser(prog="python -m polyp_utils", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    train = verbs.add_parser("train", help="train a recipe, or resume its run")
    adopted = verbs.add_parser(
        "adopt", help="make weights trained elsewhere (--init FILE) into a run"
    )
    adopted.add_argument("--note", required=True, help="who trained them, and how")
    for command in (train, adopted):
        _add_settings(command)
    for verb, help_text in {
        "evaluate": "score a finished run on test; writes scores and run card into its folder",
        "publish": "copy a finished run to results/published, without large weights",
    }.items():
        command = verbs.add_parser(verb, help=help_text)
        command.add_argument("--run", default="", help="name or path; default: the newest")
    command.add_argument("--light", action="store_true", help="settings and tables only")
    onnx = verbs.add_parser("export", help="write a run's network as an ONNX file")
    onnx.add_argument("--run", default="", help="name or path; default: the newest")
    onnx.add_argument("--path", default="", help="output file; default: ./<run>.onnx")
    onnx.add_argument("--int8", action="store_true", help="also <run>.int8.onnx; needs the data")
    onnx.add_argument("--web", default="", help="folder for a page that runs it in a browser")
    onnx.add_argument("--ort", default="", help="onnxruntime-web unpacked; default: by npm")
    apply = verbs.add_parser("predict", help="class maps, tables and a page of frames and videos")
    apply.add_argument("paths", nargs="+", metavar="PATH", help="image, folder, pattern or video")
    apply.add_argument("--out", required=True, help="folder for the results")
    apply.add_argument("--weights", default="", help="run, file or Hub id; default: the released")
    apply.add_argument("--keys", default="", help="key map of weights that another program saved")
    apply.add_argument("--scheme", help="label scheme of weights that do not record it")
    apply.add_argument("--image-size", type=int, help="input side of weights that do not record it")
    apply.add_argument("--mirrored", action="store_true", help="average mirror images; 4 × slower")
    apply.add_argument("--probabilities", action="store_true", help="P(polyp) per pixel too")
    apply.add_argument("--maps-only", action="store_true", help="no pictures and no page")
    apply.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    score = verbs.add_parser("score", help="score another system's folder of masks or maps")
    score.add_argument("folder", metavar="FOLDER", help="holds <id>.png, or another image, each")
    score.add_argument("--dataset", required=True, help="name in the catalogue, or a folder")
    score.add_argument("--split", default="", help="name or CSV file; default: all frames")
    score.add_argument("--part", default="test", help="train, val or test; of the split")
    meaning = "map:LOW-HIGH, above:N, indices:N,N or colours:RRGGBB; default: found if certain"
    score.add_argument("--values", default="", help=f"what the values mean: {meaning}")
    score.add_argument("--against", default="", help="run or folder to compare it with")
    score.add_argument("--against-values", default="", help="what the values of that folder mean")
    score.add_argument("--image-size", type=int, default=256, help="network size in pixels")
    score.add_argument("--out", default="", help="folder; default: results/score-FOLDER-DATASET")
    look = verbs.add_parser(
        "audit", help="check a data set for errors and duplicates; writes tables"
    )
    _add_dataset(look)
    copies = "frames copied to measure the recall of near-duplicates; slow"
    look.add_argument("--duplicate-recall", type=int, default=0, help=copies)
    speed = verbs.add_parser("bench", help="time training against a plain loop; writes CSV")
    _add_dataset(speed, "phantom")
    speed.add_argument("--widths", default="64,32,16", help="network widths, comma-separated")
    speed.add_argument("--image-size", type=int, default=256, help="network input side in pixels")
    speed.add_argument("--batch-size", type=int, default=8, help="training batch size")
    speed.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    switch = argparse.BooleanOptionalAction
    speed.add_argument("--cost", action=switch, default=True, help="also points of the cost model")
    same = verbs.add_parser("equivalence", help="check that our loop learns what a plain one does")
    _add_dataset(same, "kvasir-seg")
    same.add_argument("--width", type=int, default=16, help="network width")
    same.add_argument("--image-size", type=int, default=256, help="network input side in pixels")
    same.add_argument("--epochs", type=int, default=4, help="epochs of each loop")
    same.add_argument("--seeds", type=int, default=3, help="number of seeds")
    same.add_argument("--limit", type=int, default=0, help="first n frames of each part; 0: all")
    dice = verbs.add_parser("runtimes", help="check that all runtimes give the card snippet's Dice")
    dice.add_argument(
        "--runs", default="", help="runs or weights files, comma-separated; default: the newest run"
    )
    of_file = ", for weights files that do not record it"
    _add_dataset(dice, "kvasir-seg", of_file)
    dice.add_argument("--split", help=f"split used in training{of_file}")
    dice.add_argument("--scheme", help=f"label scheme{of_file}")
    dice.add_argument("--image-size", type=int, help=f"network input side in pixels{of_file}")
    many = verbs.add_parser("folder", help="time predict on a folder against the card's snippet")
    many.add_argument("--runs", default="", help="runs with weights, comma-separated")
    _add_dataset(many, "kvasir-seg")
    many.add_argument("--frames", type=int, default=48, help="number of frames")
    many.add_argument("--rounds", type=int, default=3, help="turns of each way")
    which = verbs.add_parser("ablate", help="train or resume the ablation study")
    which.add_argument("--width", type=int, default=16, help="network width")
    which.add_argument("--image-size", type=int, default=128, help="network input side in pixels")
    which.add_argument("--seeds", type=int, default=3, help="number of seeds, trained in turn")
    which.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    harm = verbs.add_parser("faults", help="kill commands, fill the disk: what is lost?")
    harm.add_argument("--part", default="", help="parts, comma-separated; default: all")
    harm.add_argument("--command", default="", help="commands, comma-separated; default: all")
    harm.add_argument("--count", type=int, default=0, help="faults of a part; 0: all")
    harm.add_argument("--out", default="", help="folder of the tables; default: results/faults")
    verbs.add_parser("report", help="write the documents' tables from the published runs")
    parsed, others = parser.parse_known_args(arguments)
    if others:
        hint = "" if others[0].startswith("-") else ". Patterns need quotes: '*.png'"
        parser.error(f"unrecognized arguments: {few(others)}{hint}")
    options = vars(parsed)
    return _run(options.pop("verb"), options)


def _add_dataset(
    command: argparse.ArgumentParser, default: str | None = "", note: str = ""
) -> None:
    """``--dataset``, or ``--images`` and ``--masks``; `_join_patterns` makes them one.

    ``default``: empty: one of them must be given; None: the verb has its own.
    """
    which = command.add_mutually_exclusive_group(required=default == "")
    text = RunConfig.__dataclass_fields__["dataset"].metadata["help"] + note
    which.add_argument("--dataset", default=default, help=text)
    instead = "pattern of the images, in quotes, in place of --dataset"
    which.add_argument("--images", default="", metavar="GLOB", help=instead)
    command.add_argument("--masks", default="", metavar="GLOB", help="pattern of their masks")


def _join_patterns(options: dict[str, Any]) -> None:
    images, masks = options.pop("images", ""), options.pop("masks", "")
    if bool(images) != bool(masks):
        lacking = "--masks" if images else "--images"
        raise ValueError(f"{lacking} is missing: give the patterns of both, in quotes")
    if images:
        options["dataset"] = f"{images}::{masks}"


def _add_settings(command: argparse.ArgumentParser) -> None:
    for field in fields(RunConfig):
        flag, kind = "--" + field.name.replace("_", "-"), type(field.default)
        text = field.metadata["help"].replace("%", "%%")
        if field.name == "dataset":
            _add_dataset(command, None)
        elif field.name == "recipe":
            command.add_argument(flag, default=field.default, help=f"{text}: {', '.join(RECIPES)}")
        elif kind is bool:
            action: Any = argparse.BooleanOptionalAction
            command.add_argument(flag, action=action, default=None, help=text)
        else:
            command.add_argument(flag, type=kind, default=None, help=text)


def _run(verb: str, options: dict[str, Any]) -> int:
    try:
        _join_patterns(options)
        return _VERBS[verb](**options) or 0
    except (ValueError, OSError, UserError, ExtraError) as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what is finished stays; the same command resumes", file=sys.stderr)
        return 130


def _train(recipe: str, **overrides: Any) -> None:
    if "torch" not in sys.modules and "TORCHELASTIC_RUN_ID" not in os.environ:  # single process
        config = RunConfig.from_recipe(recipe, **overrides)  # bad settings are rejected at once
        print(f"{config.run_name}: loading PyTorch", flush=True)  # which takes seconds
    from polyp_utils.common.processes import agreed, joined
    from polyp_utils.train.fit import fit

    with joined():
        with agreed():
            config = RunConfig.from_recipe(recipe, **overrides)
        fit(config)


def _adopt(note: str, recipe: str, **overrides: Any) -> None:
    from polyp_utils.train.adopt import adopt

    print(f"adopted as {adopt(RunConfig.from_recipe(recipe, **overrides), note).path}")


def _evaluate(run: str) -> None:
    from polyp_utils.data.splits import leak_warning
    from polyp_utils.publish.run_card import write_run_card
    from polyp_utils.runs.run import find_run
    from polyp_utils.score.evaluation import evaluate_run

    found = find_run(run)
    evaluation = evaluate_run(found)
    if run or not found.published:
        evaluation.save(found)
        write_run_card(found)
    if warning := leak_warning(found.split, found.config.dataset):
        print(warning)
    dice = evaluation.polyp_dice
    print(
        f"{found.name}: polyp Dice {dice} on {dice.n} test frames, per image at the original size"
    )


def _publish(run: str, light: bool) -> None:
    from polyp_utils.publish.published import publish
    from polyp_utils.runs.run import find_run

    print(f"published as {publish(find_run(run), light).path}")


def _export(run: str, path: str, int8: bool, web: str, ort: str) -> None:
    from polyp_utils.deploy.onnx import calibration_images, export_int8, export_onnx
    from polyp_utils.deploy.web import copy_ort, write_web_page
    from polyp_utils.runs.run import find_run

    if path and web:
        raise ValueError("give --path or --web: the page and its file have one folder")
    if ort and not web:
        raise ValueError("--ort is for the page: give --web, its folder")
    found = find_run(run)
    if web:
        copy_ort(Path(web), ort)  # first: it may be refused
    file = export_onnx(found.path, path or Path(web, f"{found.name}.onnx"))
    print(f"wrote {file}")
    if int8:
        images = calibration_images(found.config, found.split)
        file = export_int8(file, file.with_suffix(".int8.onnx"), images)
        print(f"wrote {file}")
    if web:
        print(f"wrote {write_web_page(file)}: python -m http.server --directory {web}")


def _predict(paths: list[str], out: str, maps_only: bool, **options: Any) -> int:
    from polyp_utils.apply.predict import predict_paths

    done = predict_paths(paths, out, pictures=not maps_only, **options)
    print(done)
    return 1 if done.unreadable else 0


def _score(out: str, **given: Any) -> None:
    from polyp_utils.score.systems import Task, check_free, score_system

    task = Task(**given)
    folder = Path(out) if out else task.results
    check_free(folder, task)
    scored = score_system(task)
    scored.save(folder)
    print("\n".join(scored.evaluation.notes))
    print(scored.table.to_string())
    part = f"{task.part} of split {task.split}" if task.split else "all frames"
    print(
        f"{scored.evaluation.record['n']} frames of {task.dataset}, {part}",
        *scored.findings,
        sep="\n",
    )
    print(f"per_image.csv and summary.json are in {folder}")


def _audit(dataset: str, duplicate_recall: int) -> int:
    from polyp_utils import plots
    from polyp_utils.analyse import audit
    from polyp_utils.analyse.duplicate_recall import recall_of_copies
    from polyp_utils.analyse.frames import pair_frames
    from polyp_utils.common.figures import JPEG
    from polyp_utils.common.files import atomic, write_csv
    from polyp_utils.common.paths import results_root
    from polyp_utils.data.catalog import get_info
    from polyp_utils.runs.run import make_folder

    folder = make_folder(results_root() / f"audit-{get_info(dataset).name}")
    try:
        found = audit.audit(dataset)
    except BaseException:
        with contextlib.suppress(OSError):  # not empty after an earlier audit
            folder.rmdir()
        raise
    found.save(folder)
    if len(found.pairs):
        pairs = found.pairs.head(_SHEET_PAIRS)
        title = f"{len(pairs)} of {len(found.pairs)} near-duplicate pairs of {found.title}"
        sheet = plots.sheet(pair_frames(found.source, pairs), title, columns=8)
        with atomic(folder / "pairs.jpg") as temporary:
            sheet.savefig(temporary, format="jpg", pil_kwargs=JPEG)
    there = found.summary.query("findings > 0").drop(columns="for example")
    print(there.to_string(index=False) if len(there) else "nothing to report")
    print(found.masks)
    for severity in ("error", "doubt"):
        for check, rows in found.of_severity(severity).groupby("check", sort=False):
            different = rows.drop_duplicates("detail")
            for row in different.head(_SHOWN_FINDINGS).itertuples():
                what = f"{check}: {row.id}{': ' * bool(row.id)}{row.detail}"
                print(f"{severity}: {printable(what)}")
            if len(different) > _SHOWN_FINDINGS:
                print(f"{severity}: {check}: and {len(different) - _SHOWN_FINDINGS} more")
    if duplicate_recall:
        write_csv(folder / "recall.csv", recall_of_copies(dataset, duplicate_recall))
    print(f"{len(found.frames)} frames in {found.seconds:.0f} s; all findings are in {folder}")
    return 1 if len(found.errors) else 0


def _bench(
    dataset: str, widths: str, image_size: int, batch_size: int, device: str, cost: bool
) -> None:
    from polyp_utils.bench.run import FOLDER, POINTS, benchmark
    from polyp_utils.common.paths import results_root

    folder = results_root() / FOLDER
    numbers = [int(width) for width in widths.split(",")]
    points = POINTS if cost else ()
    table = benchmark(dataset, folder, numbers, image_size, batch_size, device, points=points)
    print(table.to_string(index=False))
    print(f"written to {folder}")


def _equivalence(
    dataset: str, width: int, image_size: int, epochs: int, seeds: int, limit: int
) -> None:
    from polyp_utils.bench.agreement import differences
    from polyp_utils.bench.equivalence import compare_loops
    from polyp_utils.bench.run import FOLDER, describe_machine
    from polyp_utils.common.device import get_compute
    from polyp_utils.common.files import write_json
    from polyp_utils.common.paths import results_root

    size = {"width": width, "image_size": image_size}
    changes = {"dataset": dataset, **size, "epochs": epochs, "limit": limit}
    config = RunConfig.from_recipe("card", **changes)
    path = results_root() / FOLDER / "equivalence.csv"
    measured = describe_machine(get_compute(), **changes, seeds=seeds)
    found = compare_loops(config, path, range(seeds))
    write_json(path.with_suffix(".json"), measured)
    print(differences(found).to_string(index=False))
    print(f"written to {path}")


def _runtimes(runs: str, **settings: Any) -> None:
    from polyp_utils.bench.dice import dice_of_runs, find_weights
    from polyp_utils.bench.run import FOLDER, describe_machine
    from polyp_utils.common.device import get_compute
    from polyp_utils.common.files import write_csv, write_json
    from polyp_utils.common.paths import results_root

    path, measured = results_root() / FOLDER / "runtimes.csv", describe_machine(get_compute("cpu"))
    table = dice_of_runs([find_weights(name, **settings) for name in runs.split(",")])
    write_csv(path, table)
    write_json(path.with_suffix(".json"), measured)
    print(table.to_string(index=False))
    print(f"written to {path}")


def _folder(runs: str, dataset: str, frames: int, rounds: int) -> None:
    from polyp_utils.bench.folder import folder_speed
    from polyp_utils.bench.folder_findings import folder_findings
    from polyp_utils.bench.run import FOLDER, describe_machine
    from polyp_utils.common.device import get_compute
    from polyp_utils.common.files import write_csv, write_json
    from polyp_utils.common.paths import results_root
    from polyp_utils.runs.run import find_run

    path, measured = results_root() / FOLDER / "folder.csv", describe_machine(get_compute("cpu"))
    table = folder_speed([find_run(name) for name in runs.split(",")], dataset, frames, rounds)
    write_csv(path, table)
    write_json(path.with_suffix(".json"), {**measured, "frames": frames, "rounds": rounds})
    print(folder_findings(table).to_string(index=False))
    print(f"written to {path}")


def _ablate(seeds: int, width: int, image_size: int, device: str) -> None:
    from polyp_utils.train.ablation import ablate, folder_of

    size = {"width": width, "image_size": image_size, "device": device}
    ablate(seeds, folder_of(width, image_size), **size)


def _faults(part: str, command: str, count: int, out: str) -> int:
    from polyp_utils.common.paths import results_root
    from polyp_utils.faults.campaign import GOOD, run_campaign

    folder = Path(out or results_root() / "faults").resolve()
    parts, commands = ([x for x in given.split(",") if x] for given in (part, command))
    tables = run_campaign(folder, main, parts, commands, count)
    failed = 0
    for name, table in tables.items():
        wrong = int((~table["outcome"].isin(GOOD)).sum())
        print(f"{name}: {len(table)} faults, {wrong} with a wrong end")
        failed += wrong
    print(f"written to {folder}")
    return 1 if failed else 0


def _report() -> None:
    from polyp_utils.publish.tables import write

    print("\n".join(f"wrote {path}" for path in write()) or "the tables are up to date")


_VERBS: dict[str, Callable[..., int | None]] = {
    "train": _train,
    "adopt": _adopt,
    "evaluate": _evaluate,
    "publish": _publish,
    "export": _export,
    "predict": _predict,
    "score": _score,
    "audit": _audit,
    "bench": _bench,
    "equivalence": _equivalence,
    "runtimes": _runtimes,
    "folder": _folder,
    "ablate": _ablate,
    "faults": _faults,
    "report": _report,
}
