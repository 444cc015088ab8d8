"""Large files from public addresses, whole or not at all."""

import os
import tempfile
from pathlib import Path

from core.errors import UserError


def download(url: str, path: Path, md5: str) -> None:
    """Fetch `url` into `path`, with a progress bar, and check it.

    Raises:
        UserError: without a network, for another digest, or a folder that cannot be written.
    """
    from torchvision.datasets.utils import download_url  # here, because its import takes a second

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A download that is stopped in the middle must not pass for the file.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            download_url(url, folder, path.name, md5)
            os.replace(Path(folder) / path.name, path)
    except (OSError, RuntimeError) as error:  # RuntimeError: what torchvision says of a wrong digest
        raise UserError(f"cannot download {url} into {path.parent}: {error}") from error
