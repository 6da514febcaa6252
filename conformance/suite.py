"""What pytest collects: peft's tests of custom models, with hf_cl's cases in place of peft's.

`python -m conformance` starts it with the unpacked source of peft on the path.
"""

from __future__ import annotations

from typing import Any

import pytest
import tests.test_custom_models as suite  # peft's
import tests.testing_common as common  # peft's
from peft import LoraConfig

from conformance.cases import BY_ID, CASES, IDENTITY, MERGING
from conformance.models import Models, inputs_for
from hf_cl.adapters.bases import ANY, SUPPORT, YES

for kind in ("GLAD", "ASYNC_LORA"):  # outside of this suite they are refused on models that hf_cl does not know
    SUPPORT[kind] = {**SUPPORT[kind], ANY: YES}
suite.TEST_CASES[:] = [(case.id, case.model_id, case.config, case.settings) for case in CASES]  # parametrize holds this very list


@pytest.fixture(autouse=True)
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Leave out what the case says, at the place where peft's own types do."""
    case = BY_ID[request.node.callspec.params["test_name"]]
    if IDENTITY in case.without and request.node.originalname in ("test_disable_adapters", "test_disable_adapters_with_merging"):
        pytest.skip(IDENTITY)
    if MERGING in case.without:
        for module in (suite, common):
            monkeypatch.setattr(module, "_skip_if_merging_not_supported", lambda *arguments: pytest.skip(MERGING))
    monkeypatch.setattr(suite, "set_init_weights_false", _not_identity)
    return case


def _not_identity(config: type, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings under which the adapter is no identity; peft's own version knows LoRA's field by the exact class."""
    return {**settings, "init_lora_weights" if issubclass(config, LoraConfig) else "init_weights": False}


def _ours(tests: type) -> dict[str, None]:
    """What a subclass has to hide: peft's tests that run on fixed types and not on the cases."""
    names = [name for name in vars(tests) if name.startswith("test_")]
    return {name: None for name in names if not _runs_on_cases(getattr(tests, name))}


def _runs_on_cases(test: Any) -> bool:
    return any(mark.name == "parametrize" and mark.args[1] is suite.TEST_CASES for mark in getattr(test, "pytestmark", ()))


class _OnOurModels:
    transformers_class = Models

    @pytest.fixture(autouse=True)
    def _model(self, case: Any) -> None:
        self.case = case

    def prepare_inputs_for_testing(self) -> dict[str, Any]:
        return {name: tensor.to(self.torch_device) for name, tensor in inputs_for(self.case.model_id).items()}


TestCustomModels = type("TestCustomModels", (_OnOurModels, suite.TestPeftCustomModel), _ours(suite.TestPeftCustomModel))
TestFsdpStateDict = type("TestFsdpStateDict", (_OnOurModels, suite.TestPeftFsdpStateDict), _ours(suite.TestPeftFsdpStateDict))
