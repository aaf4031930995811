"""What `--max-memory` promises, measured on the program itself in a process of its own.

The base is stored in bfloat16: 25 M numbers of embeddings and 41 M in linears take 126 MiB on disk,
252 in float32, 118 with the linears in 4 bits.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from client.home import Home
from client.person.load_for_training import PROCESS_BYTES
from client.releases.base_facts import base_facts
from client.releases.content import read_release
from client.releases.store import installed
from proper_model.base.quantized import import_library
from proper_model.federation.machine import high_water_bytes
from proper_model.model.adapted_model import AdaptedModel
from proper_model.release.contents import Release, shared_tensors
from proper_model.settings.presets import preset
from proper_model.settings.profile import BaseWeights
from proper_model.stages.user_embedding import published_embeddings
from proper_model.tasks.task import load_task
from simulations.synthetic.tiny_base import word_tokenizer
from tests.device_cli import Person, publish_release, write_jsonl
from tests.releases import SMALL, small_population, small_users

MIB = 1 << 20
needs_packing = pytest.mark.skipif(import_library() is None, reason="bitsandbytes is not installed")


def heavy_release() -> Release:
    """Untrained: only what it weighs matters."""
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=8,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    base = LlamaForCausalLM(config).to(torch.bfloat16)
    structure = dataclasses.replace(preset("device"), embedding_dim=8)
    drawn = AdaptedModel(base, structure, generator=torch.Generator().manual_seed(1))
    user = dataclasses.replace(SMALL.user, epochs=1, embedding_epochs=1, learning_rates=(1e-3,))
    settings = dataclasses.replace(SMALL, dtype="auto", user=user)
    table = torch.zeros(12, *drawn.embedding_shape)
    return Release(
        base=base,
        tokenizer=word_tokenizer(small_population().vocabulary),
        task=load_task("synth_tag"),
        structure=structure,
        settings=settings,
        seed=0,
        shared={**shared_tensors(drawn), **published_embeddings(table, settings, 0)},
        population={},
        notes={},
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_release(heavy_release(), tmp_path_factory.mktemp("heavy"))


def person_in(folder: Path, published: Path) -> Person:
    made = Person.make(folder)
    assert made.run("bundle", "add", published) == 0
    write_jsonl(folder / "items.jsonl", small_users()[1][0].history[:4])
    return made


@pytest.fixture(scope="module")
def person(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """One with a release, and nothing adapted: not for tests that adapt."""
    return person_in(tmp_path_factory.mktemp("person"), published)


def adapt(person: Person, *options: str) -> tuple[int, int, str]:
    """Exit code, highest resident memory and stderr of one `proper adapt`."""
    history = person.home.parent / "items.jsonl"
    command = [sys.executable, "-m", "client", *person.options(), "adapt", str(history), *options]
    peak = 0
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None:
            peak = max(peak, high_water_bytes(Path(f"/proc/{process.pid}/status")) or 0)
            time.sleep(0.02)
        assert process.stderr is not None
        said = process.stderr.read()
    return process.returncode, peak, said


def test_the_base_is_counted_as_it_will_be_held(person: Person) -> None:
    bundle = installed(person.home)
    assert bundle is not None
    facts = base_facts(Home(person.home), read_release(bundle))
    linears, rest = 12 * (4 * 512 * 512 + 3 * 512 * 1536), 49152 * 512 + 25 * 512
    assert (facts.own_weights, facts.width, facts.on_gpu) == (BaseWeights.FULL, 4, False)
    assert (sum(facts.shape.linears), facts.shape.rest) == (linears, rest)
    assert facts.held_bytes(BaseWeights.FULL) == 4 * (linears + rest)
    one = 4 * 512 * 1536
    assert facts.held_bytes(BaseWeights.FOUR_BIT) == linears * 9 // 16 + 4 * rest + one
    assert facts.shape.mapped_bytes == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="the base would lie in the GPU's memory")
@pytest.mark.full
@pytest.mark.parametrize(
    ("limit", "weights"),
    [(1060, "full"), pytest.param(940, "4bit", marks=needs_packing)],
)
def test_the_whole_process_stays_within_the_limit(
    published: Path, tmp_path: Path, limit: int, weights: str
) -> None:
    person = person_in(tmp_path, published)
    code, peak, said = adapt(person, "--max-memory", f"{limit / 1024}")
    assert code == 0, said
    assert f"base weights: {weights}" in said
    assert peak <= limit * MIB, f"{peak / MIB:.0f} MiB"


# Loads the base of a folder, then says how much memory that took at most, and what was there before.
LOADS = """
import sys
from pathlib import Path
import bitsandbytes, torch, transformers.models.llama.modeling_llama
from proper_model.checks.outside_base import load_base
from proper_model.settings.profile import BaseWeights
from proper_model.federation.machine import peak_memory_bytes
before = peak_memory_bytes()
load_base(sys.argv[1], tokenizer_from=sys.argv[2], device=torch.device("cpu"),
          weights=BaseWeights(sys.argv[3]))
print(peak_memory_bytes() - before)
"""


@needs_packing
def test_loading_peaks_at_what_is_held(person: Person) -> None:
    """In 4 bits the full base is never there: 41 M weights of 3.44 bytes less, 134 MiB."""
    bundle = installed(person.home)
    assert bundle is not None
    facts, peaks = base_facts(Home(person.home), read_release(bundle)), {}
    for weights in (BaseWeights.FULL, BaseWeights.FOUR_BIT):
        command = [sys.executable, "-W", "ignore", "-c", LOADS]
        places = [str(bundle.path / "base"), str(bundle.path / "tokenizer"), weights.value]
        done = subprocess.run(
            [*command, *places], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
        )
        peaks[weights] = int(done.stdout.split()[-1])
        most = facts.loading_bytes(weights) + 32 * MIB  # the tokenizer, code
        assert facts.shape.held_bytes(weights, 4) < peaks[weights] < most
    assert peaks[BaseWeights.FULL] - peaks[BaseWeights.FOUR_BIT] > 100 * MIB


def test_a_limit_below_the_base_is_refused_before_it_is_loaded(person: Person) -> None:
    code, peak, said = adapt(person, "--max-memory", "0.5")
    assert code != 0
    assert "--max-memory is too little" in said
    # The base alone is 252 MiB in float32; what a process takes without it varies by some 70.
    assert peak < PROCESS_BYTES + 160 * MIB
