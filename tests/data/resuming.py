"""Saving and resuming of a stream and its strategy."""

import io

import torch

__all__ = ["Resumable"]


class Resumable:
    """A run with a `strategy` and a `stream`, saved and resumed as the callback does it."""

    def checkpoint(self):
        """What a run saves, as it comes back from disk."""
        file = io.BytesIO()
        place = self.stream.place
        torch.save((self.strategy.state_dict(), self.stream.state_dict(place), place.numbers()), file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    def resume(self, *checkpoints):
        """Go on where runs of all ranks, or of the first, were saved."""
        strategy, stream, _ = checkpoints[0]
        self.strategy.load_state_dict(strategy)
        self.stream.load_state_dict(stream, torch.stack([place for *_, place in checkpoints]))
        return self
