"""What the parts of a latent memory have read of a batch of texts.

Shapes: B rows, T places, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rtx_lab.models.latent_stream import Stream


@dataclass(slots=True)
class Reading:
    """A batch of texts as each part has read it; None where a part reads nothing of its own."""

    reader: Stream
    weaver: Stream | None
    trigger: Stream | None
    state_BD: Tensor
    """What the trigger judges: the last hidden state of its role at each row's last text."""
    waiting: list[tuple[Tensor, Tensor]]
    """What a weaver that reads by itself has not read yet, embeddings (B, T, D) and which are real (B, T)."""

    def select(self, index: Tensor) -> Reading:
        """The rows `index`, in that order; rows may be repeated."""
        weaver = None if self.weaver is None else self.weaver.select(index)
        trigger = None if self.trigger is None else self.trigger.select(index)
        waiting = [(x_BTD[index], real_BT[index]) for x_BTD, real_BT in self.joined()]
        return Reading(self.reader.select(index), weaver, trigger, self.state_BD[index], waiting)

    def joined(self) -> list[tuple[Tensor, Tensor]]:
        """What the weaver has not read yet in one piece; none where it has read all."""
        if not self.waiting:
            return []
        x_BTD, real_BT = (torch.cat(parts, dim=1) for parts in zip(*self.waiting, strict=True))
        return [(x_BTD, real_BT)]

    def lengthen(self, places: int) -> None:
        """Stand as if every part had read so many more places; for prices."""
        for stream in (self.reader, self.trigger):
            if stream is not None:
                stream.lengthen(places)
        if self.weaver is not None:
            x_BTD = self.state_BD.new_zeros(len(self.state_BD), places, self.state_BD.shape[1])
            self.waiting.append((x_BTD, torch.ones_like(x_BTD[..., 0], dtype=torch.bool)))


def last_state(judged_BTD: Tensor, told_BT: Tensor, before_BD: Tensor) -> Tensor:
    """The state at each row's last place that counts, or the one before where there is none: (B, D)."""
    place_T = torch.arange(1, told_BT.shape[1] + 1, device=told_BT.device)
    last_B = (told_BT * place_T).amax(1)
    picked_BD = judged_BTD[torch.arange(len(last_B), device=last_B.device), (last_B - 1).clamp_min(0)]
    return torch.where((last_B > 0)[:, None], picked_BD, before_BD.to(picked_BD.dtype))
