"""A chat front end that people use, Gradio's, over a real `proper serve`.

It has an environment of its own, `make front-end`: its pins clash with those of the rest.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import openai
import pytest

from tests.serve_process import adapted_person, environment, serve_process
from tests.test_serving_clients import said, whole

FIRST, SECOND = "a clever prisoner digs a tunnel", "and a silent cell"


@pytest.mark.full
@pytest.mark.parametrize("system", ["", "answer with a tag"])
def test_gradio_chats(repository: Path, tmp_path: Path, system: str) -> None:
    python = repository / ".venv" / "front-end" / "bin" / "python"
    if not python.exists():
        pytest.skip("needs make front-end")
    with serve_process(adapted_person(tmp_path)) as serving:
        done = subprocess.run(
            [python, "-I", Path(__file__).parent / "front_end_child.py", "proper", system]
            + [FIRST, SECOND],
            capture_output=True,
            text=True,
            check=False,
            env=environment(
                BASE_URL=serving.base_url,
                TOKEN=serving.token,
                HOME=str(tmp_path),
                GRADIO_ANALYTICS_ENABLED="False",
                GRADIO_TEMP_DIR=str(tmp_path / "gradio"),
                HF_HUB_OFFLINE="1",
            ),
        )
        assert done.returncode == 0, done.stderr
        with openai.OpenAI(base_url=serving.base_url, api_key=serving.token) as client:
            before = [said("system", system)] if system else []
            first = whole(client, [*before, said("user", FIRST)])["text"]
            # Gradio says the system's text with the first message only.
            talk = [said("user", FIRST), said("assistant", first), said("user", SECOND)]
            second = whole(client, talk)["text"]
    assert json.loads(done.stdout) == [[first, second]] * 2
