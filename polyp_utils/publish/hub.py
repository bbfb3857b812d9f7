"""Uploads a run to the Hugging Face Hub: weights, ONNX file, card and record."""

import json
import tempfile
from pathlib import Path

from polyp_utils.common.files import refuse_links
from polyp_utils.deploy.onnx import export_onnx
from polyp_utils.model.weights import with_metadata
from polyp_utils.publish.published import without_place
from polyp_utils.publish.run_card import write_run_card
from polyp_utils.runs.run import Run


def push(run: Run, repo_id: str, private: bool = False) -> str:
    """Uploads a run in one commit (log in with ``hf auth login``); returns the commit's address.

    That is the card, the weights, ``model.onnx``, the tables in JSON and ``history.csv``. Names and
    form are those of huggingface_hub's ``PyTorchModelHubMixin``: ``config.json``, the run's record,
    begins with the arguments of `UNet`, so a class of both has ``from_pretrained``. Figures are not
    uploaded: they show frames, which are not ours to redistribute.

    Raises:
        FileNotFoundError: the run has no weights.
        RunError: its folder holds links: what they lead to need not be the run's.
        ExtraError: onnx or onnxscript is not installed.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    if not run.weights.is_file():
        raise FileNotFoundError(f"{run.weights} is missing: push a run that has its weights")
    refuse_links(run.path)
    with tempfile.TemporaryDirectory() as folder:
        onnx = export_onnx(run.path, Path(folder, "model.onnx"))
        files = [write_run_card(run, repo_id), run.weights, onnx, run.path / "history.csv"]
        tables = (path for path in run.path.glob("*.json") if path.name != "config.json")
        added = {path.name: path.read_bytes() for path in (*files, *tables) if path.is_file()}
    network = {"in_channels": 3, "num_classes": run.scheme.logits, "width": run.config.width}
    added["config.json"] = json.dumps({**network, **without_place(run.record)}, indent=2).encode()
    added[run.weights.name] = with_metadata(run.weights, without_place)
    HfApi().create_repo(repo_id, private=private, exist_ok=True)
    operations = [CommitOperationAdd(name, content) for name, content in added.items()]
    message = f"Upload {run.name}"
    return HfApi().create_commit(repo_id, operations, commit_message=message).commit_url
