"""PyTorch: ``nn.Module`` or ``ExportedProgram`` → :class:`TorchProgram`."""

from tapml_nb.frontends.torch.program import TorchProgram, import_torch

__all__ = ["TorchProgram", "import_torch"]
