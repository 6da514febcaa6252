"""What each loss and rule is for, shown on data built for it, over the stated seeds. Long: run by `make torture`."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from losses.fakes import session_of
from torch import nn
from torch.nn import functional as F

from hf_cl.contracts import Context, Outputs
from hf_cl.losses import EWC, BinaryCrossEntropy, EarlyLearning, FeatureDistillation, L2Anchor, PredictionDistillation, SelfDistillation
from hf_cl.losses.stablemax import stablemax_cross_entropy
from hf_cl.probes.softmax_collapse import collapsed
from hf_cl.rules import PerpGrad

pytestmark = pytest.mark.slow


def context(logits, labels, index, session, epoch=0, features=None, frozen=None):
    features = logits if features is None else features
    return Context({"labels": labels, "index": index}, (Outputs(features, logits, features),), session, epoch, 0, frozen)


def detached(ctx):
    return context(ctx.logits.detach(), ctx.labels, ctx.batch["index"], ctx.session, ctx.epoch)


def loop():
    return SimpleNamespace(accelerator=SimpleNamespace(device=torch.device("cpu"), num_processes=1), contexts=[])


# Staying near, after "A Closer Look at Rehearsal-Free Continual Learning": two sessions of four Gaussian classes
class TwoSessions(nn.Module):
    def __init__(self):
        super().__init__()
        self.feat = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
        self.last = nn.Linear(32, 8)

    def outputs(self, x):
        features = self.feat(x)
        return Outputs(features, self.last(features), features)


def drop_of_session_0(seed, make=None, weight=1.0):
    """Task-aware accuracy of session 0 before session 1, less that after it."""
    torch.manual_seed(seed)
    means = torch.randn(8, 12)
    labels = torch.arange(8).repeat_interleave(60)
    x, test = means[labels] + 0.7 * torch.randn(480, 12), means[labels] + 0.7 * torch.randn(480, 12)
    net, term = TwoSessions(), make() if make else None
    trainer = SimpleNamespace(model=net, tuner=SimpleNamespace(model=net), **vars(loop()))
    trainer.named_parameters = [(n.replace("last.", "head."), p) for n, p in net.named_parameters()]
    trainer.outputs_of = net.outputs
    accuracies = []
    for number in (0, 1):
        session = session_of(4 * (number + 1), 4)
        own = (labels // 4 == number).nonzero()[:, 0]
        trainer.batches_of = lambda dataset, own=own: iter([{"pixel_values": x[own], "labels": labels[own]}])
        previous = TwoSessions()
        previous.load_state_dict(net.state_dict())

        now = {}

        def frozen(role, view=-1, previous=previous, now=now):
            with torch.no_grad():
                return previous.outputs(now["x"])

        if term is not None:
            term.begin_session(trainer, session)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        main = BinaryCrossEntropy(classes="new")
        for _ in range(40):
            for rows in own[torch.randperm(len(own))].split(32):
                now["x"] = x[rows]
                out = net.outputs(now["x"])
                ctx = context(out.logits[:, : 4 * (number + 1)], labels[rows], rows, session, features=out.features, frozen=frozen)
                loss = main(ctx)
                if term is not None and number >= max(term.first_session, "previous" in term.needs):
                    loss = loss + weight * term(ctx)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        if term is not None:
            term.end_session(trainer, session)
        with torch.no_grad():
            first = labels < 4
            accuracies.append((net.outputs(test[first]).logits[:, :4].argmax(1) == labels[first]).float().mean().item())
    return accuracies[0] - accuracies[1]


def test_terms_that_stay_near_forget_less():
    for seed in range(5):
        none = drop_of_session_0(seed)
        drops = {
            "l2": drop_of_session_0(seed, lambda: L2Anchor(space="params"), 0.1),
            "ewc": drop_of_session_0(seed, EWC, 100.0),
            "features": drop_of_session_0(seed, FeatureDistillation, 5.0),
            "predictions": drop_of_session_0(seed, PredictionDistillation, 1.0),
        }
        assert none > 0.02, (seed, none)
        assert all(drop < none for drop in drops.values()), (seed, none, drops)
        assert drop_of_session_0(seed, lambda: L2Anchor(space="params"), 0.0) == none


# Labels that cannot be trusted, after ELR
def memorised(seed, kind):
    """(share of wrong labels that are predicted as such, clean test accuracy) with cross-entropy, ELR, or ELR on the noisy labels."""
    torch.manual_seed(seed)
    means = 0.5 * torch.randn(5, 40)
    labels = torch.arange(5).repeat_interleave(150)
    x, test = means[labels] + torch.randn(750, 40), means[labels] + torch.randn(750, 40)
    wrong = torch.rand(750) < 0.4
    noisy = torch.where(wrong, (labels + torch.randint(1, 5, (750,))) % 5, labels)
    net = nn.Sequential(nn.Linear(40, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 5))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.005, momentum=0.9, weight_decay=1e-3)
    term, session, trainer = EarlyLearning(weight=7.0, beta=0.9), session_of(5, 5, noisy.tolist()), loop()
    term.begin_session(trainer, session)
    for _ in range(80):
        for rows in torch.randperm(750).split(32):
            ctx = context(net(x[rows]), noisy[rows], rows, session)
            loss = F.cross_entropy(ctx.logits, ctx.labels)
            if kind == "elr":
                loss = loss + 7.0 * term(ctx)
            elif kind == "labels":  # the same term with the noisy label in the memory's place
                p = ctx.logits.softmax(-1).clamp(1e-4, 1 - 1e-4)
                loss = loss + 7.0 * (1 - p.gather(1, ctx.labels[:, None])[:, 0]).log().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            trainer.contexts = [detached(ctx)]
            term.after_step(trainer)
    with torch.no_grad():
        kept = (net(x)[wrong].argmax(1) == noisy[wrong]).float().mean().item()
        return kept, (net(test).argmax(1) == labels).float().mean().item()


def test_early_learning_does_not_memorise_wrong_labels():
    for seed in range(5):
        (plain, plain_test), (elr, elr_test), (control, _) = (memorised(seed, kind) for kind in ("plain", "elr", "labels"))
        assert elr < 0.5 < min(plain, control), (seed, elr, plain, control)
        assert elr_test > plain_test + 0.1, (seed, elr_test, plain_test)


# Confidence, after PS-KD
def fitted(seed, kind):
    """(expected calibration error, negative log-likelihood, accuracy) on test data."""
    torch.manual_seed(seed)
    means = torch.randn(6, 10)
    labels = torch.arange(6).repeat_interleave(30)
    x = means[labels] + 1.3 * torch.randn(180, 10)
    test_labels = torch.arange(6).repeat_interleave(400)
    test = means[test_labels] + 1.3 * torch.randn(2400, 10)
    net = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 6))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    term, session, trainer = SelfDistillation(epochs=60), session_of(6, 6, labels.tolist()), loop()
    term.begin_session(trainer, session)
    for epoch in range(60):
        term.begin_epoch(trainer, epoch)
        for rows in torch.randperm(180).split(32):
            ctx = context(net(x[rows]), labels[rows], rows, session, epoch)
            loss = term(ctx) if kind == "ps_kd" else F.cross_entropy(ctx.logits, ctx.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            trainer.contexts = [detached(ctx)]
            term.after_step(trainer)
    with torch.no_grad():
        p = net(test).softmax(-1)
    confidence, predicted = p.max(1)
    right = (predicted == test_labels).float()
    bins = (confidence * 15).ceil().long().clamp(1, 15) - 1
    error = sum((confidence[bins == b] - right[bins == b]).sum().abs().item() for b in range(15)) / len(test)
    return error, F.nll_loss(p.log(), test_labels).item(), right.mean().item()


def test_self_distillation_is_better_calibrated():
    for seed in range(5):
        (plain, plain_nll, plain_right), (error, nll, right) = fitted(seed, "plain"), fitted(seed, "ps_kd")
        assert error < plain and nll < plain_nll, (seed, error, plain, nll, plain_nll)
        assert right > plain_right - 0.02, (seed, right, plain_right)


# The edge of numerical stability: addition modulo 23, half of the pairs, no weight decay
def modular(seed, loss, epochs, rule=None):
    """(network, training pairs and sums, test pairs and sums, largest share of rows without a gradient)."""
    torch.manual_seed(seed)
    pairs = torch.cartesian_prod(torch.arange(23), torch.arange(23))
    sums = pairs.sum(1) % 23
    x = torch.cat([F.one_hot(pairs[:, 0], 23), F.one_hot(pairs[:, 1], 23)], 1).float()
    order = torch.randperm(len(x))
    train, test = order[: len(x) // 2], order[len(x) // 2 :]
    layers = [nn.Linear(*shape, bias=False) for shape in ((46, 128), (128, 128), (128, 23))]
    net = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, betas=(0.9, 0.99), weight_decay=0)
    named, silent = list(net.named_parameters()), 0.0
    for _ in range(epochs):
        logits = net(x[train])
        (gradient,) = torch.autograd.grad(loss(logits, sums[train]), logits, retain_graph=True)
        silent = max(silent, (gradient == 0).all(1).float().mean().item())
        optimizer.zero_grad()
        logits.backward(gradient)
        if rule is not None:
            rule.transform(named)
        optimizer.step()
    with torch.no_grad():
        return net(x[train]), sums[train], (net(x[test]).argmax(1) == sums[test]).float().mean().item(), silent


def test_softmax_collapses_and_stablemax_does_not():
    for seed in range(3):
        logits, labels, _, _ = modular(seed, F.cross_entropy, 2000)
        assert collapsed(logits, labels, torch.float32)[0] > 0.3 * len(labels), seed
        *_, silent = modular(seed, lambda z, y: stablemax_cross_entropy(z.double(), y).float(), 2000)
        assert silent == 0, seed


def test_the_perpendicular_gradient_generalises():
    for seed in range(3):
        *_, plain, _ = modular(seed, F.cross_entropy, 500)
        *_, perpendicular, _ = modular(seed, F.cross_entropy, 500, PerpGrad(scope="all"))
        assert plain < 0.05 and perpendicular > 0.3, (seed, plain, perpendicular)
