"""What trainings are measured against: forward, loss, backward and step on one batch that lies in memory, no more."""

import torch
import torch.nn.functional as F

from il2m.learning.networks import build_network


class BareStep:
    """One call is one step. shape: of the batch, (n, channels, height, width). past: classes of a teacher, whose scores
    are distilled from; 0: there is none."""

    def __init__(
        self,
        network: str,
        shape: tuple[int, int, int, int],
        classes: int,
        *,
        past: int = 0,
        layout: torch.memory_format = torch.channels_last,
        device: str = "cpu",
        bf16: bool = False,
    ) -> None:
        self.device, self.bf16, self.past, (self.size, channels, *_) = device, bf16, past, shape
        self.model = build_network(network, channels, classes, seed=0).to(device, memory_format=layout).train()
        if past:
            self.teacher = build_network(network, channels, past, seed=1).to(device, memory_format=layout).eval()
        options = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4, "fused": True}
        self.optimizer = torch.optim.SGD(self.model.parameters(), **options)
        self.images = torch.randn(shape, device=device).contiguous(memory_format=layout)
        self.labels = torch.randint(classes, (self.size,), device=device)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            scores = self.model(self.images)
            loss = F.cross_entropy(scores, self.labels)
            if self.past:
                with torch.no_grad():
                    known = self.teacher(self.images)
                loss = loss + F.cross_entropy(scores[:, : self.past] / 2, F.softmax(known / 2, dim=1))
        loss.backward()
        self.optimizer.step()
