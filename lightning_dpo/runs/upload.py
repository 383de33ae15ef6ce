"""Uploads of exports to the Hugging Face hub."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.utils import validate_repo_id

from lightning_dpo.errors import UserError
from lightning_dpo.printable import one_line
from lightning_dpo.runs.exports import RECORD


class Upload:
    """An upload to a model repository on the hub.

    Args:
        name: Id of the repository, `org/name`. It is created if it does not exist.

    Raises:
        UserError: The id is invalid, or nobody is logged in.
    """

    def __init__(self, name: str) -> None:
        self.name, self.api = name, HfApi()
        try:
            validate_repo_id(name)
            self.api.whoami()
        except Exception as error:  # of huggingface_hub and of the network
            raise UserError(
                f"--push={name}: {one_line(str(error))[:200]}; log in with `hf auth login`, or set HF_TOKEN"
            ) from error

    def __call__(self, folder: Path) -> str:
        """Upload the files of `folder`, and return the address of the repository.

        Raises:
            UserError: The hub rejects them. The export stays where it is.
        """
        try:
            url = self.api.create_repo(self.name, exist_ok=True)
            self.api.upload_folder(
                repo_id=self.name,
                folder_path=folder,
                commit_message="Export of lightning_dpo",
                ignore_patterns=[RECORD],  # it has local paths, and is only read from a folder
            )
        except Exception as error:
            raise UserError(f"--push={self.name}: {one_line(str(error))[:200]}; the export is in {folder}") from error
        return str(url)
