"""transformers without what is never run here, for whoever needs the rest of it afterwards."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from transformers import LlamaConfig

from client.terminal import console
from proper_model.base.config import empty_model
from proper_model.base.outline import WeightsNowhere
from proper_model.errors import BaseModelError
from proper_model.kernels.transformers_parts import FEWER_PARTS


def in_python(code: str, *, fewer: str = "1") -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, FEWER_PARTS: fewer},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_who_needs_the_rest_gets_it_afterwards() -> None:
    assert (
        in_python(
            "import torch; before = torch.distributed.is_available()\n"
            "import proper_model.kernels.transformers_parts as parts\n"
            "assert torch.distributed.is_available() == before\n"
            "import sys; assert 'torch._dynamo' not in sys.modules and 'scipy' not in sys.modules\n"
            "import transformers as hf\n"
            "from transformers.utils import is_scipy_available\n"
            "import scipy, scipy.optimize; assert is_scipy_available()\n"
            "mask = hf.masking_utils.TransformGetItemToIndex()\n"
            "import torch._dynamo._trace_wrapped_higher_order_op as real\n"
            "assert isinstance(mask, real.TransformGetItemToIndex)\n"
            "assert torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)).item() == 2\n"
            "assert hf.CLIPConfig.__module__ == 'transformers.models.clip.configuration_clip'\n"
            "assert hf.__version__ == __import__('importlib.metadata').metadata.version('transformers')\n"
            "import transformers.activations, transformers.modeling_utils\n"
            "from proper_model.base.quantized import import_peft\n"
            "import_peft(); import peft, transformers.modeling_gguf_pytorch_utils\n"
            "import os; assert 'PROPER_FEWER_PARTS' not in os.environ\n"
            "assert parts.SiLUActivation is transformers.activations.SiLUActivation\n"
            "assert parts.ALL_ATTENTION_FUNCTIONS is transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS\n"
            "print('whole')"
        )
        == "whole"
    )


# As a transformers of later would whose import asks the compiler for something else.
FAILS_HALF_WAY = """
import sys
class Once:
    def find_spec(self, name, path=None, target=None):
        if name == "transformers.masking_utils":
            sys.meta_path.remove(self)
            raise AttributeError("one more mark")
sys.meta_path.insert(0, Once())
"""


@pytest.mark.parametrize(
    "other",
    [
        "import transformers.utils.import_utils as facts; del facts.is_scipy_available",
        "import torch._dynamo",
        "import transformers.modeling_utils",
        FAILS_HALF_WAY,
        "import importlib.metadata as m; real = m.version; "
        "m.version = lambda name: real(name) if name != 'transformers' or 'transformers' in sys.modules else 1 / 0",
    ],
)
def test_transformers_in_another_shape_is_imported_all_the_same(other: str) -> None:
    code = (
        f"{other}\n"
        "import proper_model.kernels.transformers_parts as parts\n"
        "import transformers, torch._dynamo, scipy.optimize\n"
        "torch._dynamo.config, torch._dynamo.disable(lambda: 0)\n"
        "print(parts.SiLUActivation.__module__, transformers.LlamaForCausalLM.__name__)"
    )
    assert in_python(code) == "transformers.activations LlamaForCausalLM"


def test_a_library_leaves_transformers_as_it_is() -> None:
    """It may be part of a process that compiles, or spreads a model over machines."""
    code = (
        "import sys\n"
        "import proper_model.kernels.transformers_parts, transformers.utils as utils\n"
        "import torch\n"
        "print('torch._dynamo' in sys.modules,"
        " utils.is_torch_distributed_available() == torch.distributed.is_available())"
    )
    assert in_python(code, fewer="0") == "True True"


def test_the_program_asks_for_it_by_the_same_name() -> None:
    assert console.FEWER_PARTS == FEWER_PARTS


def test_nothing_is_drawn_for_weights_that_are_nowhere() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with WeightsNowhere():
        linear, table = torch.nn.Linear(4, 3), torch.nn.Embedding(5, 2)
    assert linear.weight.is_meta and linear.bias.is_meta and table.weight.is_meta
    assert torch.equal(torch.get_rng_state(), state)


def test_a_description_takes_next_to_no_memory() -> None:
    """It may be a stranger's, of any width."""
    wide = {"hidden_size": 1 << 16, "num_hidden_layers": 2, "vocab_size": 1 << 20}
    model = empty_model(LlamaConfig(**wide))
    real = sum(x.nbytes for x in (*model.parameters(), *model.buffers()) if not x.is_meta)
    assert real < 2 << 20  # five norms, and positions
    for name in ("hidden_size", "head_dim"):
        with pytest.raises(BaseModelError, match=f"{name} is 1073741824, expected at most"):
            empty_model(LlamaConfig(**wide | {name: 1 << 30}))


def test_what_has_memory_is_drawn_as_ever() -> None:
    torch.manual_seed(3)
    expected = torch.nn.init.normal_(torch.zeros(4)), torch.zeros(4).uniform_()
    torch.manual_seed(3)
    with WeightsNowhere():
        found = torch.nn.init.normal_(torch.zeros(4)), torch.zeros(4).uniform_()
    assert all(map(torch.equal, found, expected))
