"""The handwriting network in PyTorch, as its users write it, with weights of ours.

The raw outputs mean what `strokes.stroke_head` says they mean. `MultivariateNormal` wants the lower
Cholesky factor of the covariance, ours is the upper one of the precision, diag(exp(-s)) (I + R):
with the coordinates in reverse order, (dy, dx), the inverse of ours is the lower factor

    [ exp(s_y)         0      ]
    [ -r exp(s_y)   exp(s_x)  ]
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# PyTorch comes with the extra `bench`: where it is missing, types are not checked against it.
import torch  # pyright: ignore[reportMissingImports]
from torch import distributions, nn  # pyright: ignore[reportMissingImports]


class Density(NamedTuple):
    """p(offset) over (dy, dx), and p(pen_up)."""

    offset: distributions.MixtureSameFamily
    pen_up: distributions.Bernoulli


class Writer(nn.Module):
    """LSTM layers with Graves' skip connections, and a linear output layer.

    Args:
        params: Of an `mdnjax.nets.LSTMStack` without peepholes with a linear output.
        num_components: K.
    """

    def __init__(self, params: Mapping[str, Any], num_components: int):
        super().__init__()
        self.num_components = num_components
        layers = [params["layers"][name] for name in sorted(params["layers"], key=int)]
        self.layers = nn.ModuleList(_lstm(layer["kernel"], layer["bias"]) for layer in layers)
        kernel, bias = params["output"]["kernel"], params["output"]["bias"]
        self.output = nn.Linear(*kernel.shape)
        self.output.load_state_dict(
            {"weight": torch.tensor(np.asarray(kernel).T), "bias": torch.tensor(np.asarray(bias))}
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Raw outputs `[B, T, P]` for inputs `[B, T, 3]`."""
        hidden: list[torch.Tensor] = []
        for layer in self.layers:
            below = inputs if not hidden else torch.cat([inputs, hidden[-1]], dim=-1)
            hidden.append(layer(below)[0])
        return self.output(torch.cat(hidden, dim=-1))

    def density(self, raw: torch.Tensor) -> Density:
        """What raw outputs `[..., P]` mean."""
        k = self.num_components
        logits, s_x, s_y, mu_x, mu_y, r, pen_up = raw.split([k] * 6 + [1], dim=-1)
        scale_x, scale_y = s_x.exp(), s_y.exp()
        rows = [scale_y, torch.zeros_like(r), -r * scale_y, scale_x]
        factor = torch.stack(rows, dim=-1).unflatten(-1, (2, 2))
        normal = distributions.MultivariateNormal(
            torch.stack([mu_y, mu_x], dim=-1), scale_tril=factor, validate_args=False
        )
        weights = distributions.Categorical(logits=logits, validate_args=False)
        return Density(
            distributions.MixtureSameFamily(weights, normal, validate_args=False),
            distributions.Bernoulli(logits=pen_up[..., 0], validate_args=False),
        )


def mean_nats(
    writer: Writer, inputs: torch.Tensor, offset: torch.Tensor, pen_up: torch.Tensor
) -> torch.Tensor:
    """-log p of the next points, the mean over all of them."""
    density = writer.density(writer(inputs))
    log_prob = density.offset.log_prob(offset.flip(-1)) + density.pen_up.log_prob(pen_up)
    return -log_prob.mean()


def training_step(
    writer: Writer, batch: Sequence[np.ndarray], *, learning_rate: float, clip: float
) -> Callable[[], float]:
    """A step of Adam behind a clip of the gradient's norm; each call takes one."""
    device = next(writer.parameters()).device
    tensors = [torch.tensor(array, device=device) for array in batch]
    optimizer = torch.optim.Adam(writer.parameters(), lr=learning_rate)

    def step() -> float:
        optimizer.zero_grad()
        nats = mean_nats(writer, *tensors)
        nats.backward()
        nn.utils.clip_grad_norm_(writer.parameters(), clip)
        optimizer.step()
        return nats.item()

    return step


def gradients(writer: Writer, batch: Sequence[np.ndarray]) -> tuple[float, dict[str, Any]]:
    """The loss and its gradient, in the structure and layout of the parameters it came from."""
    device = next(writer.parameters()).device
    nats = mean_nats(writer, *(torch.tensor(array, device=device) for array in batch))
    names = dict(writer.named_parameters())
    slopes = dict(zip(names, torch.autograd.grad(nats, list(names.values())), strict=True))
    host = {name: slope.cpu().numpy() for name, slope in slopes.items()}
    layers = {}
    for n in range(len(writer.layers)):
        of = f"layers.{n}."
        kernel = [host[of + "weight_ih_l0"].T, host[of + "weight_hh_l0"].T]
        layers[str(n)] = {"kernel": np.concatenate(kernel), "bias": host[of + "bias_ih_l0"]}
    output = {"kernel": host["output.weight"].T, "bias": host["output.bias"]}
    return nats.item(), {"layers": layers, "output": output}


def _lstm(kernel: Any, bias: Any) -> nn.LSTM:
    """A layer with our kernel `[F + H, 4H]`; the gates stand in the same order."""
    width = bias.shape[0] // 4
    to_gates = torch.tensor(np.asarray(kernel).T)
    lstm = nn.LSTM(kernel.shape[0] - width, width, batch_first=True)
    lstm.load_state_dict(
        {
            "weight_ih_l0": to_gates[:, :-width],
            "weight_hh_l0": to_gates[:, -width:],
            "bias_ih_l0": torch.tensor(np.asarray(bias)),
            "bias_hh_l0": torch.zeros(4 * width),
        }
    )
    return lstm
