"""Gradio's chat over an OpenAI endpoint, driven by its own client; runs in the environment of `make front-end`.

    python front_end_child.py MODEL SYSTEM QUESTION...     (BASE_URL and TOKEN from the environment)

Prints a JSON list: for an interface that streams and one that does not, the answers to the questions in
turn, one conversation each.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """Ask, and print what was answered."""
    import gradio
    from gradio_client import Client

    model, system, *questions = sys.argv[1:]
    answers = []
    for streaming in (True, False):
        chat = gradio.load_chat(
            os.environ["BASE_URL"],
            model=model,
            token=os.environ["TOKEN"],
            file_types=None,
            system_message=system or None,
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
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
