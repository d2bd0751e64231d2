"""What the tests of a stage compute on: the CPU, or what `pytest --device` says. Settled before any test is imported."""

import torch

DEVICE = torch.device("cpu")
