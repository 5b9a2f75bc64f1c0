"""Upload an exported folder to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from lit_metric.encoders.pretrained import HUB_ID


def check_name(name: str) -> None:
    """Raise ValueError unless ``name`` can be the id of a model on the hub: ``NAME`` or ``OWNER/NAME``."""
    if not HUB_ID.fullmatch(name):
        raise ValueError(f"{name!r} can't be the name of a model on the hub: give OWNER/NAME")


def push(folder: str | Path, name: str, private: bool = False) -> str:
    """Upload a folder as a model of the hub, which is created if there is none of this name.

    The rights are those of ``hf auth login``, or of the token in ``HF_TOKEN``.

    Args:
        folder: that :func:`~lit_metric.hub.export` wrote.
        name: ``OWNER/NAME``; without an owner, the user's own.
        private: whether a model that is created is private.

    Returns:
        The address of the upload.

    Raises:
        ValueError: if the name can't be one.
        OSError: if the hub can't be reached or refuses.
    """
    check_name(name)
    api = HfApi()
    try:
        made = api.create_repo(name, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=made.repo_id, folder_path=folder, commit_message="Upload a model exported by lit-metric"
        )
    except HFValidationError as error:
        raise ValueError(f"{name!r} can't be the name of a model on the hub: {error}") from error
    except OfflineModeIsEnabled as error:
        raise OSError(f"{name} was not uploaded: HF_HUB_OFFLINE is set. {folder} is complete") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        hint = "log in by `hf auth login` with a token that may write" if status in (401, 403) else ""
        reason = hint or (str(error).splitlines() or [type(error).__name__])[0]
        raise OSError(f"{name} was not uploaded: {reason}. {folder} is complete") from error
    except Exception as error:
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests")):
            raise
        raise OSError(
            f"{name} was not uploaded: the hub can't be reached ({error}). {folder} is complete: upload it "
            "where there is a network"
        ) from error
    return str(done.commit_url if hasattr(done, "commit_url") else done)
