"""A trained network as an ONNX file, for programs without PyTorch."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polyp_utils.config import ExtraError
from polyp_utils.data.catalog import CATALOG
from polyp_utils.files import atomic
from polyp_utils.hub import Model, load_model
from polyp_utils.inference import to_probabilities
from polyp_utils.model import STRIDE


class _Probabilities(nn.Module):
    """The network with what `to_probabilities` does after it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return to_probabilities(self.network(images))


def export_onnx(source: str | Path, path: str | Path, **settings: Any) -> Path:
    """Writes a model as ONNX, in float32 with batch norm folded; atomically.

    The graph maps ``images``, float32 (B, 3, H, W), RGB in [0, 1], to ``probabilities``, float32
    (B, C, H, W), of the scheme's classes, background first; they sum to 1 (one logit gives two).
    B is free, H and W are any multiples of 16; frames of other sizes are resized by the caller, as
    in `Model.probabilities`. The file's metadata (``polyp_utils``, one JSON string) holds
    ``classes``, ``polyp`` (their indices that are polyp), ``scheme``, ``image_size`` (the side to
    resize frames to), ``dataset`` and ``terms``.

    Args:
        source: run folder, weights file or Hub repository, as in `load_model`.
        path: of the file to write.
        settings: ``scheme`` and ``image_size`` for weights that do not say them.

    Raises:
        ExtraError: onnx or onnxscript is not installed.
        FileNotFoundError, HubError, WeightsError: as in `load_model`.
    """
    try:
        import onnx  # noqa: F401  # both are needed by torch.onnx, and optional
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExtraError(str(error.name), "export") from error
    model = load_model(source, device="cpu", precision="fp32", runtime="torch", **settings)
    batch, rows, columns = (torch.export.Dim(name) for name in ("batch", "rows", "columns"))
    program = torch.onnx.export(
        _Probabilities(model.network).eval(),
        (torch.rand(2, 3, 2 * STRIDE, 3 * STRIDE),),  # sizes of 1 would be taken as fixed
        dynamo=True,
        dynamic_shapes=({0: batch, 2: STRIDE * rows, 3: STRIDE * columns},),
        input_names=["images"],
        output_names=["probabilities"],
        verbose=False,
    )
    assert program is not None  # as it is without dynamo
    program.model.metadata_props["polyp_utils"] = json.dumps(_metadata(model), ensure_ascii=False)
    with atomic(Path(path)) as temporary:
        program.save(temporary)
    return Path(path)


def _metadata(model: Model) -> dict[str, Any]:
    dataset = model.metadata.get("settings", {}).get("dataset", "")
    terms = "not known to this package: ask whoever trained the weights"
    if dataset in CATALOG:
        terms = f"derived from {CATALOG[dataset].title}: {CATALOG[dataset].licence}"
    return {
        "classes": model.scheme.classes,
        "polyp": model.scheme.polyp,
        "scheme": model.scheme.name,
        "image_size": model.image_size,
        "dataset": dataset,
        "terms": f"{terms}; for research and teaching, not a medical device",
    }
