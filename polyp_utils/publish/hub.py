"""Uploads a run's weights, card and record to the Hugging Face Hub."""

from polyp_utils.deploy.load import FILE
from polyp_utils.publish.run_card import write_run_card
from polyp_utils.runs.run import Run


def push(run: Run, repo_id: str, private: bool = False) -> str:
    """Uploads card, weights and record (log in with ``hf auth login``); returns the address.

    Figures are not uploaded: they show frames, which are not ours to redistribute.

    Raises:
        FileNotFoundError: the run has no weights.
    """
    from huggingface_hub import HfApi

    if not run.weights.is_file():
        raise FileNotFoundError(f"{run.weights} is missing: push a run that has its weights")
    write_run_card(run, repo_id)
    HfApi().create_repo(repo_id, private=private, exist_ok=True)
    files = ["README.md", FILE, "*.json", "history.csv"]
    return HfApi().upload_folder(repo_id=repo_id, folder_path=run.path, allow_patterns=files)
