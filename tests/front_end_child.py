"""Gradio's chat over an OpenAI endpoint, driven by its own client; runs in the environment of `make front-end`.

    python front_end_child.py MODEL QUESTION...     (BASE_URL and TOKEN from the environment)

Its last line is a JSON list: for an interface that streams and one that does not, the answers to the questions in
turn, one conversation each.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Ask, and print what was answered."""
    import gradio
    from gradio import external
    from gradio_client import Client

    written = external.format_conversation

    def as_the_page_does(history: list[dict[str, Any]], message: Any) -> Any:
        """Gradio's page makes parts of texts before they come here; its API, asked by a program, does not."""
        parts = [
            {**one, "content": [{"type": "text", "text": one["content"]}]}
            if isinstance(one["content"], str)
            else one
            for one in history
        ]
        return written(parts, message)

    external.format_conversation = as_the_page_does
    model, *questions = sys.argv[1:]
    answers = []
    for streaming in (True, False):
        chat = gradio.load_chat(
            os.environ["BASE_URL"],
            model=model,
            token=os.environ["TOKEN"],
            file_types=None,
            streaming=streaming,
            api_name="chat",
        )
        _, address, _ = chat.launch(
            server_name="127.0.0.1",
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            show_error=True,
        )
        person = Client(address, verbose=False)
        answers.append([person.predict(question, api_name="/chat") for question in questions])
        chat.close()
    sys.stdout.write("\n" + json.dumps(answers) + "\n")


if __name__ == "__main__":
    main()
