"""`axial evaluate`: how good a mask is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from axialcli.cli.console import as_text, classes_shown, printable, say, show_messages
from axialcli.cli.progress import progress_bar


def evaluate(
    pred: Annotated[Path, typer.Argument(help="A mask as `axial predict` writes it, or a folder of masks.")],
    truth: Annotated[
        Path, typer.Argument(help="The true one, TIFF or PNG; or a folder with files of the same names.")
    ],
    ignore: Annotated[
        list[str] | None,
        typer.Option(help="Values or classes of the truth whose pixels count nowhere: 0,255. Repeatable."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Which values of TRUTH are which of PRED, numbers or names: 1=0,2=1 or "
            "0=background,1=interior+border. Default: the same."
        ),
    ] = None,
    instances: Annotated[
        bool, typer.Option("--instances", help="The truth numbers its objects; each above 0 is class 1.")
    ] = False,
    objects: Annotated[
        str | None, typer.Option(help="Match the connected regions of this class with the true objects.")
    ] = None,
    border: Annotated[
        str | None, typer.Option(help="Pixels of this class belong to the nearest of the --objects.")
    ] = None,
    min_object_px: Annotated[
        int, typer.Option(help="Predicted objects smaller than this do not count, in the truth's pixels.")
    ] = 0,
    by_size: Annotated[
        bool, typer.Option("--by-size", help="Both show the same field, whatever the files say of it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures.")] = False,
) -> None:
    """Compare masks with true ones: Dice and IoU of each class, F1 of objects.

    The truth's grid decides: PRED is laid on it by georeference, else by microns per pixel, else by size.
    """
    from axialcli.evaluate import evaluate as compare

    show_messages()
    with progress_bar("comparing") as bar:
        report = compare(
            pred,
            truth,
            ignore=tuple(word for words in ignore or () for word in words.split(",")),
            classes=classes,
            instances=instances,
            objects=objects,
            border=border,
            min_object_px=min_object_px,
            by_size=by_size,
            progress=bar.update,
        )
    say(json.dumps(report, indent=1) if as_json else _summary(report))


def _summary(report: dict[str, Any]) -> str:
    """A line per class, then the means, then the objects; for several pictures their means beside."""
    pooled, mean, several = report["pooled"], report["mean"], report["pictures"] > 1
    own = {one["name"]: one for one in mean["classes"]}
    table = Table(box=None, padding=(0, 2, 0, 0))
    extra = ("mean dice", "mean iou") if several else ()
    for heading in ("class", "dice", "iou", "true pixels", "predicted", *extra):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    shown, more = classes_shown(
        pooled["classes"],
        lambda one: int(one["truth_px"]) + int(one["pred_px"]),
        len(pooled["classes"]),
    )
    for one in shown:
        picture = (_figure(own[one["name"]][key]) for key in ("dice", "iou"))
        table.add_row(
            printable(one["name"]),
            _figure(one["dice"]),
            _figure(one["iou"]),
            f"{one['truth_px']:,}",
            f"{one['pred_px']:,}",
            *(picture if several else ()),
        )
    means = (_figure(mean[key]) for key in ("mean_dice", "mean_iou"))
    table.add_row(
        "mean", _figure(pooled["mean_dice"]), _figure(pooled["mean_iou"]), "", "", *(means if several else ())
    )
    lines = [as_text(table), *([f"and {more} more classes; --json lists them"] if more else [])]
    lines.append(f"{_figure(pooled['agreement'])} of {pooled['pixels']:,} pixels agree")
    if several:
        lines.append(
            f"pooled over {report['pictures']} pictures; the mean columns are over their own figures"
        )
    if "objects" in pooled:
        lines.append(_objects(pooled["objects"], mean["objects"] if several else None))
    return "\n".join(lines)


def _objects(found: dict[str, Any], mean: dict[str, Any] | None) -> str:
    text = (
        f"objects: {found['truth']:,} true, {found['pred']:,} predicted, "
        f"{found['thresholds'][0]['matched']:,} matched at IoU 0.5: F1 {_figure(found['f1'])}; "
        f"mean F1 over IoU 0.5 to 0.95 {_figure(found['mean_f1'])}"
    )
    if mean is None:
        return text
    own = f"F1 {_figure(mean['f1'])}, over IoU 0.5 to 0.95 {_figure(mean['mean_f1'])}"
    return f"{text}\nmean of the pictures' own: {own}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
