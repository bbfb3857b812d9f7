"""Exports a trained network as an ONNX file, for programs without PyTorch."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polyp_utils.common.config import RunConfig
from polyp_utils.common.exceptions import ExtraError, WeightsError
from polyp_utils.common.files import atomic
from polyp_utils.data.catalog import CATALOG
from polyp_utils.data.dataset import PolypDataset
from polyp_utils.data.naming import name_without_place
from polyp_utils.data.split import Split
from polyp_utils.deploy.foreign import Normalised
from polyp_utils.deploy.load import Model, load_model
from polyp_utils.model.predict import cannot_overflow, to_probabilities
from polyp_utils.model.unet import STRIDE


class _OfFrames(nn.Module):
    """From frames as programs hold them to class probabilities: what the ONNX graph computes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) -> float32 (B, C, H, W), at any size."""
        height, width = images.shape[1:3]
        x = images.permute(0, 3, 1, 2).float() * (1 / 255)
        missing = [(n + STRIDE - 1) // STRIDE * STRIDE - n for n in (width, height)]
        x = F.pad(x, (0, missing[0], 0, missing[1]), mode="replicate")
        return to_probabilities(self.network(x))[..., :height, :width]


def export_onnx(source: str | Path, path: str | Path, **settings: Any) -> Path:
    """Writes a model as ONNX, in float32 with batch norm folded; atomically.

    The graph maps ``images``, uint8 (B, H, W, 3), RGB, to ``probabilities``, float32 (B, C, H, W),
    of the scheme's classes, background first; they sum to 1 (C is 2 with one logit). Scaling to
    [0, 1], any normalisation that the model has, and softmax are inside. B, H and W are free. The
    caller resizes frames to ``image_size``, as `Model.at_network_size` does. Where H or W is no
    multiple of 16, the last row or column is repeated up to the next one; what that adds is cut
    off again.

    The file's metadata (``polyp_utils``, one JSON string) holds ``classes``, ``polyp`` (indices of
    the polyp classes), ``scheme``, ``image_size`` (the side to resize frames to), ``images`` and
    ``probabilities`` (what they are, in words), ``run``, ``commit``, ``dataset``, ``sha256`` (the
    first 16 digits, of the weights file) and ``terms``.

    Args:
        source: run folder, weights file or Hub repository, as in `load_model`.
        path: the file to write.
        settings: ``scheme`` and ``image_size`` for weights without that metadata.

    Raises:
        ExtraError: onnx or onnxscript is not installed.
        FileNotFoundError, HubError, WeightsError: as in `load_model`.
        WeightsError: numbers in the network might overflow, so that its output would be none.
    """
    try:
        import onnx  # noqa: F401  # optional; torch.onnx needs both
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExtraError(str(error.name), "export") from error
    model = load_model(source, device="cpu", precision="fp32", runtime="torch", **settings)
    network = model.network.network if isinstance(model.network, Normalised) else model.network
    if not cannot_overflow(network):  # other programs would make a mask of it
        raise WeightsError(
            f"{model.path} is not exported: a frame could take these weights beyond float32, to "
            "numbers that are no probabilities; use weights whose training was stable"
        )
    names = ("batch", "height", "width")
    program = torch.onnx.export(
        _OfFrames(model.network).eval(),
        (torch.zeros(2, 2 * STRIDE + 1, 3 * STRIDE + 1, 3, dtype=torch.uint8),),  # 1 would be fixed
        dynamo=True,
        dynamic_shapes=({i: torch.export.Dim(name) for i, name in enumerate(names)},),
        input_names=["images"],
        output_names=["probabilities"],
        verbose=False,
    )
    assert program is not None  # None only without dynamo
    (output,) = program.model.graph.outputs
    assert output.shape is not None
    output.shape[2], output.shape[3] = names[1:]  # were formulas
    program.model.metadata_props["polyp_utils"] = json.dumps(_metadata(model), ensure_ascii=False)
    with atomic(Path(path)) as temporary:
        program.save(temporary)
    return Path(path)


def export_int8(source: str | Path, path: str | Path, images: Tensor) -> Path:
    """Quantises an ONNX file of `export_onnx`: its convolutions run in int8; atomically.

    Inputs, outputs and metadata stay the same. ONNX Runtime's static quantiser inserts pairs of
    ``QuantizeLinear`` and ``DequantizeLinear``; ONNX Runtime and OpenVINO compute in int8 between.

    - Weights have 7 bits, −64 to 64, with one scale per output channel; activations are uint8. A
      CPU with AVX2 but without VNNI adds two products in 16 bits: 2·255·64 = 32,640 fits, while
      8 bits saturate. (With OpenVINO limited to AVX2, probabilities were bit-identical to those
      with VNNI; with 8 bits they were off by up to 0.96.)
    - The first convolution stays in float: it does less than 1 % of the arithmetic but would cause
      a third to a half of the mean error of the probabilities. So do upsampling, for which ONNX
      Runtime has no int8 kernel, and the softmax.
    - Ranges are the smallest and largest values seen.

    Chosen on validation parts: polyp Dice of `card-small` (width 16) and a run of width 32 changes
    by 0.002 to 0.003, up or down, ±0.004; one scale per tensor was worse at width 16 and no better
    at 32; percentiles, entropy, more than 64 frames and a last layer in float were no better.

    Args:
        source: the file in float32.
        path: the file to write.
        images: frames for calibration, uint8 (N, 3, S, S), see `calibration_images`.

    Raises:
        ExtraError: onnx or onnxruntime is not installed.
        ValueError: no images.
    """
    try:
        import onnx
        from onnxruntime import quantization
        from onnxruntime.quantization.quant_utils import add_pre_process_metadata
    except ImportError as error:
        raise ExtraError(str(error.name), "export") from error
    if not len(images):
        raise ValueError("no images to calibrate with: give some of the training part")
    model = onnx.load(source)
    add_pre_process_metadata(model)  # nothing to do: batch norm is folded, shapes are inferred
    feeds = ({"images": image[None].permute(0, 2, 3, 1).numpy()} for image in images)
    with atomic(Path(path)) as temporary:
        quantization.quantize_static(
            model,
            temporary,
            SimpleNamespace(get_next=lambda: next(feeds, None)),
            op_types_to_quantize=["Conv", "MaxPool", "Concat"],
            nodes_to_exclude=[next(n.name for n in model.graph.node if n.op_type == "Conv")],
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )
    return Path(path)


def calibration_images(config: RunConfig, split: Split, count: int = 64) -> Tensor:
    """Evenly spaced frames from a run's training part, uint8 (N, 3, S, S)."""
    ids = split.train
    dataset = PolypDataset(config.dataset, config.image_size)
    return dataset.images[dataset.rows(ids[:: max(1, len(ids) // count)][:count])]


def describe_onnx(path: str | Path) -> dict[str, Any]:
    """What `export_onnx` wrote into a file about its model.

    Raises:
        WeightsError: another program wrote the file, or it is no ONNX file.
    """
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # of protobuf, whose kinds differ between versions
        raise WeightsError(f"{path} is no ONNX file ({error}): use a file of `export`") from error
    properties = {p.key: p.value for p in model.metadata_props}
    if "polyp_utils" not in properties:
        raise WeightsError(f"{path} does not say what its classes are: use a file of `export`")
    return json.loads(properties["polyp_utils"])


def _metadata(model: Model) -> dict[str, Any]:
    dataset = name_without_place(str(model.metadata.get("settings", {}).get("dataset", "")))
    terms = "not known to this package: ask whoever trained the weights"
    if dataset in CATALOG:
        terms = f"derived from {CATALOG[dataset].title}: {CATALOG[dataset].licence}"
    assert model.path is not None  # it was loaded from there
    side = model.image_size
    return {
        "classes": model.scheme.classes,
        "polyp": model.scheme.polyp,
        "scheme": model.scheme.name,
        "image_size": side,
        "images": f"RGB, uint8 (B, H, W, 3); trained at {side}×{side}, resized with antialias",
        "probabilities": "of the classes, float32 (B, C, H, W); polyp where those of polyp exceed "
        "0.5 together",
        "run": model.metadata.get("run", ""),
        "commit": model.metadata.get("commit", ""),
        "dataset": dataset,
        "sha256": hashlib.sha256(model.path.read_bytes()).hexdigest()[:16],
        "terms": f"{terms}; for research and teaching, not a medical device",
    }
