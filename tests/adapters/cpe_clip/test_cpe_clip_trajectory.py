"""The official training over three sessions, replayed by the package's classes from the official order of the samples."""

from __future__ import annotations

import json
from itertools import islice

import cpe_reference as reference
import pytest
import torch
import two_towers
from accelerate import Accelerator

from hf_cl.adapters import CPEClipConfig
from hf_cl.contracts import Context, Outputs, Session
from hf_cl.methods.cpe_clip import cpe_clip

ARRAYS = reference.arrays("trajectory")
RECORDS = json.loads((reference.FOLDER / "trajectory.json").read_text())["result"]
RUN = reference.META["trajectory"]
PER_SESSION = reference.META["num_classes_per_session"]
REGULARIZATION = {"balance": "balance", "noreg": "none"}


def sessions():
    for i, count in enumerate(PER_SESSION):
        seen = reference.CLASS_NAMES[: sum(PER_SESSION[: i + 1])]
        yield Session(i, tuple(seen), tuple(seen[-count:]), train=None, tests=())  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", ["sdpa", "open_clip"])
@pytest.mark.parametrize("run", ["balance", "noreg"])
def test_three_sessions(run, kind):
    tolerance = reference.TOLERANCE["trajectory"][run]
    method = cpe_clip(
        adapter=CPEClipConfig(num_prompt_tokens=RUN["L"], class_names=reference.CLASS_NAMES[: PER_SESSION[0]]),
        base_epochs=RUN["base_epochs"],
        session_epochs=RUN["session_epochs"],
        lr_per_epoch=RUN["lr_per_epoch"],
        regularization=REGULARIZATION[run],
    )
    model = reference.adapted(kind, method.adapter, ARRAYS, f"{run}/init")
    classifier = reference.classifier(model)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    order, steps = iter(RECORDS[run]["order"]), iter(RECORDS[run]["steps"])
    accelerator = Accelerator(cpu=True)
    for session in sessions():
        if session.id > 0:
            two_towers.grow(classifier, list(session.new_class_names))
        classifier.head.training_classes = range(session.first_new_class, len(session.class_names))
        method.rule.begin_session(None, session)
        optimizer, schedule = method.optimizer(session, named)
        (phase,) = method.phases(session)
        images, labels = ARRAYS[f"train{session.id}/x"], ARRAYS[f"train{session.id}/y"]
        classifier.train()
        for epoch, positions in enumerate(islice(order, phase.epochs)):
            size = RUN["base_batch"] if session.id == 0 else RUN["session_batch"]
            for i in range(0, len(positions), size):
                chosen = positions[i : i + size]
                (optimizer.param_groups[0]["lr"],) = schedule(epoch, i // size)

                def losses(chosen=chosen, session=session, phase=phase, images=images, labels=labels):
                    outputs = Outputs(*classifier(images[chosen]))
                    context = Context({"labels": labels[chosen]}, (outputs,), session, 0, 0, frozen=None)
                    return {term.name: term(context) for term in phase.losses}

                found = method.rule.compute([losses], named, accelerator, classifier)
                method.rule.transform(named)
                wanted = next(steps)
                assert abs(float(found["cross_entropy"]) - wanted["loss"]) < tolerance["loss"]
                assert optimizer.param_groups[0]["lr"] == pytest.approx(wanted["lr"])
                norms = [float(p.grad.norm()) for p in reference.prompts(model).values()]
                assert norms == pytest.approx(wanted["grad_norm_scaled"], rel=1e-3)
                optimizer.step()
                optimizer.zero_grad()
        after = f"{run}/after{session.id + 1}"
        for name, parameter in reference.prompts(model).items():
            torch.testing.assert_close(parameter.detach(), ARRAYS[f"{after}/{name}"], atol=tolerance["params"], rtol=0)
        tests = torch.cat([ARRAYS[f"test{i}/x"] for i in range(session.id + 1)])
        with torch.no_grad():
            logits = classifier.eval()(tests)[1]
        torch.testing.assert_close(logits, ARRAYS[f"{after}/test_logits"], atol=tolerance["logits"], rtol=0)
    assert classifier.head.class_names == reference.CLASS_NAMES
    assert model.peft_config["default"].classes_per_session == PER_SESSION
    assert next(order, None) is None and next(steps, None) is None
