"""A prepared folder, sent where others find it: by the libraries of those places, with the user's own credentials."""

from __future__ import annotations

from pathlib import Path

from kvfrontier.runners.errors import UsageError


def to_hub(folder: Path, repo: str, *, private: bool) -> str:
    """Push the folder to a data set of the Hugging Face Hub, made where there is none; its address.

    Raises UsageError without a token (`hf auth login`, or HF_TOKEN), and where the Hub refuses.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi()
    try:
        api.whoami()
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=folder, commit_message="Publish records")
    except LocalTokenNotFoundError as error:
        raise UsageError(
            "no token of the Hugging Face Hub is known; log in with `hf auth login`, or set HF_TOKEN. The data set is "
            f"ready in {folder}"
        ) from error
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, httpx.HTTPError, OSError) as error:
        raise UsageError(
            f"the Hub did not take it ({_first_line(error)}); the data set is ready in {folder}"
        ) from error
    return f"https://huggingface.co/datasets/{repo}"


def to_wandb(folder: Path, project: str, name: str) -> str:
    """Log the folder as an artifact of a W&B project; its address. Raises UsageError where W&B does not take it."""
    import wandb

    try:
        with wandb.init(project=project, job_type="publish", name=name) as run:
            artifact = wandb.Artifact(_plain(name), type="dataset")
            artifact.add_dir(str(folder))
            run.log_artifact(artifact)
            return run.url or f"{project}, offline: sync it with `wandb sync`"
    except (wandb.Error, OSError) as error:
        raise UsageError(f"W&B did not take it ({_first_line(error)}); the data set is ready in {folder}") from error


def _plain(name: str) -> str:
    """A name as W&B allows it."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:128]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
