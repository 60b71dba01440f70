"""A process that trains `cnn_gap` in a bare loop, one round per line of its input, for `benchmarks.shared_machine`.

It imports no more than it needs, because several of these processes are in memory together.
"""

import os
import sys
import time

import torch
from torch import nn

from opsin.models import cnn_gap
from opsin.training.precision import resolve_precision


def main() -> None:
    """Train for the seconds of each line; print images, seconds and the CPU seconds of this process."""
    batch_size = int(sys.argv[1])
    torch.manual_seed(0)
    bfloat16 = resolve_precision("auto", "cpu").precision == "bf16"
    network = cnn_gap(num_logits=10, in_channels=1, image_size=(28, 28)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    images = torch.rand(4096, 1, 28, 28).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(10, (len(images),))
    print("ready", flush=True)
    for line in sys.stdin:
        start, used, steps = time.perf_counter(), time.process_time(), 0
        while (seconds := time.perf_counter() - start) < float(line):
            index = torch.randint(len(images), (batch_size,))
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = nn.functional.cross_entropy(network(images[index]), targets[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            steps += 1
        print(steps * batch_size, seconds, time.process_time() - used, flush=True)


if __name__ == "__main__":
    if os.environ.get("CUDA_VISIBLE_DEVICES") is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a search for CUDA would delay every optimizer step
    main()
