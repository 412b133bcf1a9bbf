"""Sampling loops in PyTorch, as users of `torch_writer.Writer` write them, and as careful ones do.

A `Stepper` is a network one step at a time, `(inputs [B, 3], state) -> (raw [B, P], state)`; a
`Draw` makes the next point `[B, 3]` from raw outputs. `loop` joins the two.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias, cast

# PyTorch comes with the extra `bench`: where it is missing, types are not checked against it.
import torch  # pyright: ignore[reportMissingImports]
from torch import distributions, nn  # pyright: ignore[reportMissingImports]
from torch_writer import Writer

Stepper: TypeAlias = Callable[[torch.Tensor, Any], tuple[torch.Tensor, Any]]
Draw: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


def modules_step(writer: Writer) -> Stepper:
    """The trained `nn.LSTM` modules, called for sequences of one point."""

    def step(inputs: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        x, hidden, after = inputs[:, None], [], []
        for layer, before in zip(writer.layers, state or [None] * len(writer.layers), strict=True):
            h, new = layer(torch.cat([x, *hidden[-1:]], dim=-1), before)
            hidden.append(h)
            after.append(new)
        return writer.output(torch.cat(hidden, dim=-1))[:, 0], after

    return step


def cells_step(writer: Writer) -> Stepper:
    """The same weights in `nn.LSTMCell`s, which are made for single steps."""
    cells = [_cell(cast(nn.LSTM, layer)) for layer in writer.layers]

    def step(inputs: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        hidden, after = [], []
        for cell, before in zip(cells, state or [None] * len(cells), strict=True):
            after.append(cell(torch.cat([inputs, *hidden[-1:]], dim=-1), before))
            hidden.append(after[-1][0])
        return writer.output(torch.cat(hidden, dim=-1)), after

    return step


def distributions_draw(num_components: int) -> Draw:
    """By `torch.distributions`: a component, its Gaussian, a Bernoulli."""
    k = num_components

    def draw(raw: torch.Tensor) -> torch.Tensor:
        chosen = distributions.Categorical(logits=raw[:, :k]).sample()
        s_x, s_y, mu_x, mu_y, r = _column(raw, chosen[:, None], k)
        # (dy, dx), in which the inverse of our factor is a lower triangle: see `torch_writer`.
        rows = [s_y.exp(), torch.zeros_like(r), -r * s_y.exp(), s_x.exp()]
        factor = torch.stack(rows, dim=-1).unflatten(-1, (2, 2))
        mean = torch.stack([mu_y, mu_x], dim=-1)
        offset = distributions.MultivariateNormal(mean, scale_tril=factor).sample().flip(-1)
        pen_up = distributions.Bernoulli(logits=raw[:, -1:]).sample()
        return torch.cat([offset, pen_up], dim=-1)

    return draw


def by_hand_draw(num_components: int) -> Draw:
    """The same with the fewest operations: no distribution objects, nothing validated."""
    k = num_components

    def draw(raw: torch.Tensor) -> torch.Tensor:
        chosen = torch.multinomial(raw[:, :k].softmax(dim=-1), 1)
        s_x, s_y, mu_x, mu_y, r = _column(raw, chosen, k)
        e_x, e_y = torch.randn(2, len(raw), device=raw.device)
        e_y = s_y.exp() * e_y
        dx, dy = mu_x + s_x.exp() * e_x - r * e_y, mu_y + e_y
        pen_up = (torch.rand_like(r) < raw[:, -1].sigmoid()).to(raw.dtype)
        return torch.stack([dx, dy, pen_up], dim=-1)

    return draw


def loop(step: Stepper, draw: Draw, first: torch.Tensor, num_points: int) -> torch.Tensor:
    """`[B, T, 3]` on the host: the first points, and those sampled after them."""
    with torch.inference_mode():
        points, state = [first], None
        for _ in range(num_points - 1):
            raw, state = step(points[-1], state)
            points.append(draw(raw))
        return torch.stack(points, dim=1).cpu()


def outputs(step: Stepper, inputs: torch.Tensor) -> torch.Tensor:
    """Raw outputs `[B, T, P]` for given inputs `[B, T, 3]`."""
    with torch.inference_mode():
        raw, state = [], None
        for x in inputs.unbind(dim=1):
            out, state = step(x, state)
            raw.append(out)
        return torch.stack(raw, dim=1).cpu()


def seconds_of_sum(num_bytes: int) -> Callable[[], Any]:
    """A sum over as many bytes of float32: nothing but reading them."""
    data = torch.ones(math.ceil(num_bytes / 4))
    return data.sum


def _column(raw: torch.Tensor, chosen: torch.Tensor, k: int) -> tuple[torch.Tensor, ...]:
    """What the chosen component's raw outputs are, `[B]` each: s_x, s_y, mu_x, mu_y, r."""
    rows = raw[:, k : 6 * k].unflatten(-1, (5, k))
    return rows.gather(2, chosen[:, :, None].expand(-1, 5, 1))[..., 0].unbind(dim=1)


def _cell(lstm: nn.LSTM) -> nn.LSTMCell:
    weight = lstm.weight_ih_l0
    cell = nn.LSTMCell(lstm.input_size, lstm.hidden_size, device=weight.device)
    own = dict(lstm.named_parameters())
    cell.load_state_dict({name: own[f"{name}_l0"] for name in cell.state_dict()})
    return cell
