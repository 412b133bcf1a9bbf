"""Variational autoencoders in PyTorch, as its users write them, with weights of ours."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# PyTorch comes with the extra `bench`: where it is missing, types are not checked against it.
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]


class VAE(nn.Module):
    """An encoder to mu and log sigma, a decoder to log-odds."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def nats(self, x: torch.Tensor, epsilon: torch.Tensor) -> torch.Tensor:
        """-ELBO of each image, `[B]`, of one sample."""
        loc, log_scale = self.encoder(x).chunk(2, dim=-1)
        z = loc + log_scale.exp() * epsilon
        log_odds = self.decoder(z)
        lost = functional.binary_cross_entropy_with_logits(log_odds, x, reduction="none")
        kl = 0.5 * (loc**2 + (2 * log_scale).exp() - 1) - log_scale
        return lost.flatten(1).sum(-1) + kl.sum(-1)


def dense(params: Mapping[str, Any]) -> VAE:
    """The network of two `nets.MLP` with tanh."""

    def mlp(weights: Mapping[str, Any]) -> nn.Sequential:
        layers = [weights["layers"][name] for name in sorted(weights["layers"], key=int)]
        hidden = [part for layer in layers for part in (_linear(**layer), nn.Tanh())]
        return nn.Sequential(*hidden, _linear(**weights["output"]))

    return VAE(mlp(params["encoder"]), mlp(params["decoder"]))


def convolutional(params: Mapping[str, Any], small: tuple[int, int, int]) -> VAE:
    """The network of `nets.ConvEncoder` and `nets.ConvDecoder` with relu, of grey images.

    Args:
        params: Its parameters.
        small: (height, width, channels) where the convolutions meet the dense layers.
    """
    height, width, depth = small
    given, made = params["encoder"], params["decoder"]

    def convolutions(layers: Mapping[str, Any], kind: Any) -> list[nn.Module]:
        found = []
        for name in sorted(layers, key=int):
            kernel = np.asarray(layers[name]["kernel"])
            if kind is nn.ConvTranspose2d:
                kernel, channels = kernel.transpose(3, 2, 0, 1), kernel.shape[:1:-1]
            else:
                kernel, channels = kernel.transpose(3, 2, 0, 1), kernel.shape[2:]
            layer = kind(channels[0], channels[1], 4, stride=2, padding=1)
            _load(layer, kernel, layers[name]["bias"])
            found.append(layer)
        return found

    # PyTorch has channels first: the dense layers' numbers change places instead of the pixels.
    kernel = np.asarray(given["dense"]["kernel"]).reshape(height, width, depth, -1)
    first = _linear(
        kernel.transpose(2, 0, 1, 3).reshape(-1, kernel.shape[-1]), given["dense"]["bias"]
    )
    down = convolutions(given["convolutions"], nn.Conv2d)
    encoder = [part for layer in down for part in (layer, nn.ReLU())]
    outer, inner = (made["dense"][name] for name in ("0", "1"))
    kernel = np.asarray(inner["kernel"]).reshape(-1, height, width, depth)
    second = _linear(
        kernel.transpose(0, 3, 1, 2).reshape(len(kernel), -1),
        np.asarray(inner["bias"]).reshape(height, width, depth).transpose(2, 0, 1).ravel(),
    )
    *up, last = convolutions(made["convolutions"], nn.ConvTranspose2d)
    decoder = [part for layer in up for part in (layer, nn.ReLU())]
    return VAE(
        nn.Sequential(*encoder, nn.Flatten(), first, nn.ReLU(), _linear(**given["output"])),
        nn.Sequential(
            _linear(**outer),
            nn.ReLU(),
            second,
            nn.ReLU(),
            nn.Unflatten(1, (depth, height, width)),
            *decoder,
            last,
        ),
    )


def training_steps(
    vae: VAE, grey: np.ndarray, *, batch_size: int, latent: int, learning_rate: float
) -> Callable[[int], float]:
    """So many steps of Adam on batches binarised anew; returns the last one's loss."""
    device = next(vae.parameters()).device
    images = torch.tensor(grey, device=device)
    optimizer = torch.optim.Adam(vae.parameters(), lr=learning_rate)

    def run(steps: int) -> float:
        loss = torch.tensor(math.nan)
        for _ in range(steps):
            x = torch.bernoulli(images[torch.randint(len(images), (batch_size,), device=device)])
            optimizer.zero_grad()
            loss = vae.nats(x, torch.randn(batch_size, latent, device=device)).mean()
            loss.backward()
            optimizer.step()
        return loss.item()

    return run


def value_and_slopes(vae: VAE, x: np.ndarray, epsilon: np.ndarray) -> tuple[float, list[float]]:
    """The mean loss, and the norm of its gradient in each parameter, sorted."""
    loss = vae.nats(torch.tensor(x), torch.tensor(epsilon)).mean()
    slopes = torch.autograd.grad(loss, list(vae.parameters()))
    return loss.item(), sorted(float(slope.norm()) for slope in slopes)


def _linear(kernel: Any, bias: Any) -> nn.Linear:
    layer = nn.Linear(*np.shape(kernel))
    _load(layer, np.asarray(kernel).T, bias)
    return layer


def _load(layer: nn.Module, weight: Any, bias: Any) -> None:
    weight, bias = (torch.tensor(np.ascontiguousarray(a)) for a in (weight, np.asarray(bias)))
    layer.load_state_dict({"weight": weight, "bias": bias})
