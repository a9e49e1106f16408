"""The ledger: what the base model could do on every sample of the pool, before finetuning.

A sample is *damaged* when the base model had it right and the finetuned model has it wrong. The
second half of that sentence is read off the training step for free; the first half has to be known
beforehand, per sample, and it never changes. That record is the ledger: made once, kept on disk, and
shared by every run that starts from the same base model and pool.

**What it holds.** One row per sample; row i is pool index i. `correct` (bool) and `loss` (float32, nats)
are always there. Further columns have any name and trailing shape: `label`, `features`, `logits`,
or whatever a partition wants to group by (`ledger.with_columns(genre=...)`).

**How it is read.** `Ledger.open` checks every byte against the checksums in the header and maps the
arrays read-only, so a pool of 10^8 samples costs no memory until rows are looked at. A ledger carries
fingerprints of its pool and base model: `verify_pool` and `verify_model` refuse another one and say what
differs. `Ledger.from_arrays` is for those who have the numbers already.

**How it is written.** `LedgerWriter` takes rows in any order and survives being killed: the same call again
goes on where it stopped. On disk a ledger is a folder with nothing in it that can run code:

```
base.ledger/
  header.json     schema, size, columns with checksums, fingerprints; written last, so: the ledger is whole
  correct.npy     bool (N,)
  loss.npy        float32 (N,)
  <column>.npy    (N, ...)
  <column>.basis.npy  float32 (k, d), where rows of a column are coordinates of vectors of d numbers
  partial.json    only while recording: what is being recorded
  recorded.npy    only while recording: bool (N,), the rows that are safely on disk
```

**Where things are.** `ledger` reads, `writer` writes; below them `recording` starts or resumes a folder,
`arrays` and `documents` are its two kinds of files, `columns` says what a column may hold.
`pool_fingerprint` and `model_fingerprint` rest on `digest`.
"""

from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.ledger.model_fingerprint import fingerprint_model
from lightning_mixcd.ledger.pool_fingerprint import fingerprint_pool
from lightning_mixcd.ledger.writer import LedgerWriter

__all__ = [
    "Ledger",
    "LedgerWriter",
    "fingerprint_model",
    "fingerprint_pool",
]
