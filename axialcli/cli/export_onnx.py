"""`axial export-onnx`: a model as an .onnx file, compared with the original before it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from axialcli.cli.console import as_text, printable, say
from axialcli.cli.model_options import (
    ClassesOption,
    InputRangeOption,
    ModelMppOption,
    PositionsOption,
    ThresholdOption,
    model_hints,
)
from axialcli.cli.sample import parse_size
from axialcli.config import ExportDtype, check_choice
from axialcli.errors import ModelError
from axialcli.geometry import Size


def export_onnx(
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="A name from 'axial models list', or a .safetensors or .pth file."
        ),
    ] = "nuclei",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file to write. Default: NAME.onnx, here.")
    ] = None,
    opset: Annotated[int, typer.Option(help="Operator set of the file, 18 to 23.")] = 20,
    dtype: Annotated[str, typer.Option(help="float32 or float16: of weights, input and output.")] = "float32",
    static: Annotated[
        str | None, typer.Option(help="Fix height and width, as HEIGHTxWIDTH. Default: any size.")
    ] = None,
    pixels: Annotated[
        bool, typer.Option("--pixels", help="The file takes values of 0 to 255 and normalises them itself.")
    ] = False,
    classes: ClassesOption = None,
    model_mpp: ModelMppOption = None,
    input_range: InputRangeOption = None,
    threshold: ThresholdOption = None,
    positions: PositionsOption = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite.")] = False,
) -> None:
    """Export a model to ONNX.

    Batch, height and width stay free unless --static fixes them. The file knows all that the model
    file knows and is a model by itself: axial predict --model FILE.onnx. It is compared with the
    original at several shapes on every execution provider that is there, and written only where
    they agree.
    """
    check_choice("--dtype", dtype, ExportDtype)
    size = None if static is None else parse_size(static, option="--static")
    hints = model_hints(
        classes=classes,
        model_mpp=model_mpp,
        input_range=input_range,
        threshold=threshold,
        positions=positions,
    )
    from axialcli.backends import load_model
    from axialcli.backends.export import export
    from axialcli.backends.model_file import carries_code
    from axialcli.backends.torch_model import TorchModel
    from axialcli.backends.zoo import find_model, model_files, model_names
    from axialcli.output import check_file, publish_bytes

    path = find_model(model)
    if path.suffix == ".onnx":
        raise ModelError(f"{path}: is an ONNX file already; axial predict --model takes it as it is")
    if carries_code(path):
        raise ModelError(
            f"{path}: TorchScript cannot be exported; axial predict --trust-model runs it as it is"
        )
    # Not the name that the file gives itself, which could lead anywhere.
    target = out or Path(f"{model if model in model_names() else Path(model).stem}.onnx")
    check_file(target, inputs=model_files(model), may_exist=force)
    loaded = load_model(model, device="cpu", dtype="float32", hints=hints)
    assert isinstance(loaded, TorchModel)
    made = export(loaded, opset=opset, dtype=dtype, static=size, pixels=pixels)  # type: ignore[arg-type] # checked
    publish_bytes(made.data, target)
    say(f"{printable(str(target))}: {len(made.data) / 1e6:.2f} MB, {_shape(size)}")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in (
        "provider",
        "batch x height x width",
        "largest difference",
        "of logits up to",
        "same class",
    ):
        table.add_column(heading)
    for parity in made.parities:
        table.add_row(
            parity.provider,
            " x ".join(map(str, parity.shape)),
            f"{parity.largest_difference:.2g}",
            f"{parity.largest_logit:.3g}",
            f"{100 * parity.agreement:.4g} %",
        )
    say(as_text(table))


def _shape(size: Size | None) -> str:
    if size is None:
        return "any batch, height and width"
    return f"any batch of {size.height} x {size.width} pixels, no other size"
