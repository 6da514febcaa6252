"""A selective state-space projector of patch maps, and its scan in plain PyTorch.

Shapes: B batch, H W = L places of a map, D token width, M hidden width, d width of the scan, N states of a channel, R width of the step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_cl.heads.fitted import check_count
from hf_cl.heads.projectors import SLOPE

ScanForm = Literal["auto", "loop", "chunked"]
CHUNK = 64
"""Places that the chunked form takes at once."""
STEP = (1e-3, 0.1)
"""Between these, log-uniformly, the steps of a new block begin."""
EXTRAS = ("scan_gate", "scan_dt", "scan_b", "scan_c", "scan_dt_new", "scan_b_new", "scan_c_new")
"""Facts of each image that `SelectiveScanProjector` hands out where its branch for new classes runs: the branch's gate before SiLU, summed
over the four orders, [B, d, L]; of the first order the step before its projection [B, R, L] and the input and output maps of the state
[B, N, L], of the main branch and of that for new classes."""


def selective_scan(
    u: Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    chunked: bool = False,
) -> tuple[Tensor, Tensor]:
    """Mamba's scan (Gu, Dao, arXiv 2312.00752): `h_l = exp(delta_l A) h_(l-1) + delta_l u_l B_l`, `y_l = C_l h_l + D u_l`, times SiLU(z).

    The state's input is `delta B` and not the exact zero-order hold, as in Mamba's own code; softplus makes the steps positive.

    Args:
        u, delta, z: [B, d, L].
        a: [d, N], negative.
        b, c: [B, N, L].
        d, delta_bias: [d].
        chunked: within 64 places all states are computed together, by doubling, and no Python loop goes over tokens; else one place after
            the other, with less memory.

    Returns y [B, d, L], of the type of u, and the last state [B, d, N], in float32 at least, as everything in between.
    """
    kind, wide = u.dtype, torch.promote_types(u.dtype, torch.float32)
    with torch.autocast(u.device.type, enabled=False):  # products of many steps: in float32, as Mamba's
        u, delta, b, c = (tensor.to(wide) for tensor in (u, delta, b, c))
        delta = F.softplus(delta if delta_bias is None else delta + delta_bias[:, None])
        decays = (delta[..., None] * a[:, None]).exp()  # [B, d, L, N]
        inputs = (delta * u)[..., None] * b.transpose(1, 2)[:, None]  # [B, d, L, N]
        y, last = (_chunked if chunked else _loop)(decays, inputs, c)  # [B, d, L], [B, d, N]
        if d is not None:
            y = y + d[:, None] * u
        return (y if z is None else y * F.silu(z)).to(kind), last


def _loop(decays: Tensor, inputs: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    state, found = torch.zeros_like(inputs[:, :, 0]), []
    for decay, given, out in zip(decays.unbind(2), inputs.unbind(2), c.unbind(2), strict=True):
        state = torch.addcmul(given, decay, state)  # [B, d, N]
        found.append(state @ out[..., None])  # [B, d, 1]
    return torch.cat(found, 2), state


def _chunked(decays: Tensor, inputs: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    state, found = torch.zeros_like(inputs[:, :, :1]), []
    for decay, given, out in zip(decays.split(CHUNK, 2), inputs.split(CHUNK, 2), c.split(CHUNK, 2), strict=True):
        # The place before the chunk is its first. Then each place takes over what the one `reach` before it has gathered, which is
        # stable, since decays are below 1.
        passed, states = torch.cat([torch.ones_like(state), decay], 2), torch.cat([state, given], 2)
        reach = 1
        while reach < states.shape[2]:
            far, earlier = passed[:, :, reach:], states[:, :, :-reach]
            states = torch.cat([states[:, :, :reach], torch.addcmul(states[:, :, reach:], far, earlier)], 2)
            passed = torch.cat([passed[:, :, :reach], far * passed[:, :, :-reach]], 2)
            reach *= 2
        state = states[:, :, -1:]
        found.append((states[:, :, 1:] * out.transpose(1, 2)[:, None]).sum(-1))  # [B, d, chunk]
    return torch.cat(found, 2), state[:, :, 0]


class ScanBlock(nn.Module):
    """Mamba's block without its output projection: [B, L, E] -> [B, L, d], d = expand * E.

    Args:
        width: E.
        d_state, dt_rank, d_conv: N, R and the width of the causal convolution.
        silent: its gate's rows are zero, so that it gives zero until they have trained.
    """

    def __init__(self, width: int, d_state: int, dt_rank: int, expand: int, d_conv: int, silent: bool, **factory: Any) -> None:
        super().__init__()
        inner = expand * width
        self.sizes, self.d_conv = (dt_rank, d_state, d_state), d_conv
        self.in_proj = nn.Linear(width, 2 * inner, bias=False, **factory)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner, **factory)
        self.x_proj = nn.Linear(inner, sum(self.sizes), bias=False, **factory)
        self.dt_proj = nn.Linear(dt_rank, inner, **factory)
        states = torch.arange(1, d_state + 1, device=self.conv1d.weight.device, dtype=torch.float32).log()
        self.A_log = nn.Parameter(states.repeat(inner, 1).to(self.conv1d.weight.dtype))  # [d, N]
        self.D = nn.Parameter(torch.ones(inner, device=self.conv1d.weight.device, dtype=self.conv1d.weight.dtype))
        nn.init.uniform_(self.dt_proj.weight, -(dt_rank**-0.5), dt_rank**-0.5)
        with torch.no_grad():
            step = torch.empty_like(self.dt_proj.bias).uniform_(math.log(STEP[0]), math.log(STEP[1])).exp()
            self.dt_proj.bias.copy_(step + (-(-step).expm1()).log())  # softplus gives the step
            if silent:
                self.in_proj.weight[inner:].zero_()

    def forward(self, tokens: Tensor, orders: Tensor, chunked: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Places [B, L, E] in each of the orders [O, L] -> [B, O, L, d]; the gate [B, d, L] of the places, which no order changes, and of
        the first order the steps [B, R, L] and maps of the state [B, N, L] twice."""
        u, z = self.in_proj(tokens).chunk(2, 2)  # [B, L, d] each
        ordered = u[:, orders].flatten(0, 1).transpose(1, 2)  # [O B, d, L]
        gates = z[:, orders].flatten(0, 1).transpose(1, 2)
        x = F.silu(self.conv1d(F.pad(ordered, (self.d_conv - 1, 0))))
        dt, b, c = self.x_proj(x.transpose(1, 2)).transpose(1, 2).split(self.sizes, 1)
        delta = self.dt_proj.weight @ dt  # [O B, d, L]
        y, _ = selective_scan(x, delta, -self.A_log.exp(), b, c, self.D, gates, self.dt_proj.bias, chunked=chunked)
        count = len(orders)
        return y.transpose(1, 2).unflatten(0, (-1, count)), (z.transpose(1, 2), dt[::count], b[::count], c[::count])


class Branch(nn.Module):
    """A map [B, H, W, D] to a vector [B, d]: an MLP at each place, a position, the scan in four orders, their sum, the mean over places."""

    orders: Tensor
    """[4, L] places row by row, backwards, column by column, backwards."""

    def __init__(
        self, in_features: int, out_dim: int, grid: int, mid_dim: int, layers: int, block: dict[str, Any], silent: bool, **factory: Any
    ) -> None:
        super().__init__()
        widths = [in_features, *[mid_dim] * (layers - 1)]
        mlp: list[nn.Module] = []
        for before, after in pairwise(widths):
            mlp += [nn.Linear(before, after, **factory), nn.LayerNorm([grid, grid, after], **factory), nn.LeakyReLU(SLOPE)]
        self.mlp = nn.Sequential(*mlp, nn.Linear(widths[-1], out_dim, bias=False, **factory))
        self.position = nn.Parameter(torch.empty(grid * grid, out_dim, **factory))  # [L, E]
        nn.init.trunc_normal_(self.position, std=0.02)
        self.block = ScanBlock(out_dim, silent=silent, **block, **factory)
        rows = torch.arange(grid * grid, device=factory.get("device")).view(grid, grid)
        orders = (rows, rows.flip(0, 1), rows.T, rows.T.flip(0, 1))
        self.register_buffer("orders", torch.stack([order.flatten() for order in orders]), persistent=False)

    def forward(self, maps: Tensor, chunked: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """[B, H, W, D] -> [B, d], and the gate [B, d, L] summed over the orders, and steps and maps of the first order."""
        tokens = self.mlp(maps).flatten(1, 2) + self.position  # [B, L, E]
        found, (z, *first) = self.block(tokens, self.orders, chunked)  # [B, 4, L, d]
        return found.sum(1).mean(1), (len(self.orders) * z, *first)  # a mean over places needs no order


class SelectiveScanProjector(nn.Module):
    """Two branches and the mean token: `main(map) + R mean(map)`, and after session 0 `+ new(map)`; the second branch begins silent.

    Li et al., "Mamba-FSCIL: Dynamic Adaptation with Selective State Space Model for Few-Shot Class-Incremental Learning", arXiv 2407.06136.
    What is the same to all orders is computed once: the gate of an order is that of the others, brought to its places.

    Args:
        in_features, out_dim: D, E.
        grid: H = W.
        mid_dim: M; None: 2 D.
        layers, layers_new: of the two MLPs.
        d_state, dt_rank, d_conv: of the scan.
        form: of the scan; "auto": a loop on a CPU, which has less to wait for and less memory, and chunked on any other device.
    """

    def __init__(
        self,
        in_features: int,
        out_dim: int,
        grid: int,
        *,
        mid_dim: int | None = None,
        layers: int = 2,
        layers_new: int = 2,
        d_state: int = 16,
        dt_rank: int = 16,
        d_conv: int = 4,
        form: ScanForm = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, value, low in (
            ("layers", layers, 2),
            ("layers_new", layers_new, 2),
            ("d_state", d_state, 1),
            ("dt_rank", dt_rank, 1),
            ("d_conv", d_conv, 1),
        ):
            check_count("SelectiveScanProjector", name, value, low, 4096)
        if form not in ("auto", "loop", "chunked"):
            raise ValueError(f"SelectiveScanProjector: form must be auto, loop or chunked, got {form!r}.")
        factory: Any = {"device": device, "dtype": dtype}
        block = {"d_state": d_state, "dt_rank": dt_rank, "expand": 1, "d_conv": d_conv}
        sizes = (in_features, out_dim, grid, mid_dim or 2 * in_features)
        self.form, self.adapts = form, True
        self.main = Branch(*sizes, layers, block, silent=False, **factory)
        self.residual = nn.Linear(in_features, out_dim, bias=False, **factory)
        self.new = Branch(*sizes, layers_new, block, silent=True, **factory)
        self._facts: Sequence[Tensor] = ()

    def forward(self, maps: Tensor) -> Tensor:  # [B, H, W, D] -> [B, E]
        chunked = self.form == "chunked" or (self.form == "auto" and maps.device.type != "cpu")
        out, (_, *main) = self.main(maps, chunked)
        out = out + self.residual(maps.mean((1, 2)))
        if self.adapts:
            added, new = self.new(maps.detach(), chunked)
            out = out + added
            self._facts = (new[0], *main, *new[1:]) if self.training else ()
        return out

    def take_facts(self) -> dict[str, Tensor]:
        """By the names of `EXTRAS`, of the last forward in train mode; handed out once."""
        facts, self._facts = self._facts, ()
        return dict(zip(EXTRAS, facts, strict=False))
